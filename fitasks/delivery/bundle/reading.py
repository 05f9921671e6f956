"""Reading a bundle's archive: tar in gzip, as a stream, where no member is believed.

Only plain files are taken, and only those that the manifest names, each once and with the size and hash that it
names. So an archive can't make this process write elsewhere, fill the disk or its memory, or wait for a device.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.wording import counted
from fitasks.compile.scratch import UNPACKED
from fitasks.delivery.bundle import manifest as manifests
from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.bundle.tar import BLOCK, REPACKED, Tar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from io import BufferedReader

    from fitasks.delivery.bundle.manifest import Manifest, PackedFile

DASH = Path("-")  # standard input, by convention
GZIP = b"\x1f\x8b"  # how a bundle begins

_MAGIC = (  # offset, bytes, what it is, the command that makes a bundle of it
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc {} | gzip > kernels.tar.gz"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "xz -dc {} | gzip > kernels.tar.gz"),
    (0, b"BZh", "compressed with bzip2", "bzip2 -dc {} | gzip > kernels.tar.gz"),
    (0, b"PK\x03\x04", "a zip file", ""),
    (257, b"ustar", "not compressed", "gzip {}"),
)
_ODD_NAMES = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ, errno.EINVAL, errno.ELOOP}


class Archive:
    """An open bundle. Its manifest comes first, then everything else at once."""

    def __init__(self, tar: Tar) -> None:
        self._tar = tar

    def manifest(self) -> Manifest:
        """Read the first member. Raises BundleRefused."""
        member = self._tar.next()
        if member is None or member.name != manifests.NAME:
            raise BundleRefused(f"its first member is not {manifests.NAME}", remedy=REPACKED)
        if not 0 <= member.size <= manifests.LIMIT:
            raise BundleRefused(f"its manifest has {member.size} bytes, more than {manifests.LIMIT}")
        return manifests.parse(b"".join(self._tar.chunks()))

    def unpack(self, manifest: Manifest, into: Path, architectures: Collection[str]) -> None:
        """Lay the files for `architectures` below the empty directory `into`, with their times.

        Of the others only name and size are compared. Raises BundleRefused, OSError.
        """
        missing = dict(manifest.files)
        while (member := self._tar.next()) is not None:
            entry = missing.pop(member.name, None)
            if entry is None:
                known = member.name in manifest.files
                raise BundleRefused(f"{member.name!r} is in it {'twice' if known else 'but not in its manifest'}")
            if member.size != entry.size:
                raise BundleRefused(f"{member.name!r} in it has {member.size} bytes, {entry.size} by its manifest")
            if member.name.partition("/")[0] in architectures:
                _lay(self._tar.chunks(), into, member.name, entry)
        if missing:
            lost = f"{counted(len(missing), 'file')} {'is' if len(missing) == 1 else 'are'} missing"
            raise BundleRefused(f"of its manifest {lost}, the first is {min(missing)!r}")
        self._tar.finish()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive in a file, or a pipe: it is opened and read once. `-` is standard input.

    Raises BundleRefused for one that is damaged or cut short, whenever that shows.
    """
    try:
        with _stream(path) as stream, gzip.GzipFile(fileobj=_of_no_other_kind(stream, path)) as raw:
            yield Archive(Tar(raw))
    except gzip.BadGzipFile as error:
        raise BundleRefused(f"it is no bundle, or damaged: {error}") from None
    except (EOFError, zlib.error) as error:
        raise BundleRefused(f"it is damaged or cut short: {error}") from None


def _stream(path: Path) -> BufferedReader:
    return open(0, "rb", closefd=False) if path == DASH else path.open("rb")


def _of_no_other_kind(stream: BufferedReader, path: Path) -> BufferedReader:
    """The stream, nothing of it read. Raises BundleRefused where it begins as another kind of archive does."""
    start = stream.peek(BLOCK)
    for offset, magic, kind, remedy in _MAGIC:
        if start[offset:].startswith(magic):
            raise BundleRefused(f"it is {kind}; a bundle is tar in gzip", remedy=remedy.format(path))
    return stream


def _lay(content: Iterable[bytes], into: Path, name: str, entry: PackedFile) -> None:
    """One file. Raises BundleRefused where the file system can't have such a name, OSError about where it unpacks."""
    try:
        _write(content, into / name, entry)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        if error.errno in _ODD_NAMES:
            raise BundleRefused(f"{name!r} in it can't be a file here: {error.strerror}") from None
        place = os.path.realpath(into / name).partition(f"/{UNPACKED}")[0]
        raise OSError(error.errno, error.strerror, place) from None


def _write(content: Iterable[bytes], path: Path, entry: PackedFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as stream:
        for chunk in content:
            digest.update(chunk)
            stream.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise BundleRefused(
            f"{path.name!r} in it is altered: "
            f"its hash is {digest.hexdigest()[:12]}, {entry.sha256[:12]} by its manifest"
        )
    if path.suffix == ".so":
        path.chmod(path.stat().st_mode | (path.stat().st_mode & 0o444) >> 2)  # as a linker does: x where there is r
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
