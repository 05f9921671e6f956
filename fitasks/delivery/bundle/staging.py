"""A directory beside the destination, where a bundle is unpacked and proven before anything is moved."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.delivery.bundle.here import Here


@contextlib.contextmanager
def staging(beside: Path) -> Iterator[Path]:
    """An empty directory in `beside`, so on its file system; gone afterwards, with what a killed run left there.

    Raises EnvironmentProblem where another unbundle is at work there, OSError where it can't be made.
    """
    made = [place for place in (beside, *beside.parents) if not place.exists()]
    beside.mkdir(parents=True, exist_ok=True)
    scratch.remove_leftovers(beside)
    try:
        with scratch.claimed(beside) as ours:
            if not ours:
                raise _busy(beside)
            place = Path(tempfile.mkdtemp(prefix=scratch.UNPACKED, dir=beside))
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)
    finally:
        for directory in made:
            with contextlib.suppress(OSError):  # not empty: the kernels have come
                directory.rmdir()


def sweep(here: Here) -> None:
    """Remove what killed runs left, wherever they may have unpacked."""
    for place in scratch.everywhere(here.plan, here.store.root):
        scratch.remove_leftovers(place)


def _busy(directory: Path) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"another doit unbundle is at work in {directory}; nothing was changed", remedy="wait for its end"
    )
