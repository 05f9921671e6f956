"""Bundles altered in any way: taken whole or refused, and nothing is written outside of where they are unpacked."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.delivery.bundle import manifest as manifests
from fitasks.delivery.bundle.manifest import BundleRefused, Manifest, PackedFile
from fitasks.delivery.bundle.reading import opened
from fitasks.delivery.bundle.writing import write
from tests.mutants import JSON, altered_bytes, altered_json

if TYPE_CHECKING:
    from pathlib import Path

FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FILES = {"90a/generated/page/page.cu": b"source", "90a/cached_ops/page/page.so": b"library"}


def said() -> Manifest:
    entries = {name: PackedFile(hashlib.sha256(data).hexdigest(), len(data), 1) for name, data in FILES.items()}
    return Manifest("0.7.4", "linux-x86_64", "2.34", "1.13", "/site", "/cuda", {"90a": "/cache/90a"}, entries)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    sources = {name: tmp_path / name.rpartition("/")[2] for name in FILES}
    for name, path in sources.items():
        path.write_bytes(FILES[name])
    write(tmp_path / "bundle", said(), sources)
    return (tmp_path / "bundle").read_bytes()


def taken(directory: Path, data: bytes) -> str:
    """Unpack it; "" where it was taken, else why not. Nothing may be outside of `directory/in/to`."""
    bundle, into = directory / "bundle", directory / "in" / "to"
    bundle.write_bytes(data)
    into.mkdir(parents=True, exist_ok=True)
    try:
        with opened(bundle) as archive:
            archive.unpack(archive.manifest(), into, {"90a"})
    except BundleRefused as error:
        return str(error)
    finally:
        found = {path for path in directory.rglob("*") if path.is_file() and into not in path.parents}
        assert found == {bundle, directory / "page.cu", directory / "page.so"}
        assert not any(path.is_symlink() for path in directory.rglob("*"))
        for path in sorted(into.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return ""


@FEW
@given(data=st.data())
def test_a_manifest_of_any_content(data: st.DataObject) -> None:
    text = manifests.to_json(said()).decode()
    try:
        found = manifests.parse(
            data.draw(st.one_of(altered_json(text), JSON.map(json.dumps), st.text())).encode(errors="replace")
        )
    except BundleRefused:
        return
    assert all(name.split("/")[1] in {"cached_ops", "generated"} and ".." not in name for name in found.files)
    manifests.to_json(found)


@FEW
@given(data=st.data())
def test_an_archive_with_any_damage(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    """Of the file as it lies on a disk, and of what is in gzip."""
    if data.draw(st.booleans()):
        damaged = data.draw(altered_bytes(whole))
    else:
        damaged = gzip.compress(data.draw(altered_bytes(gzip.decompress(whole))), 1)
    taken(tmp_path, damaged)


NAMES = [*FILES, "../victim", "/etc/victim", "90a/cached_ops/page/../../../victim", "90a/cached_ops/tmp/x", "a\0b"]
KINDS = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Members of any kind and name, with a manifest that names them all truly, as somebody would make it on purpose."""
    members = draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), st.binary(max_size=9)), max_size=4)
    )
    held: dict[str, Any] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "mtime_ns": 1}
        for name, _, content in members
    }
    manifest = json.dumps(json.loads(manifests.to_json(said())) | {"files": held}).encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, content in [(manifests.NAME, tarfile.REGTYPE, manifest), *members]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, draw(st.sampled_from(NAMES))
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 1)


@FEW
@given(data=archives())
def test_an_archive_of_any_members(tmp_path: Path, whole: bytes, data: bytes) -> None:
    taken(tmp_path, data)


def test_the_whole_one_is_taken(tmp_path: Path, whole: bytes) -> None:
    """So that the refusals above mean something."""
    assert taken(tmp_path, whole) == ""
