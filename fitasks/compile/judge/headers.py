"""Headers that ninja never hears of.

FlashInfer compiles C++ sources with `-MMD` and names its own include directories with `-isystem`, so that the depfile
of such a source leaves out FlashInfer's headers (nvcc's depfiles name them). The preprocessor is asked for all.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_WITH_VALUE = {"-o", "-MF"}


def system_headers(commands: Iterable[str], build_dir: Path) -> set[str]:
    """Every header that the sources of `-MMD` commands read; about half a second per C++ source."""
    found: set[str] = set()
    for command in commands:
        if " -MMD " in command:
            done = subprocess.run(_listing(command), cwd=build_dir, capture_output=True, text=True, check=False)
            found |= set(_prerequisites(done.stdout)) if done.returncode == 0 else set()
    return found


def _listing(command: str) -> list[str]:
    """The same command, preprocessing only, its dependencies on standard output."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word in _WITH_VALUE:
            next(words, "")
        elif word not in {"-MMD", "-c"}:
            kept.append(word)
    return [*kept, "-M"]


def _prerequisites(rule: str) -> list[str]:
    """The files of a make rule over several lines; blanks in their names are escaped."""
    _, _, files = rule.replace("\\\n", " ").partition(": ")
    return [name.replace("\\ ", " ") for name in re.findall(r"(?:\\ |\S)+", files)]
