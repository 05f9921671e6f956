"""What an engine builds in one go, in a bundle: there and back, under the engine's key or not at all. No engine is needed.

That real engines find what comes so is tried in tests/test_real_cute.py and tests/test_real_sglang_keyed.py.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base import memo
from fitasks.base.files import sha256_file
from fitasks.compile import scratch
from fitasks.compile.clear import clear_incomplete
from fitasks.compile.judge import engine_receipt
from fitasks.compile.judge.engine_receipt import EngineReceipt
from fitasks.compile.judge.keyed import find, key_of
from fitasks.compile.keyed import link
from fitasks.delivery.bundle.bundle import bundle
from fitasks.delivery.bundle.here import Here
from fitasks.delivery.bundle.unbundle import Unbundled, unbundle
from fitasks.plan.kernel import Kernel
from fitasks.store.local import Store
from fitasks.ui.bundles import unbundled_lines
from tests.delivery.conftest import snapshot
from tests.delivery.test_bundle_refused import members_of, refused
from tests.delivery.test_bundle_sglang import with_one
from tests.workshop import TARGET, Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAMP = "sgl_kernel_jit_clamp"
KEY = "0123456789abcdef"
META = {"arch": "sm90a", "cute_dsl_version": "nvidia-cutlass-dsl=4.8.1;torch=2.13.0", "source_sha256": "aa"}
GATE_HELD, CLAMP_HELD = "90a/cute-dsl/gate_sm90a_cute_dsl.h8", f"90a/sglang-jit/build-{KEY}"


@dataclass
class Whole:
    """A machine with an object of CuTe-DSL's and a module that SGLang keeps by content."""

    shop: Workshop
    kernels: tuple[Kernel, ...]

    @property
    def machine(self) -> Here:
        plan = replace(self.shop.plan(), kernels=self.kernels)
        return Here(plan, {TARGET: self.shop.judge()}, self.shop.ninja, Store(self.shop.root / "xdg" / "store"))

    @property
    def workshop(self) -> Workshop:
        return self.shop

    @property
    def gate(self) -> Kernel:
        return self.kernels[0]

    @property
    def clamp(self) -> Kernel:
        return self.kernels[1]

    @property
    def leaf(self) -> Path:
        return self.clamp.library.resolve().parent

    def state(self) -> list[str]:
        return [str(self.shop.judge().judge(kernel)) for kernel in self.kernels]

    def emptied(self) -> Whole:
        shutil.rmtree(self.gate.build_dir)
        shutil.rmtree(self.clamp.build_dir.parents[2])
        return self


FRESH = ["fresh: 1 inputs unchanged", "fresh: 1 inputs unchanged"]


def gate(shop: Workshop) -> Kernel:
    return shop.cute_object(json.dumps(META))


def clamp(shop: Workshop, key: str = KEY) -> Kernel:
    return shop.keyed_module(CLAMP, key)


def vouch(kernel: Kernel, library: Path, meta: object) -> None:
    size, text = library.stat().st_size, json.dumps(meta)
    engine_receipt.write(kernel, EngineReceipt(kernel.name, sha256_file(library), size, text, 1.5, "2026-11-29"))


def made(shop: Workshop, shared: bytes) -> Whole:
    """As builds leave them."""
    whole = Whole(shop, (gate(shop), clamp(shop)))
    whole.gate.build_dir.mkdir(parents=True)
    whole.gate.library.write_bytes(b"an object")
    whole.gate.ninja_file.write_text(json.dumps(META, indent=2))
    vouch(whole.gate, whole.gate.library, META)
    header = whole.clamp.sources[0]
    header.parent.mkdir(exist_ok=True)
    header.write_text("// clamps\n")
    publish(whole.clamp, shared)
    return whole


def publish(kernel: Kernel, shared: bytes) -> None:
    entry = ("kernels", "clamp.cuh", sha256_file(kernel.sources[0]))
    leaf = kernel.build_dir / f"deps-{hashlib.sha256(repr(entry).encode() + bytes(1)).hexdigest()[:16]}"
    leaf.mkdir(parents=True)
    (leaf / "sgl_deps.json").write_text(json.dumps([entry]))
    (leaf / kernel.library.name).write_bytes(shared)
    link(kernel.library, leaf / kernel.library.name)
    vouch(kernel, leaf / kernel.library.name, key_of(leaf / kernel.library.name))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("shared") / "x.so"
    command = ["cc", "-shared", "-nostdlib", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=b"int x;", check=True)
    return path.read_bytes()


@pytest.fixture
def whole(shop: Workshop, shared: bytes) -> Whole:
    return made(shop, shared)


