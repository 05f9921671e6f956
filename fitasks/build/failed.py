"""A compile that failed: from what, and with which error. Whoever compiles the same again fails the same way.

Written where a compiler or linker refused, not where it was killed, ran out of memory, disk or time; gone with the next
compile. The headers are those that the sources' `#include` lines lead to: of a file that didn't compile, ninja records
nothing.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from fitasks.cuda.needs import IncludeMemo, include_dirs, reachable
from fitasks.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.build.freshness import Judge
    from fitasks.plan.kernel import Kernel

NAME = "fitasks-failed.json"
_VERSION = 1


def remember(kernel: Kernel, judge: Judge, error: str) -> None:
    """Note that a compile of just this fails with `error`, one line."""
    read = reachable(kernel.sources, include_dirs(kernel.ninja), IncludeMemo())
    inputs = {path: state.digest for path in sorted(read) if (state := judge.contents.state(path))}
    with contextlib.suppress(OSError):  # only what the next prediction says depends on it
        write_atomic(_path(kernel), json.dumps(_made_from(kernel, judge) | {"inputs": inputs, "error": error}))


def remembered(kernel: Kernel, judge: Judge) -> str:
    """The error with which a compile would fail again; "" where none failed, or something has changed since."""
    try:
        note = json.loads(_path(kernel).read_bytes())
        same = all(note[key] == value for key, value in _made_from(kernel, judge).items())
        inputs, error = dict(note["inputs"]), str(note["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if not same or any(_digest(judge, path) != digest for path, digest in inputs.items()):
        return ""
    return error.partition("\n")[0]


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
