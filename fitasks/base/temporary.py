"""Directories for temporary files, and how those that a killed run left are told from those in use.

Each is locked while it is in use, so that a later run may remove what isn't. Nobody's process id is asked: in a /tmp
that containers share it says nothing. Only names that we make are looked at: a directory that somebody called
fitasks-notes isn't touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = re.compile(
    r"\.?fitasks-(check|cudart|doctor|fetch|import|install|loader|ninja|nvcc|ops|plan|put|python|run|toolkit|verify|wheel)"
    r"-[a-z0-9_]{8}(-locked)?"
)
_USUAL = "/tmp"  # noqa: S108 # nosec B108
_MINUTE = 60.0  # seconds
_HOUR = 3600.0  # seconds for which nobody needs one that isn't locked: a serving script's, or an older fitasks'
_FILE = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")  # files.replacing()


_SWEPT: set[Path] = set()  # by this process


def home() -> Path:
    """Where temporary files go, as tempfile chooses it. Raises FileNotFoundError where there is no such place.

    tempfile tries a place out with a file of any name, which stays if the process is killed at that moment. So it is
    asked only where the first place that it would try can't be written to.
    """
    if not tempfile.tempdir:
        first = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), _USUAL)
        if os.path.isdir(first) and os.access(first, os.W_OK | os.X_OK):  # noqa: PTH112 - any text
            tempfile.tempdir = os.path.abspath(first)  # noqa: PTH100
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def directory(what: str, within: Path | None = None) -> Iterator[Path]:
    """A directory for temporary files, locked while it is in use; what killed runs left beside it goes first.

    `within` names the place, below TMPDIR otherwise. Raises OSError.
    """
    parent = within or home()
    if parent not in _SWEPT:
        sweep(parent)
    made, descriptor = _locked(parent, f"{'.' if within else ''}fitasks-{what}-")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def _locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make one; another, if it was swept before it was locked."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, suffix="-locked", dir=parent))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            if kept(descriptor) and made.exists():
                return made, descriptor
            os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Take the lock of an open file or directory, until it is closed; False where another process has it.

    Raises OSError on a file system without locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kept(descriptor: int) -> bool:
    """Lock what was just made; False where a sweeping process was quicker, and takes it away."""
    try:
        return lock(descriptor) and os.fstat(descriptor).st_nlink > 0
    except OSError:  # a file system without locks: nobody sweeps there either
        return True


def sweep(parent: Path | None = None) -> None:
    """Remove the directories for temporary files that killed runs of this user left in `parent`, or in TMPDIR."""
    place = parent or home()
    _SWEPT.add(place)
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        found = [Path(entry.path) for entry in entries if _OURS.fullmatch(entry.name)]
        for path in found:
            with contextlib.suppress(OSError):
                _remove_unused(path)


def _remove_unused(path: Path) -> None:
    """Of a directory that everybody may write to: only what is a directory, and this user's, as tempfile makes them."""
    state = path.lstat()
    ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
    if not ours or not (path.name.endswith("-locked") or time.time() - state.st_mtime > _HOUR):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if lock(descriptor):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def sweep_files(place: Path, name: str = "") -> None:
    """Remove what killed runs left of one file that they wrote, or of any in a place of ours: `.NAME.abcdefgh.tmp`."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        left = [entry.path for entry in entries if (of := _FILE.fullmatch(entry.name)) and name in {"", of[1]}]
        for path in left:
            with contextlib.suppress(OSError):
                remove_unlocked(Path(path))


def remove_unlocked(path: Path) -> None:
    """Remove a file, unless its writer is at work. Raises OSError.

    A link can't be locked: it is made and renamed at once.
    """
    if path.is_symlink():
        if time.time() - path.lstat().st_mtime > _MINUTE:
            path.unlink()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)
