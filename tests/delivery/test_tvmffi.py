"""What wheels and bundles say of the tvm-ffi that their kernels were compiled against, and who compares it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.cuda.loader import Answer, Loader, Needs
from fitasks.delivery.bundle.manifest import BundleRefused, Manifest, PackedFile, parse, to_json
from fitasks.delivery.bundle.usable import refuse_foreign
from fitasks.delivery.tvmffi import headers_abi, same_abi
from fitasks.delivery.wheel.installed import built_with
from fitasks.server.loadable import loadable
from fitasks.server.verdict import Verdict
from tests.delivery.wheelwright import Shop, module, unpacked
from tests.sessions import NO_CUDART, plan_at, session_of

if TYPE_CHECKING:
    from tests.workshop import Workshop

HEADER = """\
#define TVM_FFI_VERSION_MAJOR 0
/*! \\brief TVM FFI minor version. */
#define TVM_FFI_VERSION_MINOR 1
#define TVM_FFI_VERSION_PATCH 16
"""
FILES = {"90a/cached_ops/page/page.so": PackedFile("0" * 64, 1, 1)}
MANIFEST = Manifest("0.7.4", "linux-x86_64", "", "1.13", "/s", "/c", {"90a": "/w"}, FILES)


def headers(site: Path, text: str = HEADER) -> Path:
    file = site / "tvm_ffi/include/tvm/ffi/c_api.h"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return site


def test_the_headers_say_their_abi(tmp_path: Path) -> None:
    """The first on the path, as an import finds them; and the installed ones say what their library says."""
    site = headers(tmp_path / "site")
    other = headers(tmp_path / "other", HEADER.replace("MINOR 1", "MINOR 9"))
    assert headers_abi([tmp_path, site, other]) == "0.1.16"
    assert headers_abi([tmp_path]) == ""
    assert headers_abi([headers(tmp_path / "odd", "#define TVM_FFI_VERSION_MAJOR 0\n")]) == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.1.11", "0.1.16", True),
        ("0.1.16", "0.2.0", False),
        ("0.2.0", "1.2.0", False),
        ("1.2.0", "1.9.3", True),
        ("1.2.0", "2.2.0", False),
    ],
)
def test_before_one_the_minor_version_breaks_it(one: str, other: str, same: bool) -> None:
    assert same_abi(one, other) == same_abi(other, one) == same


def test_a_bundle_says_it_and_an_older_one_is_read(tmp_path: Path) -> None:
    written = replace(MANIFEST, tvm_ffi="0.1.15.post2", tvm_ffi_abi="0.1.16")
    assert parse(to_json(written)) == written
    said = json.loads(to_json(written))
    del said["tvm_ffi"], said["tvm_ffi_abi"]
    assert parse(json.dumps(said).encode()) == MANIFEST


@pytest.mark.parametrize("odd", ["0.1", "x.y.z", "0.1.\x1b[31m", 3, None, "1" * 20 + ".0.0"])
def test_a_bundle_that_says_nonsense_is_refused(odd: object) -> None:
    said = json.loads(to_json(MANIFEST)) | {"tvm_ffi_abi": odd}
    with pytest.raises(BundleRefused, match="its manifest says nothing usable of tvm_ffi_abi"):
        parse(json.dumps(said).encode())


def test_a_bundle_for_another_abi_is_refused() -> None:
    foreign = replace(MANIFEST, tvm_ffi_abi="0.2.0")
    with pytest.raises(BundleRefused) as caught:
        refuse_foreign(foreign, "0.7.4", "linux-x86_64", "0.1.16")
    assert caught.value.message == "it is compiled against tvm-ffi 0.2.0, whose ABI isn't that of 0.1.16 here"
    refuse_foreign(foreign, "0.7.4", "linux-x86_64", "0.2.9")
    refuse_foreign(foreign, "0.7.4", "linux-x86_64", "")
    refuse_foreign(MANIFEST, "0.7.4", "linux-x86_64", "0.1.16")


def test_a_wheel_says_it_and_check_compares(workshop: Workshop, tmp_path: Path) -> None:
    shop = Shop().add(workshop, module(workshop, "page", ("sm_90a",)))
    stocked = shop.stocked(headers(tmp_path / "headers"))
    stocked.plan.targets["9.0a"] = replace(stocked.plan.first, tvm_ffi="0.1.15.post2")
    wheel = stocked.wheel(tmp_path / "dist")
    with zipfile.ZipFile(wheel.path) as archive:
        manifest = json.loads(archive.read("fitasks_kernels/manifest.json"))
    assert (manifest["tvm_ffi"], manifest["tvm_ffi_abi"]) == ("0.1.15.post2", "0.1.16")
    assert manifest["kernels"][0]["required"] == []
    library = unpacked(wheel.path, tmp_path / "site") / "fitasks_kernels" / "sm90a" / "page" / "page.so"
    assert built_with(library) == "0.1.16"
    assert predicted(library, "0.1.11").good
    assert predicted(library, "").good
    bad = predicted(library, "0.2.0")
    assert bad.state == "unknown"
    assert bad.reason == (
        "page.so was compiled against tvm-ffi 0.1.16, whose ABI isn't that of 0.2.0 here: doit wheel, doit install"
    )


@pytest.mark.parametrize("said", ["{}", '{"tvm_ffi_abi": 3}', '{"tvm_ffi_abi": "new"}', "[]", "torn"])
def test_a_package_that_does_not_say_it(tmp_path: Path, said: str) -> None:
    library = tmp_path / "fitasks_kernels" / "sm90a" / "page" / "page.so"
    library.parent.mkdir(parents=True)
    assert built_with(library) == ""
    (tmp_path / "fitasks_kernels" / "manifest.json").write_text(said)
    assert built_with(library) == ""


class Running(Loader):
    """Of a process with this version of libtvm_ffi, in which nothing else is missing."""

    version = ""

    def needs(self, library: Path) -> Needs:
        return Needs()

    def answer(self, needs: Needs, others: Callable[[], Iterable[Path]]) -> Answer:
        return Answer(tvm_ffi=self.version, libraries={})


def predicted(library: Path, running: str) -> Verdict:
    """The verdict in an environment whose libtvm_ffi is of this version."""
    plan = plan_at(library.parent, {})
    loader = Running(plan.server.python, {}, library.parent / "loader.json")
    loader.version = running
    session = session_of(plan, runtime=replace(NO_CUDART, reached=False), loader=loader)
    return loadable(session, Verdict("page", "page", "9.0a", "ahead-of-time", library=str(library)))
