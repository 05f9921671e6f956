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
import tarfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fitasks.ship import manifest as manifests
from fitasks.ship.manifest import Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from io import BufferedReader

    from fitasks.ship.manifest import Entry, Manifest

DASH = Path("-")  # standard input, by convention
GZIP = b"\x1f\x8b"  # how a bundle begins

_CHUNK = 1 << 20
_LONGEST_NAME = 4096
_MAGIC = (  # offset, bytes, what it is, the command that makes a bundle of it
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc {} | gzip > kernels.tar.gz"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "xz -dc {} | gzip > kernels.tar.gz"),
    (0, b"BZh", "compressed with bzip2", "bzip2 -dc {} | gzip > kernels.tar.gz"),
    (0, b"PK\x03\x04", "a zip file", ""),
    (257, b"ustar", "not compressed", "gzip {}"),
)
_REPACKED = "take the file as doit bundle wrote it, not one that was packed again from its files"
_OF_TAR = {tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE}  # what tar itself would write of a cache
_ODD_NAMES = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ, errno.EINVAL, errno.ELOOP}
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
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):  # tarfile would take it for the end
                raise Refused(f"it is damaged or cut short: {error}") from None
            raise
        plain = header.type in {tarfile.REGTYPE, tarfile.AREGTYPE}
        name = header.type == tarfile.GNUTYPE_LONGNAME and 0 < header.size <= _LONGEST_NAME
        if not plain and not name:
            kind = _KINDS.get(header.type, f"a member of type {header.type.decode('latin-1')!r}")
            raise Refused(f"{header.name!r} in it is {kind}", remedy=_REPACKED if header.type in _OF_TAR else "")
        return header


class Archive:
    """An open bundle. Its manifest comes first, then everything else at once."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def manifest(self) -> Manifest:
        """Read the first member. Raises Refused."""
        member = self._tar.next()
        if member is None or member.name != manifests.NAME:
            raise Refused(f"its first member is not {manifests.NAME}", remedy=_REPACKED)
        if not 0 <= member.size <= manifests.LIMIT:
            raise Refused(f"its manifest has {member.size} bytes, more than {manifests.LIMIT}")
        return manifests.parse(self._content(member).read())

    def unpack(self, manifest: Manifest, into: Path, architectures: Collection[str]) -> None:
        """Lay the files for `architectures` below the empty directory `into`, with their times.

        Of the others only name and size are compared. Raises Refused, OSError.
        """
        missing = dict(manifest.files)
        while (member := self._tar.next()) is not None:
            entry = missing.pop(member.name, None)
            if entry is None:
                known = member.name in manifest.files
                raise Refused(f"{member.name!r} is in it {'twice' if known else 'but not in its manifest'}")
            if member.size != entry.size:
                raise Refused(f"{member.name!r} in it has {member.size} bytes, {entry.size} by its manifest")
            if member.name.partition("/")[0] in architectures:
                _lay(self._content(member), into, member.name, entry)
        if missing:
            raise Refused(f"{len(missing)} files of its manifest are not in it, the first is {min(missing)!r}")
        self._refuse_more()

    def _refuse_more(self) -> None:
        """Read to the end, where gzip compares its checksum: tarfile stops at the first of the two closing blocks.

        What may follow is the second one and zeros that fill the record, which may be the record after that block.
        """
        filling = tarfile.BLOCKSIZE + -(self._tar.offset + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE
        rest = self._tar.fileobj.read(filling + 1) if self._tar.fileobj else b""
        if len(rest) > filling or rest.strip(b"\0"):
            raise Refused("there is more behind its end")

    def _content(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._tar.extractfile(member)
        if content is None:
            raise Refused(f"{member.name!r} in it is no plain file")
        return content


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive in a file, or a pipe: it is opened and read once. `-` is standard input.

    Raises Refused for one that is damaged or cut short, whenever that shows.
    """
    try:
        with (
            _stream(path) as stream,
            gzip.GzipFile(fileobj=_of_no_other_kind(stream, path)) as raw,
            tarfile.open(fileobj=raw, mode="r|", tarinfo=_Header, bufsize=tarfile.RECORDSIZE) as tar,
        ):
            yield Archive(tar)
    except gzip.BadGzipFile as error:
        raise Refused(f"it is no bundle, or damaged: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, RecursionError) as error:
        raise Refused(f"it is damaged or cut short: {error}") from None


def _stream(path: Path) -> BufferedReader:
    return open(0, "rb", closefd=False) if path == DASH else path.open("rb")


def _of_no_other_kind(stream: BufferedReader, path: Path) -> BufferedReader:
    """The stream, of which nothing has been read. Raises Refused where it begins as another kind of archive does."""
    start = stream.peek(tarfile.BLOCKSIZE)
    for offset, magic, kind, remedy in _MAGIC:
        if start[offset:].startswith(magic):
            raise Refused(f"it is {kind}; a bundle is tar in gzip", remedy=remedy.format(path))
    return stream


def _lay(content: IO[bytes], into: Path, name: str, entry: Entry) -> None:
    """One file. Raises Refused where the file system has no place for such a name, OSError about where it unpacks."""
    try:
        _write(content, into / name, entry)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        if error.errno in _ODD_NAMES:
            raise Refused(f"{name!r} in it can't be a file here: {error.strerror}") from None
        raise OSError(error.errno, error.strerror, str(into.parent)) from None


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
