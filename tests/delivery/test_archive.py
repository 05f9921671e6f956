"""The archive of a bundle by itself: its end, wherever tar's records put it, and streams that can be read only once."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from fitasks.delivery.bundle.manifest import BundleRefused, Manifest, PackedFile
from fitasks.delivery.bundle.reading import DASH, opened
from fitasks.delivery.bundle.writing import write

if TYPE_CHECKING:
    from pathlib import Path

NAME = "90a/generated/page/page.cu"
BLOCK, RECORD = 512, 10_240


def packed(directory: Path, size: int) -> Path:
    """A bundle of one file with that many bytes."""
    source, path = directory / "source", directory / "bundle"
    source.write_bytes(b"x" * size)
    entry = PackedFile(hashlib.sha256(source.read_bytes()).hexdigest(), size, 1)
    manifest = Manifest("0.7.2", "linux-x86_64", "", "1.13", "/site", "/cuda", {"90a": "/cache/90a"}, {NAME: entry})
    write(path, manifest, {NAME: source})
    return path


def unpack(path: Path, into: Path) -> bytes:
    with opened(path) as archive:
        archive.unpack(archive.manifest(), into, {"90a"})
    return (into / NAME).read_bytes()


@pytest.mark.parametrize("blocks", range(1, 21))
def test_an_archive_may_end_anywhere_in_a_record(tmp_path: Path, blocks: int) -> None:
    """For one of these sizes the second of tar's two closing blocks begins a record of its own."""
    assert unpack(packed(tmp_path, blocks * BLOCK), tmp_path / "out") == b"x" * blocks * BLOCK


@pytest.mark.parametrize("blocks", range(1, 21))
@pytest.mark.parametrize(
    "more", [b"x", b"\0" * BLOCK, b"\0" * RECORD, b"\0" * 3 * RECORD + b"x"], ids=["byte", "block", "record", "far"]
)
def test_more_behind_the_end_is_refused(tmp_path: Path, blocks: int, more: bytes) -> None:
    """Also as a second member of gzip, and zeros too, where they are more than tar writes."""
    path = packed(tmp_path, blocks * BLOCK)
    for index, data in enumerate((gzip.compress(gzip.decompress(path.read_bytes()) + more), gzip.compress(more))):
        other = tmp_path / f"other{index}"
        other.write_bytes(data if index == 0 else path.read_bytes() + data)
        with pytest.raises(BundleRefused, match="there is more behind its end"):
            unpack(other, tmp_path / f"out{index}")


@pytest.mark.parametrize("blocks", [1, 7, 20])
@pytest.mark.parametrize("length", [9, BLOCK, RECORD])
def test_rubbish_in_the_place_of_the_end_is_refused(tmp_path: Path, blocks: int, length: int) -> None:
    """A lenient reader of tar takes a header that is none for the end."""
    path = packed(tmp_path, blocks * BLOCK)
    content = gzip.decompress(path.read_bytes()).rstrip(b"\0")
    path.write_bytes(gzip.compress(content + b"y" * length))
    with pytest.raises(
        BundleRefused, match=r"it is damaged or cut short: (bad checksum|invalid header|truncated header)"
    ):
        unpack(path, tmp_path / "out")


def test_bytes_behind_gzips_own_end_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, BLOCK)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(BundleRefused, match="it is no bundle, or damaged: Not a gzipped file"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("length", [2 * RECORD, None], ids=["within a file", "at the end"])
def test_another_checksum_is_refused_wherever_it_shows(tmp_path: Path, length: int | None) -> None:
    """gzip's error is an OSError, and none about the place where a file is unpacked."""
    path = packed(tmp_path, 4 * RECORD)
    data = gzip.compress(gzip.decompress(path.read_bytes())[:length])
    path.write_bytes(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    with pytest.raises(BundleRefused, match="it is no bundle, or damaged: CRC check failed"):
        unpack(path, tmp_path / "out")


def test_a_bundle_comes_through_a_pipe(tmp_path: Path) -> None:
    """A pipe can be opened once, and gives what it has: here a few bytes at a time."""
    data = packed(tmp_path, 3 * RECORD).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def send() -> None:
        with pipe.open("wb", buffering=0) as stream:
            for start in range(0, len(data), 7):
                stream.write(data[start : start + 7])

    sender = threading.Thread(target=send)
    sender.start()
    assert unpack(pipe, tmp_path / "out") == b"x" * 3 * RECORD
    sender.join()


def test_a_dash_is_standard_input(tmp_path: Path) -> None:
    path = packed(tmp_path, BLOCK)
    before = os.dup(0)
    try:
        with path.open("rb") as stream:
            os.dup2(stream.fileno(), 0)
        assert unpack(DASH, tmp_path / "out") == b"x" * BLOCK
        assert os.fstat(0).st_size == path.stat().st_size, "it stays open"
    finally:
        os.dup2(before, 0)
        os.close(before)
