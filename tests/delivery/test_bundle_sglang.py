"""Modules of SGLang's own JIT in a bundle: there and back, into a cache whose directories hold their own locks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from fitasks.base.errors import KernelFailure
from fitasks.compile import receipt as receipts
from fitasks.compile import scratch
from fitasks.delivery.bundle.bundle import bundle, manifest_of
from fitasks.delivery.bundle.destination import Destinations
from fitasks.delivery.bundle.here import Here
from fitasks.delivery.bundle.manifest import BundleRefused, Held
from fitasks.delivery.bundle.unbundle import Unbundled, _stage_inside, unbundle
from fitasks.delivery.wheel.from_bundle import repack
from fitasks.store.local import Store
from fitasks.ui.bundles import repacked_lines, unbundled_lines
from tests.delivery.conftest import Place, snapshot
from tests.delivery.test_bundle import ROOT, elsewhere, empty
from tests.delivery.test_bundle_refused import members_of, pack, plain, refused, with_manifest
from tests.workshop import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop

NAME = "sgl_kernel_jit_rope"
HELD = f"90a/tvm-ffi/{NAME}__arch_9.0a__tvmffi_0.1.11"
FRESH = {"page": "fresh: 6 inputs unchanged; ninja: no work", NAME: "fresh: 2 inputs unchanged; ninja: no work"}


@dataclass
class Both(Place):
    """FlashInfer's page and a module of SGLang's own, each where it is planned."""

    names: tuple[str, ...] = ("page",)
    planned: bool = True
    cache: Path | None = None  # where SGLang looks, if not where the workshop says
    tvm_ffi: str = "0.1.11"

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return (*super().kernels, replace(self._rope(), label="sgl-rope")) if self.planned else super().kernels

    @property
    def rope(self) -> Kernel:
        return self.kernels[-1]

    def _rope(self) -> Kernel:
        place = self.workshop.sglangs().build_dir
        return self.workshop.sglangs_in((self.cache or place.parent) / place.name.replace("0.1.11", self.tvm_ffi))


@pytest.fixture
def both(workshop: Workshop) -> Both:
    place = Both(workshop)
    assert place.build() == ["compiled", "compiled"]
    return place


@pytest.fixture
def packed(both: Both, tmp_path: Path) -> Path:
    assert bundle(both.machine, tmp_path / "kernels.tar.gz").left_out == ()
    return tmp_path / "kernels.tar.gz"


def went(done: Unbundled) -> dict[str, str]:
    return {arrival.module: arrival.went for arrival in done.arrivals}


def emptied(both: Both) -> Both:
    empty(both)
    shutil.rmtree(both.rope.build_dir.parent)
    return both


def test_there_and_back(both: Both, packed: Path) -> None:
    before = {path.name: path.read_bytes() for path in both.rope.build_dir.glob("*") if path.name != "lock"}
    with tarfile.open(packed) as archive:
        names = [name for name in archive.getnames() if name.startswith(HELD)]
    assert [Path(name).name for name in names] == sorted(before.keys() - {"main.cpp"}), "no lock, and no source"
    emptied(both)
    done = unbundle(both.machine, packed)
    assert (went(done), done.moved) == ({"page": "cache", NAME: "cache"}, ())
    assert list(unbundled_lines(done)) == ["1 kernel into FlashInfer's cache", "1 kernel into SGLang's cache"]
    after = {path.name: path.read_bytes() for path in both.rope.build_dir.glob("*") if path.name != "lock"}
    assert after == before
    assert both.state() == FRESH
    assert not [*both.rope.build_dir.parent.glob(".*")], "nothing is left of unpacking"
    assert went(unbundle(both.machine, packed)) == {"page": "kept", NAME: "kept"}


def test_an_earlier_fitasks_refuses_it_and_takes_one_without(both: Both, packed: Path, tmp_path: Path) -> None:
    assert json.loads(members_of(packed)[0][1])["version"] == 2
    bundle(both.machine, tmp_path / "without", ["page"])
    assert json.loads(members_of(tmp_path / "without")[0][1])["version"] == 1


def test_another_cache_of_flashinfers_is_no_affair_of_sglangs(both: Both, packed: Path, tmp_path: Path) -> None:
    """Nor the other way round: what is loaded from another place goes into the store, and is adopted from there."""
    there = Both(replace(both.workshop, store=None), cache=tmp_path / "other")
    shutil.rmtree(both.workshop.root / "xdg")
    emptied(both)
    done = unbundle(there.machine, packed)
    assert went(done) == {"page": "cache", NAME: "store"}
    assert done.moved == (f"SGLang's cache: {both.rope.build_dir.parent} there, {tmp_path / 'other'} here",)
    assert not there.rope.build_dir.parent.exists()


def test_other_paths_mean_the_store_and_the_next_doit_adopts(both: Both, packed: Path) -> None:
    there = elsewhere(both)
    there = Both(there.workshop)
    done = unbundle(there.machine, packed)
    assert went(done) == {"page": "store", NAME: "store"}
    assert not done.unusable
    assert any(line.startswith("SGLang's cache: ") for line in done.moved)
    assert not (there.workshop.root / "tvm-ffi").exists()
    assert there.build() == ["adopted", "adopted"]
    assert there.rope.library.read_bytes() == both.rope.library.read_bytes()


def test_one_that_is_not_planned_here_goes_into_the_store(
    both: Both, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which directory SGLang would look here nobody knows; one like it in the working directory means nothing."""
    shutil.copytree(both.rope.build_dir, tmp_path / "cwd" / both.rope.build_dir.name)
    monkeypatch.chdir(tmp_path / "cwd")
    emptied(both)
    done = unbundle(replace(both, planned=False).machine, packed)
    assert (went(done), done.moved) == ({"page": "cache", NAME: "store"}, ())
    assert f"{NAME}: kernels.yaml here doesn't name it for this SGLang and tvm-ffi" in list(unbundled_lines(done))
    assert not both.rope.build_dir.parent.exists()
    assert both.build() == ["fresh", "adopted"]