@pytest.fixture
def packed(whole: Whole, tmp_path: Path) -> Path:
    assert bundle(whole.machine, tmp_path / "kernels.tar.gz").left_out == ()
    return tmp_path / "kernels.tar.gz"


def went(done: Unbundled) -> list[tuple[str, str, bool]]:
    return [(arrival.module, arrival.went, arrival.usable) for arrival in done.arrivals]


def contents(whole: Whole) -> dict[str, bytes]:
    """Of all files but locks."""
    found = (*whole.gate.build_dir.rglob("*"), *whole.clamp.build_dir.rglob("*"))
    return {str(path): path.read_bytes() for path in found if path.is_file() and path.suffix != ".lock"}


def without_locks(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.endswith("lock")}


def test_there_and_back(whole: Whole, packed: Path) -> None:
    assert whole.state() == FRESH
    before = contents(whole)
    whole.emptied()
    done = unbundle(whole.machine, packed)
    assert went(done) == [("gate_sm90a_cute_dsl/h8", "cache", True), (CLAMP, "cache", True)]
    assert list(unbundled_lines(done)) == ["1 kernel into FlashInfer's cache", "1 kernel into SGLang's cache"]
    assert without_locks(contents(whole)) == before
    assert whole.state() == FRESH
    left = [path for path in whole.shop.root.rglob("*") if path.name.startswith(scratch.UNPACKED)]
    assert not left, "nothing is left of unpacking"
    assert [how for _, how, _ in went(unbundle(whole.machine, packed))] == ["kept", "kept"]


