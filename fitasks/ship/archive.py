"""Reading a bundle's archive: tar in gzip, as a stream, where no member is believed.

Only plain files are taken, and only those that the manifest names, each once and with the size and hash that it
names. So an archive can't make this process write elsewhere, fill the disk or its memory, or wait for a device.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import tarfile
import zlib
from typing import IO, TYPE_CHECKING

from fitasks.ship import manifest as manifests
from fitasks.ship.manifest import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.ship.manifest import Entry, Manifest

_CHUNK = 1 << 20
_LONGEST_NAME = 4096
_KINDS = {
    tarfile.DIRTYPE: "a directory",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a fifo",
}


class _Header(tarfile.TarInfo):
    """A header that is looked at before tarfile acts on it: it reads extended headers into memory, however large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        plain = header.type in {tarfile.REGTYPE, tarfile.AREGTYPE}
        name = header.type == tarfile.GNUTYPE_LONGNAME and 0 < header.size <= _LONGEST_NAME
        if not plain and not name:
            kind = _KINDS.get(header.type, f"a member of type {header.type.decode('latin-1')!r}")
            raise Refused(f"{header.name!r} in it is {kind}")
        return header


class Archive:
    """An open bundle. Its manifest comes first, then everything else at once."""

    def __init__(self, raw: gzip.GzipFile, tar: tarfile.TarFile) -> None:
        self._raw = raw
        self._tar = tar

    def manifest(self) -> Manifest:
        """Read the first member. Raises Refused."""
        member = self._tar.next()
        if member is None or member.name != manifests.NAME:
            raise Refused(f"its first member is not {manifests.NAME}")
        if not 0 <= member.size <= manifests.LIMIT:
            raise Refused(f"its manifest has {member.size} bytes, more than {manifests.LIMIT}")
        return manifests.parse(self._content(member).read())

    def unpack(self, manifest: Manifest, into: Path) -> None:
        """Lay all files below the empty directory `into`, with their times. Raises Refused, OSError."""
        missing = dict(manifest.files)
        while (member := self._tar.next()) is not None:
            entry = missing.pop(member.name, None)
            if entry is None:
                known = member.name in manifest.files
                raise Refused(f"{member.name!r} is in it {'twice' if known else 'but not in its manifest'}")
            if member.size != entry.size:
                raise Refused(f"{member.name!r} in it has {member.size} bytes, {entry.size} by its manifest")
            _write(self._content(member), into / member.name, entry)
        if missing:
            raise Refused(f"{len(missing)} files of its manifest are not in it, the first is {min(missing)!r}")
        if self._raw.read(1):  # to the end, where gzip compares its checksum
            raise Refused("there is more behind its end")

    def _content(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._tar.extractfile(member)
        if content is None:
            raise Refused(f"{member.name!r} in it is no plain file")
        return content


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive in a file. Raises Refused for one that is damaged or cut short, whenever that shows."""
    try:
        with (
            gzip.open(path) as raw,
            tarfile.open(fileobj=raw, mode="r|", tarinfo=_Header, bufsize=tarfile.RECORDSIZE) as tar,
        ):
            yield Archive(raw, tar)
    except gzip.BadGzipFile as error:
        raise Refused(f"it is no bundle, or damaged: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, RecursionError) as error:
        raise Refused(f"it is damaged or cut short: {error}") from None


def _write(content: IO[bytes], path: Path, entry: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as stream:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            stream.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise Refused(
            f"{path.name!r} in it is altered: "
            f"its hash is {digest.hexdigest()[:12]}, {entry.sha256[:12]} by its manifest"
        )
    if path.suffix == ".so":
        path.chmod(path.stat().st_mode | (path.stat().st_mode & 0o444) >> 2)  # as a linker does: x where there is r
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
