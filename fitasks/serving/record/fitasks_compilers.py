"""Which process is a compiler, and what it works on; those that Python itself starts, by subprocess's audit."""

from __future__ import annotations

import os
import re

import fitasks_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_COMPILERS = re.compile(
    r"nvcc|cicc|ptxas|cudafe\+\+|fatbinary|ninja|cc1plus|([\w.]+-)*(c\+\+|cc|g\+\+|gcc|clang(\+\+)?)(-\d+)?"
)


def name_of(words: Sequence[str], called: str = "") -> str:
    """The compiler that a process of this command is; "" if none.

    `called` is the kernel's name for it, of 15 characters: of a script, its own, and not the interpreter's.
    """
    names = [os.path.basename(word) for word in words[:3]]
    mine = names[:1] + [name for name in names[1:] if name[:15] == called]
    return next(filter(_COMPILERS.fullmatch, mine), "")


def work_of(name: str, words: Sequence[str], directory: str) -> str:
    """What a compiler works on: the directory that ninja is sent to, the first file that is named, or where it began.

    "" for one that is only asked what it is.
    """
    if "--version" in words:
        return ""
    if "-C" in words[:-1]:
        return os.path.basename(words[words.index("-C") + 1])
    given = (word for word in words[1:] if os.path.basename(word) != name)  # of a script, its interpreter's first word
    return os.path.basename(next((word for word in given if os.path.isfile(os.path.join(directory, word))), directory))


def started(program: Any, words: Any, directory: Any, trace: str) -> None:
    """Note a process that Python starts, as subprocess audits it, if it is a compiler."""
    given = [words] if isinstance(words, (str, bytes)) else list(words or [])
    command = [os.fsdecode(word) for word in given]
    name = name_of([os.fsdecode(program)] if program else command)
    if name and (work := work_of(name, command, os.fsdecode(directory or ""))):
        fitasks_lines.write(trace, f"{name} {work}", "compiler", "started")
