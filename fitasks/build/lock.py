"""FlashInfer's own lock of a module: a server and a build never write the same module at once."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fitasks.errors import KernelFailure
from fitasks.streams import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ANNOUNCE = 1.0  # seconds of waiting before it is said aloud
_AGAIN = 30.0  # and then every so many
_TRY = 0.2  # length of one try, so that a stop is noticed


@contextlib.contextmanager
def module_lock(
    path: Path,
    *,
    timeout: float,
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the lock, as FlashInfer's JitSpec does (filelock: flock on `cached_ops/tmp/<name>.lock`).

    Raises KernelFailure when somebody else keeps it for more than `timeout` seconds, or on a stop.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    begin = time.monotonic()
    announce = begin + _ANNOUNCE
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=_TRY)
            break
        now = time.monotonic()
        if stopping() or now - begin > timeout:
            raise KernelFailure(
                f"waited {now - begin:.0f} s for {path}, held by {_named(holder(path))}",
                remedy="let that process finish, or end it, and run doit again; finished kernels stay finished",
            )
        if now > announce:
            (say or tell)(f"waiting for {path.name}, held by {_named(holder(path))}")
            announce = now + _AGAIN
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock now. A lock file that nobody holds is left as it is."""
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


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
