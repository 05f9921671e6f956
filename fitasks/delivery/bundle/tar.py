"""Reading tar: plain files, which GNU's long names may name, and nothing else of what tar can say.

tarfile obeys a header, reading extended ones into memory whole, before its caller sees it, and has no documented place
to look first. So the headers of 512 bytes are read here. https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fitasks.delivery.bundle.manifest import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase

BLOCK = 512
RECORD = 20 * BLOCK  # tar fills the last one with zeros
REPACKED = "take the file as doit bundle wrote it, not one that was packed again from its files"

_CHUNK = 1 << 20
_LONGEST_NAME = 4096
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_PLAIN, _LONG_NAME, _DIRECTORY = (b"0", b"\0"), b"L", b"5"
_OF_TAR = {_DIRECTORY, b"x", b"g"}  # what tar itself would write of a cache: directories and pax headers
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    _DIRECTORY: "a directory",
    b"6": "a fifo",
}


@dataclass(frozen=True)
class Member:
    """A file in it, by its header, of which nothing is believed: the size may be negative."""

    name: str
    size: int  # bytes
    kind: bytes


class Tar:
    """A stream of files. Each is read by `chunks`, or passed over by `next`."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream
        self._position = 0  # in the stream, bytes
        self._left = 0  # bytes of the present file that nobody has read

    def next(self) -> Member | None:
        """Return the next file, None behind the last. Raises BundleRefused for anything else, and damage."""
        member = self._member()
        if member is None or member.kind != _LONG_NAME:
            return member
        name = _text(b"".join(self.chunks()))
        named = self._member()
        if named is None or named.kind == _LONG_NAME:
            raise BundleRefused("it is damaged or cut short: a long name without a file")
        return replace(named, name=name)

    def chunks(self) -> Iterator[bytes]:
        """Read the present file, or the rest of it. Raises BundleRefused where the archive ends before."""
        while self._left > 0:
            chunk = self._read(min(_CHUNK, self._left))
            if not chunk:
                raise BundleRefused("it is damaged or cut short: unexpected end of data")
            self._left -= len(chunk)
            yield chunk

    def finish(self) -> None:
        """Read to the end, so that gzip compares its checksum. Raises BundleRefused where more follows than tar writes.

        `next` stops at the first of two closing blocks. The second one follows, and zeros that fill its record.
        """
        filling = BLOCK + -(self._position + BLOCK) % RECORD
        rest = self._read(filling + 1)
        if len(rest) > filling or rest.strip(b"\0"):
            raise BundleRefused("there is more behind its end")

    def _member(self) -> Member | None:
        """The next header, whose file is now the present one."""
        for _ in self.chunks():
            pass
        self._read(-self._position % BLOCK)
        block = self._read(BLOCK)
        if len(block) == BLOCK and not block.strip(b"\0"):
            return None
        member = _parse(block, at_start=self._position == len(block))
        self._left = member.size
        return member

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self._position += len(data)
        return data


def _parse(block: bytes, *, at_start: bool) -> Member:
    """A header's block. Raises BundleRefused unless it is a plain file's or a long name's, and undamaged."""
    if problem := _damage(block, at_start=at_start):
        raise BundleRefused(f"it is damaged or cut short: {problem}")
    member = Member(_name(block), _number(block[124:136]) or 0, block[156:157])
    long_name = member.kind == _LONG_NAME and 0 < member.size <= _LONGEST_NAME
    if member.kind not in _PLAIN and not long_name:
        kind = _KINDS.get(member.kind, f"a member of type {member.kind.decode('latin-1')!r}")
        name = member.name.rstrip("/") if member.kind == _DIRECTORY else member.name
        raise BundleRefused(f"{name!r} in it is {kind}", remedy=REPACKED if member.kind in _OF_TAR else "")
    return member


def _damage(block: bytes, *, at_start: bool) -> str:
    """What is wrong with a header's block, "" for one whose fields may be read."""
    if len(block) < BLOCK:
        return "truncated header" if block else "empty file" if at_start else "no end"
    checksum = _number(block[148:156])
    if checksum is None or _number(block[124:136]) is None:
        return "invalid header"
    if checksum != sum(block[:148]) + sum(b" " * 8) + sum(block[156:]):
        return "bad checksum"
    return "" if block[257:262] == b"ustar" else "invalid header"


def _name(block: bytes) -> str:
    """The name; POSIX's tar, unlike GNU's, has room for its beginning elsewhere."""
    name, prefix = _text(block[:100]), _text(block[345:500])
    return f"{prefix}/{name}" if prefix and block[262:263] == b"\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _number(field: bytes) -> int | None:
    """Octal digits, or, as GNU writes what these have no room for, base 256 behind a byte that says so."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    digits = _OCTAL.fullmatch(field)
    return int(digits[1], 8) if digits else None
