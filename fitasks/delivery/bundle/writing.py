"""Writing a bundle's archive: tar in gzip, complete under a temporary name before it gets its own."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
from typing import IO, TYPE_CHECKING

from fitasks.base.errors import FitasksError
from fitasks.compile import scratch
from fitasks.delivery.bundle import manifest as manifests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.delivery.bundle.manifest import Manifest, PackedFile


def write(path: Path, manifest: Manifest, sources: dict[str, Path]) -> int:
    """Write the archive of a manifest and its files; its size. Raises OSError, FitasksError where a file changed."""
    with scratch.writing(path) as stream, _compressed(stream) as tar:
        text = manifests.to_json(manifest)
        tar.addfile(_member(manifests.NAME, len(text), 0), io.BytesIO(text))
        for name, entry in manifest.files.items():
            _add(tar, name, sources[name], entry)
    return path.stat().st_size


@contextlib.contextmanager
def _compressed(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Without file name and time in gzip's header, which would make equal bundles differ."""
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, source: Path, entry: PackedFile) -> None:
    with source.open("rb") as stream:
        reader = _Hashing(stream)
        tar.addfile(_member(name, entry.size, entry.mtime_ns // 10**9), reader)
    if reader.digest.hexdigest() != entry.sha256:
        raise FitasksError(
            f"{source} changed while it was bundled; no bundle was written", remedy="run doit, then doit bundle"
        )


def _member(name: str, size: int, mtime: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, mtime
    member.mode = 0o755 if name.endswith(".so") else 0o644
    return member


class _Hashing:
    """A file that hashes what is read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self.digest.update(data)
        return data
