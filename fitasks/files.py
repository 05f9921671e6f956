"""Files: atomic writes and hashes. The lowest layer; imports nothing of fitasks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, text: str, *, mode: int = 0o644, sync: bool = True) -> None:
    """Write `text` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    The temporary file is beside the target and is fsynced before the rename; parents are made. Without `sync` (it takes
    80 ms on some disks) a machine that loses power may have an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


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
