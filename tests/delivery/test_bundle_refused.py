"""Every bad bundle: refused with its whole message, and not a byte of the destination is another than before."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import zlib
from functools import partial
from pathlib import Path
from sysconfig import get_platform
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.compile import receipt as receipts
from fitasks.compile.ninja.ninja import find_ninja
from fitasks.compile.pool.pool import Pool
from fitasks.cuda.probe import ProbeMemo
from fitasks.delivery.bundle.bundle import bundle
from fitasks.delivery.bundle.manifest import LIMIT, BundleRefused, PackedFile
from fitasks.delivery.bundle.reading import _lay
from fitasks.delivery.bundle.unbundle import unbundle
from tests.conftest import _environment
from tests.delivery.conftest import Place, snapshot
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

    Members = list[tuple[tarfile.TarInfo, bytes]]

SO = "90a/cached_ops/page/page.so"
RECEIPT = "90a/cached_ops/page/fitasks-receipt.json"
REPACKED = " | take the file as doit bundle wrote it, not one that was packed again from its files"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A cache whose kernel would be replaced by the bundle's: its receipt is lost after bundling."""
    root = tmp_path_factory.mktemp("place") / "root"
    root.mkdir()
    found = Place(Workshop(root, find_ninja(_environment(), ProbeMemo(root / "probe.json")), Pool(2)), ("page",))
    found.build()
    bundle(found.machine, root.parent / "good")
    receipts.path_of(found.kernels[0]).unlink()
    return found


@pytest.fixture(scope="module")
def good(place: Place) -> Path:
    return place.workshop.root.parent / "good"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return tmp_path / "bad"


def refused(place: Place, path: Path) -> str:
    """The whole message, without what every message of the kind begins and ends with."""
    before = snapshot(place.workshop.root)
    with pytest.raises(BundleRefused) as caught:
        unbundle(place.machine, path)
    assert snapshot(place.workshop.root) == before
    begin, end = f"{path} is refused: ", "; nothing was changed"
    assert caught.value.message.startswith(begin)
    assert caught.value.message.endswith(end)
    assert caught.value.remedy
    remedy = f" | {caught.value.remedy}".replace(" | copy it again, or make it again", "")
    return caught.value.message.removeprefix(begin).removesuffix(end) + remedy


def members_of(path: Path) -> Members:
    with tarfile.open(path) as archive:
        found = []
        for member in archive:
            content = archive.extractfile(member)
            assert content
            found.append((member, content.read()))
        return found


def pack(path: Path, members: Members, form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=form) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return path


