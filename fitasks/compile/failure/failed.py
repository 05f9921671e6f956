"""A compile that failed: from what, and with which error. Whoever compiles the same again fails the same way.

Written where a compiler or linker refused, not where it was killed, ran out of memory, disk or time; gone with the next
compile. The headers are those that the sources' `#include` lines lead to: of a file that didn't compile, ninja records
nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypedDict

from fitasks.base import memo
from fitasks.base.files import write_atomic
from fitasks.cuda.needs import IncludeMemo, include_dirs, reachable

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.plan.kernel import Kernel

NAME = "fitasks-failed.json"
_VERSION = 2


class _Note(TypedDict):
    version: int
    commands: str
    toolchain: dict[str, str]
    ninja: str
    inputs: dict[str, str]  # path → SHA-256
    error: str


def remember(kernel: Kernel, judge: Judge, error: str) -> None:
    """Note that a compile of just this fails with `error`, one line."""
    read = reachable(kernel.sources, include_dirs(kernel.ninja), IncludeMemo())
    inputs = {path: state.digest for path in sorted(read) if (state := judge.contents.state(path))}
    with contextlib.suppress(OSError):  # only what the next prediction says depends on it
        write_atomic(_path(kernel), memo.sealed(_made_from(kernel, judge) | {"inputs": inputs, "error": error}))


def remembered(kernel: Kernel, judge: Judge) -> str:
    """The error with which a compile would fail again; "" where none failed, or something has changed since."""
    note = memo.read(_path(kernel), _Note)
    if note is None or any(note[key] != value for key, value in _made_from(kernel, judge).items()):
        return ""
    if any(_digest(judge, path) != digest for path, digest in note["inputs"].items()):
        return ""
    return str(note["error"]).partition("\n")[0]


def forget(kernel: Kernel) -> None:
    """Another compile begins, or another result is there."""
    _path(kernel).unlink(missing_ok=True)


def _path(kernel: Kernel) -> Path:
    return kernel.build_dir / NAME


def _made_from(kernel: Kernel, judge: Judge) -> dict[str, object]:
    return {"version": _VERSION, "commands": judge.commands(kernel), "toolchain": judge.toolchain, "ninja": judge.ninja}


def _digest(judge: Judge, path: str) -> str:
    state = judge.contents.state(path)
    return state.digest if state else ""
