"""FlashInfer's own lock of a module: a server and a build never write the same module at once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.base.locks import acquired
from fitasks.base.streams import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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
    try:
        lock = acquired(path, timeout=timeout, stopping=stopping, say=say or tell)
    except EnvironmentProblem as error:
        raise KernelFailure(error.message, remedy=error.remedy) from None
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
