"""What a shell or a container allows a process (`ulimit`), told as an error where one of us has met it.

Whatever ran out, a traceback says where we noticed, and not what to raise.
"""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

_Limit = tuple[int, str, str, int]
# What is limited, how a message says it, ulimit's letter, and the bytes of its unit (1: a number of things).
_MEMORY = (resource.RLIMIT_AS, "kB of virtual memory", "v", 1024)
_FILES = (resource.RLIMIT_FSIZE, "kB in a file", "f", 1024)
_OPEN = (resource.RLIMIT_NOFILE, "open files", "n", 1)
_PROCESSES = (resource.RLIMIT_NPROC, "processes and threads of this user", "u", 1)
_BY_ERROR = {
    errno.EFBIG: (_FILES,),
    errno.EMFILE: (_OPEN,),
    errno.ENOMEM: (_MEMORY,),
    errno.EAGAIN: (_MEMORY, _PROCESSES),
}


def met(error: BaseException) -> EnvironmentProblem | None:
    """The error for a user, where this exception comes of a limit or of a want of memory; None for any other."""
    if isinstance(error, MemoryError):
        return _problem("no memory is left", (_MEMORY,))
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _problem("no thread can be started", (_MEMORY, _PROCESSES))
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return _problem(str(error.strerror), (_FILES,), "set TMPDIR to a directory that can be written to")
    if isinstance(error, OSError) and error.errno in _BY_ERROR:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        return _problem(said, _BY_ERROR[error.errno])
    return None


def in_force() -> str:
    """The limits of memory and of files' sizes, for a child that died without a word; "" where there are none."""
    return "; ".join(line for limit in (_MEMORY, _FILES) for line in _told(limit))


def _problem(said: str, limits: tuple[_Limit, ...], remedy: str = "") -> EnvironmentProblem:
    """With the first of these limits that is in force."""
    for limit in limits:
        for told in _told(limit):
            command = f"ulimit -{limit[2]} {'4096' if limit is _OPEN else 'unlimited'}"
            again = f"raise it in this shell ({command}) or container, and run doit again"
            return EnvironmentProblem(f"{said}; {told}", remedy=again)
    return EnvironmentProblem(said, remedy=remedy or "make room, and run doit again")


def _told(limit: _Limit) -> Iterator[str]:
    """`this process may have 400000 kB of virtual memory (ulimit -v)`; nothing where there is no limit."""
    number, what, letter, unit = limit
    soft, _ = resource.getrlimit(number)
    if soft != resource.RLIM_INFINITY:
        yield f"this process may have {soft // unit} {what} (ulimit -{letter})"
