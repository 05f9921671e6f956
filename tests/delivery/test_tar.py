"""Tar's headers: what tarfile and GNU tar write of plain files is read, and every other header is refused."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING, Literal

import pytest

from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.bundle.tar import BLOCK, REPACKED, Tar

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "it is damaged or cut short: "
LONG = "90a/cached_ops/" + "é" * 130


def header(
    name: str = "x", kind: bytes = tarfile.REGTYPE, size: int = 0, form: Literal[0, 1, 2] = tarfile.GNU_FORMAT
) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(form)


def sealed(block: bytes) -> bytes:
    """The header with the checksum that it should have."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def edited(offset: int, field: bytes, block: bytes = b"") -> bytes:
    block = block or header()
    return sealed(block[:offset] + field + block[offset + len(field) :])


def read(data: bytes) -> dict[str, bytes]:
    tar = Tar(io.BytesIO(data))
    found = {}
    while (member := tar.next()) is not None:
        found[member.name] = b"".join(tar.chunks())
    tar.finish()
    return found


def problem(data: bytes) -> str:
    with pytest.raises(BundleRefused) as caught:
        read(data)
    return f"{caught.value.message} | {caught.value.remedy}".removesuffix(" | ")


FILES = {
    "manifest.json": b"{}",
    LONG: b"x" * 1000,
    "empty": b"",
    "block": b"y" * BLOCK,
    "é" * 40 + "/" + "b" * 60: b"z",
}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_tarfile_writes(form: int) -> None:
    files = {name: data for name, data in FILES.items() if form == tarfile.GNU_FORMAT or name != LONG}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert read(stream.getvalue()) == files


@pytest.mark.parametrize("form", ["gnu", "ustar"])
def test_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    if not shutil.which("tar"):
        pytest.skip("no tar on this machine")
    names = ["a.cu", "b.so", *([LONG.rpartition("/")[2][:120]] if form == "gnu" else [])]
    for name in names:
        (tmp_path / name).write_text(name * 300)
    command = ["tar", "-C", str(tmp_path), f"--format={form}", "-cf", "-", *names]
    done = subprocess.run(command, capture_output=True, check=True)
    assert read(done.stdout) == {name: (name * 300).encode() for name in names}


def test_what_nobody_reads_is_passed_over() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    tar = Tar(io.BytesIO(stream.getvalue()))
    names = []
    while (found := tar.next()) is not None:
        names.append(found.name)
        next(tar.chunks(), b"")
    assert names == list(FILES)
    tar.finish()


def test_every_kind_but_a_plain_file_is_refused() -> None:
    """By every letter there is, also of kinds that only some vendor's tar knows; also with contents."""
    for kind in (bytes([byte]) for byte in range(256)):
        for size in (0, 5, 1 << 40):
            plain = kind in {tarfile.REGTYPE, tarfile.AREGTYPE} or (kind == tarfile.GNUTYPE_LONGNAME and size == 5)
            said = DAMAGED if plain else "'n' in it is a "
            assert problem(header("n", kind, size)).startswith(said), (kind, size)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.DIRTYPE, f"'n' in it is a directory | {REPACKED}"),
        (tarfile.XHDTYPE, f"'n/' in it is a member of type 'x' | {REPACKED}"),
        (tarfile.XGLTYPE, f"'n/' in it is a member of type 'g' | {REPACKED}"),
        (tarfile.GNUTYPE_LONGLINK, "'n/' in it is a member of type 'K'"),
        (b"\xff", "'n/' in it is a member of type 'ÿ'"),
    ],
)
def test_how_they_are_called(kind: bytes, said: str) -> None:
    assert problem(header("n/", kind)) == said


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (b"", "empty file"),
        (b"x", "truncated header"),
        (header()[:-1], "truncated header"),
        (b"\0" * 100, "truncated header"),
        (b"y" * BLOCK, "invalid header"),
        (header()[:-1] + b"x", "bad checksum"),
        (b"y" + header()[1:], "bad checksum"),
        (header()[:148] + b"\0" * 8 + header()[156:], "invalid header"),  # no checksum, where there should be one
        (edited(257, b"\0" * 8), "invalid header"),  # tar of before POSIX: its directories are plain files
        (edited(257, b"USTAR"), "invalid header"),
        (edited(124, b"0o17"), "invalid header"),  # what Python's int() would take
        (edited(124, b"-1\0"), "invalid header"),
        (edited(124, b"1_0\0"), "invalid header"),
        (edited(124, b"8\0"), "invalid header"),
        (edited(124, b"\0" * 12), "invalid header"),
        (edited(124, b"7\0" + b"7" * 10), "invalid header"),
        (edited(124, b"\x81" + b"\0" * 11), "invalid header"),
        (header(size=1), "unexpected end of data"),
        (header(size=1 << 60), "unexpected end of data"),
        (header(), "no end"),
        (header(size=1) + b"x".ljust(BLOCK, b"\0"), "no end"),
        (header(kind=tarfile.GNUTYPE_LONGNAME, size=5), "unexpected end of data"),
    ],
)
def test_damage(block: bytes, said: str) -> None:
    assert problem(block) == DAMAGED + said


def test_every_byte_of_a_header_counts() -> None:
    """This bit makes no digit of a digit, and no blank of a blank."""
    block = header("90a/cached_ops/page/page.so", size=1 << 20)
    for position in range(BLOCK):
        turned = block[:position] + bytes([block[position] ^ 0x40]) + block[position + 1 :]
        assert problem(turned) in {DAMAGED + "bad checksum", DAMAGED + "invalid header"}, position


@pytest.mark.parametrize("size", [1 << 33, (1 << 62) + 5, -1, -(1 << 40)])
def test_sizes_in_base_256(size: int) -> None:
    """As GNU writes what eleven octal digits can't say; a negative one is for the caller to refuse."""
    member = Tar(io.BytesIO(header(size=size))).next()
    assert member
    assert member.size == size


LINK = header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2) + b"n\0".ljust(BLOCK, b"\0")


@pytest.mark.parametrize("after", [LINK, LINK * 5000, b"\0" * BLOCK], ids=["another", "thousands", "the end"])
def test_a_long_name_without_a_file(after: bytes) -> None:
    assert problem(LINK + after) == f"{DAMAGED}a long name without a file"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.XHDTYPE, tarfile.DIRTYPE])
def test_a_long_name_hides_no_other_kind(kind: bytes) -> None:
    assert problem(LINK + header("real", kind)).startswith("'real' in it is a ")