def plain(name: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def with_manifest(good: Path, bad: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """The same archive with another manifest."""
    members = members_of(good)
    said = json.loads(members[0][1])
    edit(said)
    return pack(bad, [plain("manifest.json", json.dumps(said).encode()), *members[1:]])


def with_file(good: Path, bad: Path, name: str, data: bytes) -> Path:
    """One file altered, and the manifest with it: consistent in itself, as somebody would make it on purpose."""
    members = [plain(name, data) if member.name == name else (member, old) for member, old in members_of(good)]
    said = json.loads(members[0][1])
    said["files"][name] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    members[0] = plain("manifest.json", json.dumps(said).encode())
    return pack(bad, members)


def with_receipt(good: Path, bad: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    said = json.loads({member.name: data for member, data in members_of(good)}[RECEIPT])
    del said["seal"]
    edit(said)
    return with_file(good, bad, RECEIPT, json.dumps(said).encode())


def test_the_good_one_is_taken(place: Place, good: Path, bad: Path) -> None:
    """So that the refusals below are for their reasons."""
    pack(bad, members_of(good))
    before = snapshot(place.workshop.root)
    receipt = receipts.path_of(place.kernels[0])
    assert [arrival.went for arrival in unbundle(place.machine, bad).arrivals] == ["cache"]
    assert snapshot(place.workshop.root) != before
    receipt.unlink()


@pytest.mark.parametrize(
    ("field", "value", "message"),  # of the manifest, and the refusal
    [
        (
            "flashinfer",
            "0.7.1",
            (
                "it is for FlashInfer 0.7.1, the server here has 0.7.2.post1"
                " | make it where FlashInfer 0.7.2.post1 is, or install 0.7.1 here"
            ),
        ),
        (
            "platform",
            "linux-riscv64",
            f"it is for linux-riscv64, this machine is {get_platform()} | make it on {get_platform()}",
        ),
        (
            "version",
            4,
            (
                "its manifest has format version 4; this fitasks reads 1 to 3"
                " | make the bundle and take it with the same fitasks"
            ),
        ),
        ("format", "tar", "its manifest is not one of a fitasks bundle"),
        ("flashinfer", 7, "its manifest says nothing usable of flashinfer"),
        ("workspaces", {"../x": "/"}, "its manifest says nothing usable of workspaces"),
        ("workspaces", None, "its manifest says nothing usable of workspaces"),
        ("workspaces", {}, "its manifest says nothing usable of workspaces"),
        ("workspaces", {"90a": "/x\x1b[2J"}, "its manifest says nothing usable of workspaces"),
        ("glibc", "2." + "9" * 5000, "its manifest says nothing usable of glibc"),
        ("glibc", "two", "its manifest says nothing usable of glibc"),
        ("flashinfer", "0.7\n0.8", "its manifest says nothing usable of flashinfer"),
        ("platform", "\x1b]0;x\x07", "its manifest says nothing usable of platform"),
        ("cuda_home", "\ud800", "its manifest says nothing usable of cuda_home"),
        ("ninja", "1" * 5000, "its manifest says nothing usable of ninja"),
        ("kernels", [], "its manifest says nothing usable of kernels"),
        ("kernels", {"90a/page": {"op": "page"}}, "its manifest says nothing usable of kernels"),
        ("kernels", {"90a/page": {"op": "\x1b[2J", "params": {}}}, "its manifest says nothing usable of kernels"),
        ("kernels", {"90a/page": {"op": "page", "params": []}}, "its manifest says nothing usable of kernels"),
        (
            "kernels",
            {"90a/page": {"op": "page", "params": {"x": json.loads("[" * 500 + "]" * 500)}}},
            "its manifest says nothing usable of kernels",
        ),
        ("files", [], "its manifest says nothing usable of files"),
        ("files", {}, f"'{SO[:20]}.ninja_deps' is in it but not in its manifest"),
    ],
)
def test_another_version_platform_or_format(
    place: Place, good: Path, tmp_path: Path, *, field: str, value: object, message: str
) -> None:
    bad = with_manifest(good, tmp_path / "bad", lambda said: said.update({field: value}))
    assert refused(place, bad) == message


def test_another_glibc(place: Place, good: Path, bad: Path) -> None:
    ours = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[1]
    assert refused(place, with_manifest(good, bad, lambda said: said.update(glibc="2.99"))) == (
        f"its libraries need glibc 2.99, here is {ours} | make it on a system that is as old as this one"
    )


def test_another_architecture_set(place: Place, good: Path) -> None:
    other = Place(place.workshop, place.names, architecture="80_90a")
    assert refused(other, good) == (
        "it is for the architecture set 90a, kernels.yaml's targets here are 80_90a"
        " | give both places the same `targets`: FlashInfer looks at one set only, and all of it"
    )


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_cut_short(place: Place, good: Path, bad: Path, kept: float) -> None:
    data = good.read_bytes()
    bad.write_bytes(data[: int(len(data) * kept)])
    end = "Compressed file ended before the end-of-stream marker was reached" if kept else "empty file"
    assert refused(place, bad) == f"it is damaged or cut short: {end}"


def test_cut_short_and_packed_again(place: Place, good: Path, bad: Path) -> None:
    """Between two members, where tar alone notices nothing."""
    pack(bad, members_of(good)[:-2])
    assert refused(place, bad) == "of its manifest 2 files are missing, the first is '90a/generated/page/page_0.cpp'"


def test_every_altered_byte_is_noticed(place: Place, good: Path, bad: Path) -> None:
    """But those few bits of a deflate stream that mean nothing: it unpacks to the same bytes."""
    data = good.read_bytes()
    before, content = snapshot(place.workshop.root), gzip.decompress(data)
    for position in range(10, len(data), max(1, len(data) // 60)):
        bad.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with contextlib.suppress(OSError, EOFError, zlib.error):
            if gzip.decompress(bad.read_bytes()) == content:
                continue
        with pytest.raises(BundleRefused):
            unbundle(place.machine, bad)
    assert snapshot(place.workshop.root) == before


def test_an_altered_file(place: Place, good: Path, bad: Path) -> None:
    data = {member.name: content for member, content in members_of(good)}[SO]
    altered = data[:-1] + bytes([data[-1] ^ 1])
    pack(bad, [plain(SO, altered) if member.name == SO else (member, old) for member, old in members_of(good)])
    hashes = [hashlib.sha256(each).hexdigest()[:12] for each in (altered, data)]
    assert refused(place, bad) == f"'page.so' in it is altered: its hash is {hashes[0]}, {hashes[1]} by its manifest"


def test_a_file_of_another_size(place: Place, good: Path, bad: Path) -> None:
    size = next(member.size for member, _ in members_of(good) if member.name == SO)
    pack(bad, [plain(SO, b"x" * 9) if member.name == SO else (member, old) for member, old in members_of(good)])
    assert refused(place, bad) == f"'{SO}' in it has 9 bytes, {size} by its manifest"


def test_no_bundle_at_all(place: Place, bad: Path) -> None:
    bad.write_text("kernels\n")
    assert refused(place, bad) == "it is no bundle, or damaged: Not a gzipped file (b'ke')"
    pack(bad, [plain("page.so", b"x")])
    assert refused(place, bad) == f"its first member is not manifest.json{REPACKED}"
    bad.write_bytes(gzip.compress(b"kernels\n" * 200))
    assert refused(place, bad) == "it is damaged or cut short: invalid header"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/etc/cron.d/x/y", "an absolute path"),
        ("90a/cached_ops/../../../x", "which leads out of the cache"),
        ("90a/cached_ops/page/..", "which leads out of the cache"),
        ("90a/cached_ops/page.so", "which has no place in a cache"),
        ("80/cached_ops/page/page.so", "which has no place in a cache"),
        ("90a/other/page/page.so", "which has no place in a cache"),
        ("90a/cached_ops/tmp/page.lock", "where locks are"),
        ("90a/cached_ops/./page.so", "which is no plain path"),
        ("90a/cached_ops/page//x", "which is no plain path"),
        ("90a/cached_ops/page/x\n", "which is no plain path"),
        ("90a/cached_ops/page/\x1b[31m", "which is no plain path"),
        ("90a/cached_ops/page/\ud800", "which is no plain path"),
        (f"90a/cached_ops/page/{'é' * 128}", "which is no plain path"),
        (f"90a/cached_ops/page/{'x/' * 600}x", "which is too long a path"),
        (f"{SO}/x", "which is below a file"),
    ],
)
def test_a_manifest_with_a_path_that_leads_elsewhere(
    place: Place, good: Path, bad: Path, path: str, problem: str
) -> None:
    entry = {"sha256": "0" * 64, "size": 1, "mtime_ns": 1}
    pack_it = with_manifest(good, bad, lambda said: said["files"].update({path: entry}))
    assert refused(place, pack_it) == f"its manifest names {path!r:.300}, {problem}"


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "90a/cached_ops/page/more.o", "90a/cached_ops/page/../x"])
def test_a_member_that_the_manifest_does_not_name(place: Place, good: Path, bad: Path, name: str) -> None:
    pack(bad, [*members_of(good), plain(name, b"x")])
    assert refused(place, bad) == f"{name!r} is in it but not in its manifest"


def test_a_member_twice(place: Place, good: Path, bad: Path) -> None:
    members = members_of(good)
    pack(bad, [*members, members[-1]])
    assert refused(place, bad) == "'90a/generated/page/page_1.cpp' is in it twice"
    pack(bad, [members[0], *members])
    assert refused(place, bad) == "'manifest.json' is in it but not in its manifest"


def test_a_member_missing(place: Place, good: Path, bad: Path) -> None:
    pack(bad, [(member, data) for member, data in members_of(good) if member.name != SO])
    assert refused(place, bad) == f"of its manifest 1 file is missing, the first is '{SO}'"


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a fifo"),
        (tarfile.DIRTYPE, "a directory"),
        (tarfile.CONTTYPE, "a member of type '7'"),
        (tarfile.GNUTYPE_SPARSE, "a member of type 'S'"),
    ],
)
def test_links_devices_and_fifos(place: Place, good: Path, bad: Path, kind: bytes, called: str) -> None:
    """In the place of the library, so that the name alone is right."""
    special = tarfile.TarInfo(SO)
    special.type, special.linkname = kind, "/etc/passwd"
    pack(bad, [(special, b"") if member.name == SO else (member, data) for member, data in members_of(good)])
    assert refused(place, bad).removesuffix(REPACKED) == f"'{SO}' in it is {called}"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_extended_header_is_not_read_into_memory(place: Place, good: Path, bad: Path, kind: bytes) -> None:
    """Readers of tar take these whole, before anybody sees a member; this one unpacks to 200 MB."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with gzip.open(bad, "wb", compresslevel=1) as stream:
        member, data = members_of(good)[0]
        stream.write(member.tobuf(tarfile.GNU_FORMAT) + data + b"\0" * (-len(data) % 512))
        bomb = tarfile.TarInfo("bomb")
        bomb.type, bomb.size = kind, 200 << 20
        stream.write(bomb.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            stream.write(b"\0" * (1 << 20))
    assert refused(place, bad).removesuffix(REPACKED) == f"'bomb' in it is a member of type {kind.decode()!r}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # kilobytes


def test_a_chain_of_long_names(place: Place, good: Path, bad: Path) -> None:
    member, data = members_of(good)[0]
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 1
    one = link.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    start = member.tobuf(tarfile.GNU_FORMAT) + data + b"\0" * (-len(data) % 512)
    bad.write_bytes(gzip.compress(start + one * 5000))
    assert refused(place, bad) == "it is damaged or cut short: a long name without a file"


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 40, -1])
def test_a_manifest_of_absurd_size(place: Place, bad: Path, size: int) -> None:
    member = tarfile.TarInfo("manifest.json")
    member.size = size
    bad.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240))
    assert refused(place, bad) == f"its manifest has {size} bytes, more than {LIMIT}"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"7", b'"x"', b"[" * 100_000, b"\xff\xfe", b'{"format": "fitasks bundle", "version": "1"}'],
)
def test_a_manifest_that_is_none(place: Place, bad: Path, data: bytes) -> None:
    said = refused(place, pack(bad, [plain("manifest.json", data)]))
    assert said.partition(";")[0] in {
        "its manifest is damaged",
        "its manifest is not one of a fitasks bundle",
        "its manifest has format version '1'",
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"size": -1},
        {"size": 1 << 62},
        {"size": 1.5},
        {"mtime_ns": 1 << 63},
        {"mtime_ns": -1},
        {"sha256": "x" * 64},
        {"sha256": 1},
        {"mode": 0o4755},
    ],
)
def test_an_entry_that_means_nothing(place: Place, good: Path, bad: Path, entry: dict[str, object]) -> None:
    pack_it = with_manifest(good, bad, lambda said: said["files"][SO].update(entry))
    assert refused(place, pack_it) == f"its manifest says nothing usable of '{SO}'"


def test_sizes_beyond_the_disk(place: Place, good: Path, bad: Path) -> None:
    pack_it = with_manifest(good, bad, lambda said: said["files"][SO].update(size=1 << 60))
    said = refused(place, pack_it)
    assert said.startswith("it unpacks to 11529215046")
    assert said.endswith(" free | make room there")


def test_a_bomb_behind_the_end(place: Place, good: Path, bad: Path) -> None:
    with gzip.open(good) as stream:
        data = stream.read()
    bad.write_bytes(gzip.compress(data + b"\0" * (64 << 20)))
    assert refused(place, bad) == "there is more behind its end"
    bad.write_bytes(good.read_bytes() + gzip.compress(b"x" * 100))
    assert refused(place, bad) == "there is more behind its end"


def test_a_wrong_checksum_of_gzip(place: Place, good: Path, bad: Path) -> None:
    data = good.read_bytes()
    bad.write_bytes(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    assert refused(place, bad).startswith("it is no bundle, or damaged: CRC check failed")


def test_a_receipt_that_leads_elsewhere(place: Place, good: Path, bad: Path) -> None:
    """Names of outputs and the fingerprint become paths in the store."""
    problem = "the receipt of 90a/cached_ops/page"

    def adding(name: str, said: dict[str, Any]) -> None:
        said["outputs"][name] = {"sha256": "0" * 64, "size": 1, "mtime_ns": 1}

    for name in ("../../x", "/etc/passwd", "page_9.o"):
        packed = with_receipt(good, bad, partial(adding, name))
        assert refused(place, packed) == f"{problem} is not about the file {name!r} that the bundle holds"
    assert refused(place, with_receipt(good, bad, lambda said: said["outputs"].pop(".ninja_log"))) == (
        f"{problem} knows nothing of ninja's logs"
    )
    pack_it = with_receipt(good, bad, lambda said: said.update(fingerprint="../../../x"))
    other = "has another fingerprint than what it says of commands, toolchain and inputs"
    assert refused(place, pack_it) == f"{problem} {other}"
    pack_it = with_receipt(good, bad, lambda said: said.update(toolchain={"nvcc": "V1"}))
    assert refused(place, pack_it) == f"{problem} {other}"


def sealed(said: dict[str, Any], **fields: object) -> None:
    """Change a receipt, and its fingerprint with it."""
    said |= fields
    said["fingerprint"] = receipts.fingerprint(said["commands"], said["toolchain"], said["inputs"])


@pytest.mark.parametrize(
    "path",
    [
        "{ELSEWHERE}/x.h",
        "{CACHE}/generated/../../x.h",
        "{CACHE}/generated/page/..",
        "/usr//include/x.h",
        "/usr/./x.h",
        "/usr/include/",
        "/",
        "x.h",
        "{SITE}x.h",
        "/x\x1b[31m",
    ],
)
def test_a_receipt_with_an_input_that_leads_elsewhere(place: Place, good: Path, bad: Path, path: str) -> None:
    line = f"{'0' * 64} {path}"
    pack_it = with_receipt(good, bad, lambda said: sealed(said, inputs=f"{said['inputs']}\n{line}"))
    assert refused(place, pack_it) == (
        f"the receipt of 90a/cached_ops/page has an input that means nothing here: {line!r}"
    )


@pytest.mark.parametrize("path", ["/dev/zero", "{SITE}/nowhere.h", "{PYTHON}/Python.h", "/dev/stdin"])
def test_an_input_that_cannot_be_read_here_is_no_obstacle(place: Place, good: Path, bad: Path, path: str) -> None:
    """No root, no regular file: it is gone, and that is said."""
    line = f"{'0' * 64} {path}"
    pack_it = with_receipt(good, bad, lambda said: sealed(said, inputs=f"{said['inputs']}\n{line}"))
    (arrival,) = unbundle(place.machine, pack_it).arrivals
    assert arrival.note == f"{path}, which it was compiled from, is gone"
    assert not arrival.usable
    assert place.workshop.verdict(place.kernels[0]).verdict == "stale"
    receipts.path_of(place.kernels[0]).unlink()


@pytest.mark.parametrize(
    "fields",
    [
        {"toolchain": None},
        {"toolchain": {"nvcc": 13}},
        {"sealed_ns": "now"},
        {"sealed_ns": None},
        {"commands": 7},
        {"commands": "\ud800"},
        {"inputs": ["x"]},
        {"stamp": 1.5},
        {"notes": {"adopted_from": ["x"]}},
    ],
)
def test_a_receipt_with_a_field_of_another_type(place: Place, good: Path, bad: Path, fields: dict[str, object]) -> None:
    pack_it = with_receipt(good, bad, lambda said: said.update(fields))
    assert refused(place, pack_it) == "90a/cached_ops/page has no receipt that this fitasks can read"


@pytest.mark.parametrize("fields", [{"ninja": "1.13\x1b[2J"}, {"notes": {"adopted_from": "a\nb"}}, {"built": "\x9b1m"}])
def test_a_receipt_that_would_speak_to_the_terminal(
    place: Place, good: Path, bad: Path, fields: dict[str, Any]
) -> None:
    odd = next(iter(fields.values()))
    odd = odd["adopted_from"] if isinstance(odd, dict) else odd
    pack_it = with_receipt(good, bad, lambda said: said.update(fields))
    assert refused(place, pack_it) == f"the receipt of 90a/cached_ops/page says what can't be shown: {odd!r}"
    pack_it = with_receipt(good, bad, lambda said: sealed(said, toolchain={"nvcc": "\x07"}))
    assert refused(place, pack_it) == "the receipt of 90a/cached_ops/page says what can't be shown: '\\x07'"


def with_another_file(good: Path, bad: Path, name: str, data: bytes = b"x") -> Path:
    members = members_of(good)
    said = json.loads(members[0][1])
    said["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "mtime_ns": 1}
    return pack(bad, [plain("manifest.json", json.dumps(said).encode()), *members[1:], plain(name, data)])


@pytest.mark.parametrize("name", ["evil.sh", "fitasks-begun.json", "page_9.o", "more/page.o"])
def test_a_file_that_no_receipt_knows(place: Place, good: Path, bad: Path, name: str) -> None:
    pack_it = with_another_file(good, bad, f"90a/cached_ops/page/{name}")
    assert refused(place, pack_it) == f"the receipt of 90a/cached_ops/page knows nothing of the file {name!r} beside it"


def test_an_output_that_no_build_makes(place: Place, good: Path, bad: Path) -> None:
    other = with_another_file(good, bad, "90a/cached_ops/page/evil.sh")
    output = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1, "mtime_ns": 1}
    pack_it = with_receipt(other, bad.with_name("worse"), lambda said: said["outputs"].update({"evil.sh": output}))
    assert refused(place, pack_it) == (
        "the receipt of 90a/cached_ops/page has 'evil.sh' as an output, which no build makes"
    )


def test_a_generated_source_that_the_kernel_was_not_made_from(place: Place, good: Path, bad: Path) -> None:
    pack_it = with_file(good, bad, "90a/generated/page/page_0.cpp", b"int other;\n")
    assert refused(place, pack_it) == (
        "the receipt of 90a/cached_ops/page is not about the source 'page/page_0.cpp' that the bundle holds"
    )


@pytest.mark.parametrize("name", ["page/evil.h", "evil/evil.cu", "page/page_0.cpp.orig", "page/more/x.h"])
def test_generated_files_that_no_receipt_knows(place: Place, good: Path, bad: Path, name: str) -> None:
    pack_it = with_another_file(good, bad, f"90a/generated/{name}")
    assert refused(place, pack_it) == f"no receipt in it knows of the file '90a/generated/{name}'"


def test_generated_files_of_a_set_without_kernels(place: Place, good: Path, bad: Path) -> None:
    members = [(member, data) for member, data in members_of(good) if "/cached_ops/" not in member.name]
    said = json.loads(members[0][1])
    said["files"] = {name: entry for name, entry in said["files"].items() if "/cached_ops/" not in name}
    members[0] = plain("manifest.json", json.dumps(said).encode())
    message = "no receipt in it knows of the file '90a/generated/page/page_0.cpp'"
    assert refused(place, pack(bad, members)) == message


def test_a_kernel_without_its_ninja_file(place: Place, good: Path, bad: Path) -> None:
    """FlashInfer writes it anew, but the package of `--wheel` is audited by it."""
    name = "90a/cached_ops/page/build.ninja"
    members = [(member, data) for member, data in members_of(good) if member.name != name]
    said = json.loads(members[0][1])
    del said["files"][name]
    members[0] = plain("manifest.json", json.dumps(said).encode())
    assert refused(place, pack(bad, members)) == f"{name.rpartition('/')[0]} has no build.ninja"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("zstd -q --stdout", "compressed with zstd; a bundle is tar in gzip | zstd -dc {} | gzip > kernels.tar.gz"),
        ("xz --stdout", "compressed with xz; a bundle is tar in gzip | xz -dc {} | gzip > kernels.tar.gz"),
        ("bzip2 --stdout", "compressed with bzip2; a bundle is tar in gzip | bzip2 -dc {} | gzip > kernels.tar.gz"),
        ("cat", "not compressed; a bundle is tar in gzip | gzip {}"),
    ],
)
def test_another_compression(place: Place, good: Path, bad: Path, command: str, said: str) -> None:
    words = command.split()
    plain_tar = gzip.decompress(good.read_bytes())
    if shutil.which(words[0]):
        bad.write_bytes(subprocess.run(words, input=plain_tar, capture_output=True, check=True).stdout)
    else:
        bad.write_bytes({"zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0", "bzip2": b"BZh9"}[words[0]])
    assert refused(place, bad) == f"it is {said.format(bad)}"


def test_packed_again_with_tar(place: Place, good: Path, bad: Path, tmp_path: Path) -> None:
    """Its directories, and files in another order."""
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xzf", good, "-C", unpacked], check=True)
    subprocess.run(["tar", "-czf", bad, "-C", unpacked, "."], check=True)
    assert refused(place, bad) == f"'.' in it is a directory{REPACKED}"


def test_names_that_this_file_system_does_not_take(tmp_path: Path) -> None:
    """Those that the manifest's own rules let pass, where one file is in the way of another."""
    (tmp_path / "90a").write_text("")
    with pytest.raises(BundleRefused) as caught:
        _lay(io.BytesIO(b""), tmp_path, "90a/x", PackedFile("0" * 64, 0, 1))
    assert str(caught.value) == "'90a/x' in it can't be a file here: File exists"