def test_one_for_another_tvm_ffi_lies_nowhere_where_sglang_would_look(both: Both, packed: Path) -> None:
    emptied(both)
    there = replace(both, tvm_ffi="0.1.15")
    assert went(unbundle(there.machine, packed)) == {"page": "cache", NAME: "store"}
    assert not both.rope.build_dir.parent.exists()
    assert not there.rope.build_dir.exists()


def test_another_build_is_replaced_under_the_lock_that_lies_in_it(both: Both, packed: Path) -> None:
    rope, shop = both.rope, both.workshop
    library = rope.library.read_bytes()
    shop.build(shop.with_flag(rope, "-DX=1"))
    (rope.build_dir / "fitasks-begun.json").write_text("{}")
    with FileLock(rope.lock), pytest.raises(KernelFailure, match=r"waited .* for .*/lock, held by"):
        unbundle(both.machine, packed, lock_timeout=0.1)
    inode = rope.lock.stat().st_ino
    assert went(unbundle(both.machine, packed)) == {"page": "kept", NAME: "cache"}
    assert rope.lock.stat().st_ino == inode, "a server that waits for it has the right one"
    assert (rope.library.read_bytes(), both.state()) == (library, FRESH)
    assert not (rope.build_dir / "fitasks-begun.json").exists()


def test_a_fresh_one_stays_where_the_bundles_would_not_be(both: Both, packed: Path) -> None:
    header = both.workshop.include / "common.h"
    header.write_text("inline int common() { return 7; }\n")
    both.build()
    done = unbundle(both.machine, packed)
    assert went(done) == {"page": "kept", NAME: "kept"}
    assert both.workshop.verdict(both.rope).verdict == "fresh"


def test_of_one_that_is_of_no_use_no_package_is_promised(both: Both, tmp_path: Path) -> None:
    bundle(both.machine, tmp_path / "alone", ["sgl-rope"])
    (both.workshop.include / "common.h").write_text("inline int common() { return 7; }\n")
    emptied(both)
    done = unbundle(both.machine, tmp_path / "alone")
    assert list(unbundled_lines(done))[-1] == "1 kernel of no use here as built: doit compiles"


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.delivery.test_bundle_sglang import Both
from tests.workshop import Workshop
from fitasks.compile.ninja.ninja import Ninja
from fitasks.delivery.bundle.unbundle import unbundle
root, packed, ninja, version, call, nth = sys.argv[1:]
place = Both(Workshop(Path(root), Ninja(Path(ninja), version), None))
real, seen = getattr(os, call), []
def deadly(*args, **options):
    if "__tvmffi_" in str(args[-1]):
        seen.append(args)
    if len(seen) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(os, call, deadly)
