"""A directory beside the destination, where a bundle is unpacked and proven before anything is moved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = ".fitasks-unbundle-"


@contextlib.contextmanager
def staging(beside: Path) -> Iterator[Path]:
    """An empty directory in `beside`, so on its file system; gone afterwards, with what a killed run left there.

    Raises EnvironmentProblem where another unbundle is at work there, OSError where it can't be made.
    """
    made = [place for place in (beside, *beside.parents) if not place.exists()]
    beside.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(beside):
            for left in beside.glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # not empty: the kernels have come
                place.rmdir()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _take(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EnvironmentProblem(
            f"another doit unbundle is at work in {directory}; nothing was changed",
            remedy="wait for its end",
        ) from None