def test_a_receipt_of_another_fitasks(place: Place, good: Path, bad: Path) -> None:
    pack_it = with_receipt(good, bad, lambda said: said.update(version=99))
    assert refused(place, pack_it) == "90a/cached_ops/page has no receipt that this fitasks can read"


def test_a_library_that_its_receipt_does_not_know(place: Place, good: Path, bad: Path) -> None:
    pack_it = with_file(good, bad, SO, b"\x7fELF of somebody else")
    assert refused(place, pack_it) == (
        "the receipt of 90a/cached_ops/page is not about the file 'page.so' that the bundle holds"
    )


def test_a_bundle_without_kernels(place: Place, good: Path, bad: Path) -> None:
    members = members_of(good)
    said = json.loads(members[0][1]) | {"files": {}}
    assert refused(place, pack(bad, [plain("manifest.json", json.dumps(said).encode())])) == "it holds no kernel"


def test_pax_archives_are_of_no_use(place: Place, good: Path, bad: Path) -> None:
    """Somebody who packs an unpacked bundle again gets Python's default format only where a name needs it."""
    members = [(member, data) for member, data in members_of(good)]
    members[1][0].mtime = 1.5
    assert refused(place, pack(bad, members, tarfile.PAX_FORMAT)).endswith(f"is a member of type 'x'{REPACKED}")
