"""The jobserver of a `make -jN` above us: its tokens, each worth one compiler.

GNU make 4.4 and later pass a fifo (`--jobserver-auth=fifo:PATH` in MAKEFLAGS), older ones the descriptors of a pipe
(`--jobserver-auth=3,4`), which make keeps from commands that aren't marked with `+`. A pipe is opened anew by its path
in /proc, since O_NONBLOCK on make's own description would hold for make as well. Besides the tokens in there whoever
make starts has one of its own, the implicit one.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_AUTH = re.compile(r"--jobserver-(?:auth|fds)=(?:fifo:(\S+)|(\d+),\d+)")
_JOBS = re.compile(r"-j([1-9]\d*)")


class MakeTokens:
    """Takes tokens without waiting, and gives them back; for one thread at a time."""

    def __init__(self, fifo: Path) -> None:
        self._descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._implicit = 1
        self._taken = bytearray()  # make's own bytes, which go back as they came

    def take(self, count: int) -> int:
        """As many as are to be had now, `count` at most."""
        taken = min(count, self._implicit)
        self._implicit -= taken
        try:
            while taken < count:
                self._taken += os.read(self._descriptor, 1)
                taken += 1
        except BlockingIOError:
            pass
        return taken

    def give(self, count: int) -> None:
        """Back to make first; the implicit one is what we keep."""
        for _ in range(count):
            if self._taken:
                os.write(self._descriptor, bytes([self._taken.pop()]))
            else:
                self._implicit += 1

    def close(self) -> None:
        """Give everything back."""
        self.give(len(self._taken))
        os.close(self._descriptor)


def parent_fifo(env: Mapping[str, str]) -> Path | None:
    """The fifo or pipe of a `make -jN` above us that is still held open; None where there is none to join."""
    words = _options(env)
    if words and not words[0].startswith("-") and "n" in words[0]:
        return None  # a dry run
    found = [match for word in words if (match := _AUTH.fullmatch(word))]
    if not found:
        return None
    path = Path(found[-1][1]) if found[-1][1] else _pipe(int(found[-1][2]))
    return path if path and path.is_fifo() and _is_held(path) else None


def make_jobs(env: Mapping[str, str]) -> int | None:
    """The N of the `make -jN` above us; None where it doesn't say (before make 4.2)."""
    found = [match for word in _options(env) if (match := _JOBS.fullmatch(word))]
    return int(found[-1][1]) if found else None


def _options(env: Mapping[str, str]) -> list[str]:
    """Of MAKEFLAGS; what comes after them are variables: `make V=--jobserver-auth=…`."""
    return env.get("MAKEFLAGS", "").partition(" -- ")[0].split()


def _pipe(descriptor: int) -> Path | None:
    """Of a descriptor that we were started with; what Python opens itself isn't inheritable (PEP 446)."""
    with contextlib.suppress(OSError):
        if os.get_inheritable(descriptor):
            return Path(f"/proc/self/fd/{descriptor}")
    return None


def _is_held(fifo: Path) -> bool:
    """Whether anybody has it open for reading: one whose make has ended would be waited for without end (ENXIO)."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
