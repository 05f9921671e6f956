"""Files: atomic writes and hashes. The lowest layer; imports nothing of fitasks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: Path, *, prefix: str = "", mode: int = 0o644, sync: bool = True) -> Iterator[IO[bytes]]:
    """A stream whose bytes replace `path` when the block is left; after an exception nothing is left of them.

    A reader, or a crash, sees the old file or the new one, never a part. The temporary file is beside the target, is
    called `.NAME.…` or `prefix…`, and is fsynced before the rename; parents are made. Without `sync` (it takes 80 ms on
    some disks) a machine that loses power may have an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=prefix or f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:  # about the file that was asked for
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(descriptor)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def write_atomic(path: Path, text: str, *, mode: int = 0o644, sync: bool = True) -> None:
    """Write `text`, UTF-8, in place of what `path` holds; see `replacing`."""
    with replacing(path, mode=mode, sync=sync) as stream:
        stream.write(text.encode())


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically only where the text differs, so that its timestamp means a change; say whether."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return False
    write_atomic(path, text)
    return True


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError."""
    with open(path, "rb") as stream:  # noqa: PTH123 - str as well, for thousands of headers
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
