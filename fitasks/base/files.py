"""Files: atomic writes and hashes. The lowest layer, but for temporary.py."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fitasks.base import temporary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_CHUNK = 1 << 20  # bytes
_LONGEST_NAME = 255  # bytes that Linux's file systems allow


@contextlib.contextmanager
def replacing(path: Path, *, prefix: str = "", mode: int = 0o644, sync: bool = True) -> Iterator[IO[bytes]]:
    """A stream whose bytes replace `path` when the block is left; after an exception nothing is left of them.

    A reader, or a crash, sees the old file or the new one, never a part. The temporary file is beside the target, is
    called `.NAME.…` or `prefix…`, is locked, and fsynced before the rename; parents are made. Without `sync` (which
    takes 80 ms on some disks) a machine that loses power may have an empty file. What is no file (a pipe, /dev/stdout)
    is written to.
    """
    if is_stream(path):
        with path.open("wb") as stream:
            yield stream
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, made = _begun(path, prefix)
    except OSError as error:
        raise _about(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(descriptor)
            os.fchmod(descriptor, mode)
            Path(made).replace(path)  # while it is locked: who writes the same file sweeps what isn't
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(made).unlink()
        if isinstance(error, OSError) and error.filename in {None, made}:
            raise _about(path, error) from None
        raise


def _begun(path: Path, prefix: str) -> tuple[int, str]:
    """A locked temporary file for `path`: its descriptor and name. What killed runs left of such goes first."""
    temporary.sweep_files(path.parent, path.name)
    while True:
        descriptor, made = tempfile.mkstemp(prefix=prefix or f".{path.name}.", suffix=".tmp", dir=path.parent)
        if temporary.kept(descriptor):
            return descriptor, made
        os.close(descriptor)  # somebody swept it before it was locked


def _about(path: Path, error: OSError) -> OSError:
    """The same error, about the file that was asked for."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def is_stream(path: Path) -> bool:
    """Whether this names a device, a pipe, or what a process has open (/dev/stdout): nothing to be replaced."""
    if not path.exists():  # nor a link that leads nowhere, or round in circles
        return False
    path = path.parent.resolve() / path.name
    if path.parts[1:2] == ("proc",):
        return True
    if path.is_symlink():
        return is_stream(path.parent / path.readlink())
    return not path.is_file() and not path.is_dir()


def write_atomic(path: Path, text: str, *, mode: int = 0o644, sync: bool = True) -> None:
    """Write `text`, UTF-8, in place of what `path` holds; see `replacing`."""
    with replacing(path, mode=mode, sync=sync) as stream:
        stream.write(text.encode())


def create(path: Path, text: str) -> None:
    """Write a new file, whole or not at all. Raises FileExistsError, and leaves what is there."""
    descriptor, made = _begun(path, "")
    with os.fdopen(descriptor, "wb") as stream:  # locked until it is closed: who writes the same file sweeps others'
        try:
            stream.write(text.encode())
            stream.flush()
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o644)
            _link(Path(made), path, text)
        finally:
            Path(made).unlink(missing_ok=True)


def _link(made: Path, path: Path, text: str) -> None:
    try:
        path.hardlink_to(made)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with path.open("x", encoding="utf-8") as new:
            new.write(text)


def remember(path: Path, text: str) -> None:
    """Write a memo atomically; a full or read-only disk keeps none, which costs time and no truth."""
    with contextlib.suppress(OSError):
        write_atomic(path, text)


@functools.cache
def ephemeral_directory() -> Path:
    """A directory that ends with this process, for what must be somewhere and can't be kept."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary.directory("run"))


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically only where the text differs, so that its timestamp means a change; say whether."""
    with contextlib.suppress(OSError), regular(path) as stream:
        if stream.read() == text.encode():
            return False
    write_atomic(path, text)
    return True


class NotRegularError(OSError):
    """There is something else than a regular file: `mode` says what."""

    def __init__(self, path: str | Path, mode: int) -> None:
        super().__init__(errno.EINVAL, "not a regular file", str(path))
        self.mode = mode


def regular(path: str | Path, *, follow: bool = True) -> BufferedReader:
    """Return a regular file, open for reading.

    Raises NotRegularError for anything else: a pipe would be waited for, a device read without end; unless `follow`,
    OSError for a link as well, which may lead to a file that isn't the writer's to show.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    descriptor = os.open(path, flags | (0 if follow else os.O_NOFOLLOW))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotRegularError(path, mode)
    return os.fdopen(descriptor, "rb")


def is_plain_name(name: str) -> bool:
    """Whether this can be the name of a file in a directory, and be shown: no path, nothing that a terminal obeys."""
    plain = name not in {"", ".", ".."} and "/" not in name and name.isprintable()
    return plain and len(name.encode()) <= _LONGEST_NAME


def copy_regular(source: Path, target: Path) -> None:
    """Copy a regular file, no link, to a new file with the same right to be executed. Raises OSError.

    A file system that can shares the blocks until one of the two is written (Btrfs, XFS).
    """
    with regular(source, follow=False) as data, target.open("xb") as stream:
        try:
            fcntl.ioctl(stream, _FICLONE, data.fileno())
        except OSError:
            shutil.copyfileobj(data, stream, _CHUNK)
        os.fchmod(stream.fileno(), os.fstat(data.fileno()).st_mode & 0o755)


def look(path: str | Path) -> list[int]:
    """Size, times (ns) and inode, which tell a file from what it was without reading it; [] where there is nothing."""
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError."""
    with open(path, "rb") as stream:  # noqa: PTH123 - str as well, for thousands of headers
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
