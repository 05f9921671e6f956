"""Locks between processes (flock): never waited for in silence, nor without end. A low layer, like files.py."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.streams import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 120.0  # seconds for another process to do what takes it a few
_ANNOUNCE = 1.0  # seconds of waiting before it is said aloud
_AGAIN = 30.0  # and then every so many
_TRY = 0.2  # length of one try, so that a stop is noticed


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock. Raises EnvironmentProblem when somebody else keeps it for more than two minutes, OSError."""
    lock = acquired(path, timeout=_PATIENCE)
    try:
        yield
    finally:
        lock.release()


def acquired(
    path: Path,
    *,
    timeout: float,
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = tell,
) -> FileLock:
    """The lock, held, to be released by the caller. Raises as `locked` does, also on a stop."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    begin = time.monotonic()
    announce = begin + _ANNOUNCE
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=_TRY)
            return lock
        now = time.monotonic()
        if stopping() or now - begin > timeout:
            raise EnvironmentProblem(
                f"waited {now - begin:.0f} s for {path}, held by {_named(holder(path))}",
                remedy="let that process finish, or end it, and run doit again; finished kernels stay finished",
            )
        if now > announce:
            say(f"waiting for {path.name}, held by {_named(holder(path))}")
            announce = now + _AGAIN


def holder(path: Path) -> int | None:
    """Pid of the process that holds a flock on `path`, as far as /proc/locks tells (not across containers)."""
    with contextlib.suppress(OSError, ValueError):
        stat = path.stat()
        wanted = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and "->" not in fields and wanted in fields:
                pid = int(fields[4])
                return pid if pid > 0 else None
    return None


def _named(pid: int | None) -> str:
    if pid is None:
        return "another process"
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        command = "".join(letter if letter.isprintable() else "?" for letter in " ".join(words))
        return f"pid {pid} ({command[:80]})"  # one line, whatever somebody calls his process
    return f"pid {pid}"
