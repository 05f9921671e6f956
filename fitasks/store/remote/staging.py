"""Where a kernel's files are until they are whole.

What a killed run has fetched stays, so that the next one goes on where it stopped:

    <place>/.fetch/<fingerprint>/    locked while somebody fetches

A second process that wants the same kernel meanwhile has a temporary directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.trust import others

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = ".fetch"
_DAY = 24 * 3600.0  # seconds after which nobody goes on with what a killed run left


@dataclass
class Staging:
    """A directory, until `close`."""

    path: Path
    _lock: contextlib.ExitStack
    _files: contextlib.ExitStack

    def release(self) -> None:
        """All that is to come is here, or won't come: whoever wants the same may go on."""
        self._lock.close()

    def close(self) -> None:
        """Remove it."""
        self._files.close()
        self._lock.close()


def staging(place: Path, fingerprint: str) -> Staging:
    """Return the directory for a kernel, below `place` where only this user writes there. Raises OSError."""
    lock, kept = contextlib.ExitStack(), contextlib.ExitStack()
    if others(place):
        return Staging(kept.enter_context(temporary.directory("fetch")), lock, kept)
    path = place / NAME / fingerprint
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    lock.callback(os.close, descriptor)
    if not temporary.kept(descriptor):
        lock.close()
        return Staging(kept.enter_context(temporary.directory("fetch", place)), lock, kept)
    kept.callback(shutil.rmtree, path, ignore_errors=True)
    return Staging(path, lock, kept)


def sweep(place: Path) -> None:
    """Remove what killed runs left a day ago."""
    with contextlib.suppress(OSError):
        for path in _old(place / NAME):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if temporary.lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _old(place: Path) -> Iterator[Path]:
    before = time.time() - _DAY
    with os.scandir(place) as entries:
        yield from [Path(one.path) for one in entries if one.stat(follow_symlinks=False).st_mtime < before]