def test_the_same_kernels_give_the_same_bytes(whole: Whole, packed: Path, tmp_path: Path) -> None:
    bundle(whole.machine, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == packed.read_bytes()


def test_an_earlier_fitasks_refuses_it(packed: Path) -> None:
    assert json.loads(members_of(packed)[0][1])["version"] == 3


def test_sglangs_cache_may_lie_elsewhere_and_so_may_its_sources(whole: Whole, packed: Path, tmp_path: Path) -> None:
    """Neither is part of SGLang's key."""
    there = Workshop(tmp_path / "there", whole.shop.ninja, whole.shop.pool)
    moved = clamp(there)
    moved.sources[0].parent.mkdir(parents=True)
    shutil.copy(whole.clamp.sources[0], moved.sources[0])
    other = Whole(there, (whole.gate, moved))
    assert went(unbundle(other.machine, packed)) == [("gate_sm90a_cute_dsl/h8", "kept", True), (CLAMP, "cache", True)]
    assert other.state() == FRESH


def test_a_changed_header_keeps_a_module_from_being_found(whole: Whole, packed: Path) -> None:
    whole.emptied()
    whole.clamp.sources[0].write_text("// otherwise\n")
    done = unbundle(whole.machine, packed)
    assert went(done)[1] == (CLAMP, "left", False)
    assert done.arrivals[1].note.startswith("it was compiled from other files: kernels:clamp.cuh changed (")
    assert list(unbundled_lines(done))[-1] == "1 kernel of no use here as built: doit compiles"
    assert not whole.clamp.build_dir.exists(), "nothing is put where SGLang would pass over it"


def test_another_key_of_sglangs(whole: Whole, packed: Path) -> None:
    """Another compiler's answer gives another directory."""
    whole.emptied()
    other = Whole(whole.shop, (whole.gate, clamp(whole.shop, "f" * 16)))
    done = unbundle(other.machine, packed)
    assert went(done)[1] == (CLAMP, "left", False)
    key = "SGLang's key, of sources, flags, packages and what nvcc and c++ say, is"
    assert done.arrivals[1].note == f"{key} build-{'f' * 16} here, and this is for build-{KEY}"
    assert not whole.clamp.build_dir.parents[2].exists()


def test_another_key_of_flashinfers(whole: Whole, packed: Path) -> None:
    """FlashInfer's has the path that it is installed at."""
    whole.emptied()
    meta = META | {"source_sha256": "bb"}
    other = Whole(whole.shop, (replace(whole.gate, meta=json.dumps(meta)), whole.clamp))
    done = unbundle(other.machine, packed)
    assert went(done)[0] == ("gate_sm90a_cute_dsl/h8", "left", False)
    told = "FlashInfer's key, of packages' records, and of paths, is another here: source_sha256 in meta.json changed"
    assert done.arrivals[0].note == f"{told} (aa → bb)"
    assert not whole.gate.build_dir.exists()


def test_what_kernels_yaml_does_not_name_stays_in_the_bundle(whole: Whole, packed: Path) -> None:
    whole.emptied()
    done = unbundle(Whole(whole.shop, ()).machine, packed)
    assert went(done) == [("gate_sm90a_cute_dsl/h8", "left", True), (CLAMP, "left", True)]
    assert list(unbundled_lines(done))[-1] == "2 kernels left in it"
    assert not whole.gate.build_dir.exists()


def test_what_is_fresh_stays(whole: Whole, packed: Path) -> None:
    whole.gate.library.write_bytes(b"another object")
    vouch(whole.gate, whole.gate.library, META)
    assert went(unbundle(whole.machine, packed))[0][1] == "kept"
    assert whole.gate.library.read_bytes() == b"another object"


def test_what_is_altered_or_not_vouched_for_is_replaced(whole: Whole, packed: Path) -> None:
    whole.gate.library.write_bytes(b"an Object")
    (whole.leaf / whole.clamp.library.name).write_bytes(b"torn")
    assert [how for _, how, _ in went(unbundle(whole.machine, packed))] == ["cache", "cache"]
    engine_receipt.path_of(whole.gate).unlink()
    engine_receipt.path_of(whole.clamp).unlink()
    assert [how for _, how, _ in went(unbundle(whole.machine, packed))] == ["cache", "cache"]
    assert whole.state() == FRESH


def test_a_family_of_another_key_goes_as_flashinfer_lets_it_go(whole: Whole, packed: Path) -> None:
    whole.gate.ninja_file.write_text(json.dumps(META | {"arch": "sm80"}))
    sibling = whole.gate.library.with_name("h4.o")
    sibling.write_bytes(b"of the other key")
    assert went(unbundle(whole.machine, packed))[0][1] == "cache"
    assert not sibling.exists(), "meta.json would say that it is of this key"
    assert whole.state() == FRESH


def test_one_that_is_not_fresh_is_left_out(whole: Whole, tmp_path: Path) -> None:
    whole.gate.library.write_bytes(b"an Object")
    ((label, why),) = bundle(whole.machine, tmp_path / "kernels.tar.gz").left_out
    assert (label, "h8.o is not what was built" in why) == ("gate", True)


def killed(whole: Whole, packed: Path, which: int, nth: int) -> int:
    """An unbundle's status in a process of its own, killed before the nth change to a kernel's directory."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    there, seen = str(whole.kernels[which].build_dir), itertools.count(1)

    def deadly(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if any(there in str(arg) for arg in args) and next(seen) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for module, names in ((os, ("rename", "replace", "unlink", "symlink", "utime")), (shutil, ("rmtree",))):
        for name in names:
            setattr(module, name, deadly(getattr(module, name)))
    try:
        unbundle(whole.machine, packed)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("which", [0, 1])
def test_a_kill_at_any_moment_is_mended_by_the_next_run(
    shop: Workshop, whole: Whole, packed: Path, shared: bytes, which: int
) -> None:
    """What is there is of another key, or altered; what FlashInfer and SGLang would take meanwhile is whole."""
    kernel, good = whole.kernels[which], {b"an object", shared}
    for nth in range(1, 20):
        spoil(whole)
        status = killed(whole, packed, which, nth)
        assert status in {0, -signal.SIGKILL}
        for library in taken(whole):
            assert library.read_bytes() in {*good, b"an old object", b"an old library"}, nth
        if status:
            assert shop.judge().judge(kernel).verdict == "stale", "nothing is trusted before its receipt"
        unbundle(whole.machine, packed)
        assert whole.state() == FRESH, nth
        assert not [*shop.root.rglob(f"{scratch.UNPACKED}*"), *whole.clamp.build_dir.glob(".*.tmp")]
        if not status:
            break
    assert nth >= 5, "it was killed before each of them"


@pytest.mark.parametrize("sweep", ["bundle", "unbundle", "clear_incomplete"])
def test_what_a_killed_run_left_in_any_cache_goes_with_the_next(
    shop: Workshop, whole: Whole, tmp_path: Path, sweep: str
) -> None:
    """In SGLang's two caches as in FlashInfer's, though none of these three would put anything there now."""
    rope = replace(shop.sglangs(), label="rope")
    shop.build(rope)
    all_three = Whole(shop, (*whole.kernels, rope))
    machine, packed = all_three.machine, tmp_path / "kernels.tar.gz"
    bundle(machine, packed)
    spoil(all_three)
    assert killed(all_three, packed, 1, 1) == -signal.SIGKILL
    left = {path.parent for path in shop.root.rglob(f"{scratch.UNPACKED}*")}
    assert left >= {
        rope.build_dir.parent,
        all_three.clamp.build_dir.parents[2],
        all_three.gate.build_dir.parent / "tmp",
    }
    if sweep == "bundle":
        assert [label for label, _ in bundle(all_three.machine, packed).left_out] == ["clamp"]
    elif sweep == "unbundle":
        unbundle(all_three.machine, packed)
    else:
        base = machine.plan.first.base
        cleared = clear_incomplete(base, scratch.everywhere(machine.plan, machine.store.root))
        assert {one.path.parent for one in cleared} >= left
    assert not list(shop.root.rglob(f"{scratch.UNPACKED}*"))


def spoil(whole: Whole) -> None:
    whole.gate.library.write_bytes(b"an old object")
    whole.gate.ninja_file.write_text(json.dumps(META | {"arch": "sm80"}))
    file = whole.leaf / whole.clamp.library.name
    file.unlink()
    file.write_bytes(b"an old library")


def taken(whole: Whole) -> Iterator[Path]:
    """By FlashInfer's rule and by SGLang's."""
    meta = whole.gate.ninja_file
    if whole.gate.library.exists() and meta.exists() and json.loads(meta.read_text()) == META:
        yield whole.gate.library
        assert whole.gate.library.read_bytes() == b"an object"
    if found := find(whole.clamp, whole.shop.judge().contents.refreshed()).library:
        yield found


# ---- what is refused: each with its whole message, nothing changed


@pytest.fixture
def spoilt(whole: Whole, packed: Path) -> Whole:
    for kernel in whole.kernels:
        engine_receipt.path_of(kernel).unlink()
    return whole


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            f"{GATE_HELD}/h8.o",
            b"an Object",
            f"the receipt of {GATE_HELD} is not about the file 'h8.o' that the bundle holds",
        ),
        (f"{GATE_HELD}/meta.json", b"{}", f"the receipt of {GATE_HELD} has another key than meta.json beside it"),
        (
            f"{GATE_HELD}/meta.json",
            b"[" * 10_000,
            f"the receipt of {GATE_HELD} has another key than meta.json beside it",
        ),
        (f"{GATE_HELD}/h8.fitasks.json", b"{}", f"{GATE_HELD} has no receipt that this fitasks can read"),
        (
            f"{GATE_HELD}/h8.fitasks.json",
            None,
            f"{GATE_HELD} doesn't hold 'h8.o', meta.json and their receipt, and nothing else",
        ),
        (f"{GATE_HELD}/h4.o", b"x", f"{GATE_HELD} doesn't hold 'h8.o', meta.json and their receipt, and nothing else"),
        (
            f"{GATE_HELD}/in/h4.o",
            b"x",
            f"{GATE_HELD} doesn't hold 'h8.o', meta.json and their receipt, and nothing else",
        ),
        (
            f"{CLAMP_HELD}/{CLAMP}.so",
            b"x",
            f"the receipt of {CLAMP_HELD} is not about the file '{CLAMP}.so' that the bundle holds",
        ),
        (
            f"{CLAMP_HELD}/sgl_deps.json",
            b"[]",
            f"the receipt of {CLAMP_HELD} has another key than sgl_deps.json beside it",
        ),
        (f"{CLAMP_HELD}/other.so", b"x", f"{CLAMP_HELD} is no directory of SGLang's with one library in it"),
        ("90a/sglang-jit/evil/x.so", b"x", "90a/sglang-jit/evil is no directory of SGLang's with one library in it"),
    ],
)
def test_files_that_do_not_fit(
    spoilt: Whole, packed: Path, tmp_path: Path, *, name: str, data: bytes | None, message: str
) -> None:
    assert refused(spoilt, with_one(packed, tmp_path / "bad", name, data)) == message  # type: ignore[arg-type]


def test_the_good_one_is_taken(spoilt: Whole, packed: Path) -> None:
    """So that the refusals are for their reasons."""
    before = snapshot(spoilt.shop.root)
    unbundle(spoilt.machine, packed)
    assert snapshot(spoilt.shop.root) != before


def test_a_receipt_whose_key_cannot_be_shown(spoilt: Whole, packed: Path, tmp_path: Path) -> None:
    members: dict[str, Any] = {member.name: data for member, data in members_of(packed)}
    meta = META | {"arch": "\x1b[2J"}
    receipt = json.loads(members[f"{GATE_HELD}/h8.fitasks.json"]) | {"meta": json.dumps(meta)}
    del receipt["seal"]
    sealed = memo.sealed(receipt, indent=1).encode()
    bad = with_one(packed, tmp_path / "bad", f"{GATE_HELD}/meta.json", json.dumps(meta).encode())
    bad = with_one(bad, tmp_path / "worse", f"{GATE_HELD}/h8.fitasks.json", sealed)
    assert refused(spoilt, bad) == f"the receipt of {GATE_HELD} has another key than meta.json beside it"  # type: ignore[arg-type]