unbundle(place.machine, Path(packed))
"""


@pytest.mark.parametrize(("call", "nth"), [("unlink", 1), *(("replace", nth) for nth in range(1, 8))])
def test_a_kill_at_any_moment_is_mended_by_the_next_run(both: Both, packed: Path, call: str, nth: int) -> None:
    """The source, six files, of which the library comes last but one, its receipt last; another build lies there."""
    rope, shop = both.rope, both.workshop
    shop.build(shop.with_flag(rope, "-DX=1"))
    (rope.build_dir / "main.cpp").write_text("// another\n")
    other = shop.verdict(rope).verdict
    words = [shop.root, packed, shop.ninja.executable, shop.ninja.version, call, nth]
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    killed = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": ROOT})
    assert killed.returncode == -signal.SIGKILL
    assert (other, shop.verdict(rope).verdict) == ("stale", "stale"), "nothing is trusted that isn't whole"
    assert rope.library.exists(), "a server finds the old one or the new one"
    unbundle(both.machine, packed)
    assert both.state() == FRESH
    assert not [*rope.build_dir.parent.glob(f"{scratch.UNPACKED}*")]


def test_two_architecture_sets_are_unpacked_in_one_place(tmp_path: Path) -> None:
    """SGLang's cache is one for all, and whoever unpacks there locks it."""
    parts = [("90a/tvm-ffi", tmp_path / "cache"), ("80/tvm-ffi", tmp_path / "cache")]
    (tmp_path / "unpacked").mkdir()
    with ExitStack() as stack:
        _stage_inside(stack, tmp_path / "unpacked", parts)
        (tmp_path / "unpacked" / "80" / "tvm-ffi" / "x").touch()
        assert not [*(tmp_path / "unpacked" / "90a" / "tvm-ffi").iterdir()]
    assert not (tmp_path / "cache").exists()


