"""A wheel's zip file, byte for byte the same for the same contents: fixed times, modes, order and compression."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.compile import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip file can say
_BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """A member: its name, its bytes or the file that has them, and the SHA-256 (hex) that they must have, if known."""

    name: str
    content: bytes | Path
    sha256: str = ""


def write_zip(path: Path, files: list[File], *, record: str) -> dict[str, int]:
    """Write `files`, sorted, then RECORD; atomically. Compressed bytes by member.

    Raises KernelFailure for a file that is not what its receipt says, OSError. What killed runs left beside it goes.
    """
    with scratch.writing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        lines = [_add(archive, file) for file in sorted(files, key=lambda file: _order(file.name))]
        _add(archive, File(record, "".join([*lines, f"{record},,\n"]).encode()))
        return {info.filename: info.compress_size for info in archive.infolist()}


def _order(name: str) -> tuple[bool, str]:
    """dist-info last, as the format recommends."""
    return ".dist-info/" in name, name


def _add(archive: zipfile.ZipFile, file: File) -> str:
    """Add one member; its line of RECORD."""
    info = zipfile.ZipInfo(file.name, _EPOCH)
    info.create_system = 3  # Unix, wherever this runs
    info.external_attr = (0o100755 if file.name.endswith(".so") else 0o100644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    digest, size = hashlib.sha256(), 0
    large = isinstance(file.content, Path) and file.content.stat().st_size >= zipfile.ZIP64_LIMIT
    with archive.open(info, "w", force_zip64=large) as member:
        for block in _blocks(file.content):
            member.write(block)
            digest.update(block)
            size += len(block)
    if file.sha256 and digest.hexdigest() != file.sha256:
        raise KernelFailure(f"{file.name} changed while it was read, or isn't what was built", remedy="doit")
    encoded = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return f"{file.name},sha256={encoded},{size}\n"


def _blocks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
