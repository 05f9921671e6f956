"""Where a kernel's files are until they are whole.

What a killed run has fetched stays, so that the next one goes on where it stopped:

    <place>/.fetch/<fingerprint>/    locked until the kernel is in the store, or the process ends

A second process that wants the same kernel meanwhile has a temporary directory of its own. So has one whose .fetch
others may write to, as nothing is taken from there.
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

    from fitasks.store.local import Store

NAME = ".fetch"
_DAY = 24 * 3600.0  # seconds after which nobody goes on with what a killed run left


@dataclass
class Staging:
    """A directory, until `close`."""

    path: Path
    _lock: contextlib.ExitStack
    _files: contextlib.ExitStack
    _lasting: bool = False

    def release(self) -> None:
        """No more comes: whoever wants the same may go on with what is here, where he can find it."""
        self._lock.close() if self._lasting else self.close()

    def close(self) -> None:
        """Remove it."""
        self._files.close()
        self._lock.close()


def staging(store: Store, fingerprint: str) -> Staging:
    """Return the directory for a kernel, below the store where only this user writes there. Raises OSError."""
    if others(store.root):
        return _temporary(None)
    path = store.root / NAME / fingerprint
    store.make(path)
    if others(path):
        return _temporary(None)
    lock, files = contextlib.ExitStack(), contextlib.ExitStack()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:  # whoever fetched it has just removed it
        return _temporary(store.root)
    lock.callback(os.close, descriptor)
    if not temporary.kept(descriptor):
        lock.close()
        return _temporary(store.root)
    files.callback(shutil.rmtree, path, ignore_errors=True)
    return Staging(path, lock, files, _lasting=True)


def _temporary(place: Path | None) -> Staging:
    files = contextlib.ExitStack()
    return Staging(files.enter_context(temporary.directory("fetch", place)), contextlib.ExitStack(), files)


def sweep(place: Path) -> None:
    """Remove what killed runs left a day ago."""
    if others(place / NAME):
        return
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