def test_a_package_is_made_of_the_others(both: Both, packed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    plan = both.machine.plan
    monkeypatch.setattr("fitasks.delivery.wheel.from_bundle._flashinfer", lambda _, manifest: manifest.flashinfer)
    monkeypatch.setattr("fitasks.delivery.wheel.from_bundle._target", lambda *_: both.workshop.target())
    monkeypatch.setattr("fitasks.delivery.wheel.from_bundle.obstacle", lambda *_: "")
    made = repack(plan.server, packed, tmp_path / "dist", tmp_path / "state")
    assert [kernel.kernel.name for kernel in made.wheel.kernels] == ["page"]
    line = "left in it  1 kernel that no package can hold: doit unbundle"
    assert next(repacked_lines(made)) == line
    bundle(both.machine, tmp_path / "alone", ["sgl-rope"])
    with pytest.raises(BundleRefused, match="it holds no kernel that a package can hold"):
        repack(plan.server, tmp_path / "alone", tmp_path / "dist", tmp_path / "state")


# ---- what is refused: each with its whole message, nothing changed


@pytest.fixture
def place(both: Both, packed: Path) -> Both:
    receipts.path_of(both.rope).unlink()
    return both


def with_one(good: Path, bad: Path, name: str, data: bytes | None) -> Path:
    """One file of it altered, added or taken away, and the manifest with it."""
    members = [(member, old) for member, old in members_of(good) if member.name != name]
    said = json.loads(members[0][1])
    said["files"].pop(name, None)
    if data is not None:
        said["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mtime_ns": 1}
        members.append(plain(name, data))
    return pack(bad, [plain("manifest.json", json.dumps(said).encode()), *members[1:]])


def test_the_good_one_is_taken(place: Both, packed: Path, tmp_path: Path) -> None:
    """So that the refusals below are for their reasons."""
    before = snapshot(place.workshop.root)
    assert went(unbundle(place.machine, pack(tmp_path / "bad", members_of(packed))))[NAME] == "cache"
    assert snapshot(place.workshop.root) != before


def test_every_altered_byte_of_the_library(place: Both, packed: Path, tmp_path: Path) -> None:
    so = f"{HELD}/{NAME}.so"
    data = {member.name: content for member, content in members_of(packed)}[so]
    altered = data[:-1] + bytes([data[-1] ^ 1])
    members = [plain(so, altered) if member.name == so else (member, old) for member, old in members_of(packed)]
    assert f"'{NAME}.so' in it is altered: " in refused(place, pack(tmp_path / "bad", members))
    said = refused(place, with_one(packed, tmp_path / "bad", so, altered))
    assert said == f"the receipt of {HELD} is not about the file '{NAME}.so' that the bundle holds"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("90a/tvm-ffi/../../../x", "which leads out of the cache"),
        (f"{HELD}/..", "which leads out of the cache"),
        ("90a/tvm-ffi/x.so", "which has no place in a cache"),
        ("80/tvm-ffi/x/x.so", "which has no place in a cache"),
        (f"{HELD}/lock", "where locks are"),
        (f"{HELD}/\x1b[31m", "which is no plain path"),
        (f"{HELD}/{NAME}.so/x", "which is below a file"),
    ],
)
def test_a_path_that_leads_elsewhere(place: Both, packed: Path, tmp_path: Path, path: str, problem: str) -> None:
    entry = {"sha256": "0" * 64, "size": 1, "mtime_ns": 1}
    bad = with_manifest(packed, tmp_path / "bad", lambda said: said["files"].update({path: entry}))
    assert refused(place, bad) == f"its manifest names {path!r:.300}, {problem}"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (f"{HELD}/fitasks-receipt.json", None, f"{HELD} has no receipt that this fitasks can read"),
        (f"{HELD}/build.ninja", None, f"{HELD} has no build.ninja"),
        (f"{HELD}/{NAME}.so", None, f"{HELD} is not named after the one library in it"),
        (f"{HELD}/other.so", b"x", f"{HELD} is not named after the one library in it"),
        (f"{HELD}/more.o", b"x", f"the receipt of {HELD} knows nothing of the file 'more.o' beside it"),
        (f"{HELD}/in/more.o", b"x", f"the receipt of {HELD} knows nothing of the file 'in/more.o' beside it"),
        (f"{HELD}/main.cpp", b"x", f"the receipt of {HELD} knows nothing of the file 'main.cpp' beside it"),
        ("90a/tvm-ffi/evil/page.so", b"x", "90a/tvm-ffi/evil is not named after the one library in it"),
    ],
)
def test_files_that_do_not_fit(
    place: Both, packed: Path, tmp_path: Path, *, name: str, data: bytes | None, message: str
) -> None:
    assert refused(place, with_one(packed, tmp_path / "bad", name, data)) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda said: said["outputs"].update({"../x": said["outputs"][f"{NAME}.so"]}), "is not about the file '../x'"),
        (
            lambda said: said.update(inputs=said["inputs"].replace("{", "{{")),
            "has another fingerprint than what it says",
        ),
        (lambda said: said.update(name="page"), "has no receipt that this fitasks can read"),
    ],
)
def test_a_receipt_that_does_not_fit(
    place: Both, packed: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    name = f"{HELD}/fitasks-receipt.json"
    said = json.loads({member.name: data for member, data in members_of(packed)}[name])
    del said["seal"]
    edit(said)
    assert message in refused(place, with_one(packed, tmp_path / "bad", name, json.dumps(said).encode()))


def test_another_architecture(place: Both, packed: Path) -> None:
    said = refused(replace(place, architecture="80_90a"), packed)
    assert said.startswith("it is for the architecture set 90a, kernels.yaml's targets here are 80_90a")


def test_a_version_that_does_not_know_them(place: Both, packed: Path, tmp_path: Path) -> None:
    bad = with_manifest(packed, tmp_path / "bad", lambda said: said.update(version=1))
    message = "its manifest has format version 1, which knows no modules of SGLang's own"
    assert refused(place, bad) == message


def test_a_place_of_the_builders_that_cannot_be_shown(place: Both, packed: Path, tmp_path: Path) -> None:
    bad = with_manifest(packed, tmp_path / "bad", lambda said: said.update(sglang_cache="\x1b[2J"))
    assert refused(place, bad) == "its manifest says nothing usable of sglang_cache"


def test_what_a_killed_unbundle_left_is_swept(both: Both, packed: Path) -> None:
    left = both.rope.build_dir.parent / ".fitasks-unbundle-x" / "90a"
    left.mkdir(parents=True)
    unbundle(both.machine, packed)
    assert not left.parent.exists()


def test_a_planned_object_of_cute_dsl_is_in_nobodys_way(shop: Workshop, tmp_path: Path) -> None:
    """It has no place in a bundle, and is asked for none."""
    page = shop.built()
    cute = replace(page, kind="cute", label="gate", name="gate_sm90a_cute_dsl/h8", library=tmp_path / "h8.o")
    plan = replace(shop.plan(), kernels=(cute, page))
    here = Here(plan, {TARGET: shop.judge()}, shop.ninja, Store(tmp_path / "store"))
    ours = manifest_of(here, {})
    destinations = Destinations.of(here, ours, ours)
    assert destinations.planned(Held("90a", "cached_ops", "page")) == page
    assert destinations.planned(Held("90a", "cached_ops", "other")) is None
