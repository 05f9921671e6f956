"""`doit deliver`: what no package can hold, laid out for an image. SGLang's own packing is stood in for.

That engines find it is tried in tests/test_real_cute.py and tests/test_real_sglang_keyed.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.compile import scratch
from fitasks.compile.judge import engine_receipt
from fitasks.delivery import deliver as module
from fitasks.delivery.deliver import Delivered, deliver, variables
from fitasks.ui.bundles import delivered_lines
from tests.delivery.test_bundle_whole import CLAMP, Whole, made, shared

if TYPE_CHECKING:
    from tests.workshop import Workshop

__all__ = ["shared"]  # a fixture
PACKS = """
import json, os, shutil, sys
request = json.load(open(sys.argv[1]))
into, library = request["into"], {library!r}
leaf = os.path.join(into, "jit", "sm90a", {name!r}, "build-1", "deps-1")
os.makedirs(leaf)
shutil.copy(library, leaf)
os.makedirs(os.path.join(into, "compilers"))
for name in ("nvcc", "c++"):
    open(os.path.join(into, "compilers", name), "w").write("#!/bin/sh")
packed = os.path.join(leaf, os.path.basename(library))
one = {{"id": 0, "packed": packed}} if not {error!r} else {{"id": 0, "error": {{"kind": "x", "message": {error!r}}}}}
json.dump({{"kernels": [one], "reads": {{"files": [], "looked": []}}}}, open(sys.argv[2], "w"))
"""


class Engines(Whole):
    """Kernels of all kinds that no package can hold."""

    def lay(self, into: Path, *names: str) -> tuple[Delivered, ...]:
        machine = self.machine
        return deliver(machine.plan, machine.judges, names, into)


@pytest.fixture
def engines(shop: Workshop, shared: bytes, monkeypatch: pytest.MonkeyPatch) -> Engines:
    whole = made(shop, shared)
    rope = replace(shop.sglangs(), label="rope")
    shop.build(rope)
    found = Engines(shop, (*whole.kernels, rope))
    packs(found, monkeypatch)
    return found


def packs(engines: Engines, monkeypatch: pytest.MonkeyPatch, library: Path | None = None, error: str = "") -> None:
    """SGLang's packing: this library, under its own name."""
    script = engines.shop.root / "packs.py"
    script.write_text(PACKS.format(library=str(library or engines.clamp.library), name=CLAMP, error=error))
    monkeypatch.setattr(module, "_PACK", script)


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_each_kind_lies_where_its_engine_looks_under_one_variable(engines: Engines, tmp_path: Path) -> None:
    into, rope = tmp_path / "dist" / "engines", engines.kernels[2]
    delivered = engines.lay(into)
    family = "flashinfer/.cache/flashinfer/0.7.2.post1/90a/cached_ops/gate_sm90a_cute_dsl"
    assert "/cache/0.7.2.post1/90a/" in str(engines.gate.library), "the part below FlashInfer's own directory stays"
    assert files(into) == [
        "compilers/bin/c++",
        "compilers/bin/nvcc",
        "delivered.json",
        f"{family}/h8.fitasks.json",
        f"{family}/h8.o",
        f"{family}/meta.json",
        f"sglang-jit/sm90a/{CLAMP}/build-1/deps-1/{CLAMP}.so",
        f"tvm-ffi/{rope.build_dir.name}/fitasks-receipt.json",
        f"tvm-ffi/{rope.build_dir.name}/{rope.library.name}",
    ]
    assert (into / family / "h8.o").read_bytes() == engines.gate.library.read_bytes()
    assert [one.label for one in delivered] == ["gate", "rope", "clamp"]
    said = json.loads((into / "delivered.json").read_text())["kernels"]
    assert [one["sha256"] for one in said] == [one.sha256 for one in delivered]
    lines = list(delivered_lines(delivered, "dist/engines", variables(delivered, "dist/engines")))
    assert lines[0].startswith("dist/engines: 3 kernels, ")
    assert lines[1:] == [
        "a server needs FLASHINFER_WORKSPACE_BASE=dist/engines/flashinfer",
        "a server needs TVM_FFI_CACHE_DIR=dist/engines/tvm-ffi",
        "a server needs SGLANG_JIT_CACHE_DIR=dist/engines/sglang-jit PATH=dist/engines/compilers/bin:$PATH",
    ]


def test_every_user_of_the_image_may_read_it_whatever_the_builders_umask(engines: Engines, tmp_path: Path) -> None:
    """As of a wheel, whose modes are its own: COPY gives the files to root, and the server is another."""
    before = os.umask(0o077)
    try:
        engines.gate.library.chmod(0o600)
        engines.lay(tmp_path / "engines")
    finally:
        os.umask(before)
    laid = [tmp_path / "engines", *(tmp_path / "engines").rglob("*")]
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in laid}
    assert {mode for path, mode in modes.items() if (tmp_path / path).is_dir()} == {0o755}
    assert modes["engines/delivered.json"] == 0o644
    assert all(mode & 0o444 == 0o444 for mode in modes.values()), modes
    assert not any(mode & 0o022 for mode in modes.values())


def test_two_entries_that_are_one_module_are_delivered_once(engines: Engines, tmp_path: Path) -> None:
    twins = tuple(replace(kernel, label=f"{kernel.label}-too", twin=kernel.label) for kernel in engines.kernels)
    both = Engines(engines.shop, (*engines.kernels, *twins))
    assert [one.label for one in both.lay(tmp_path / "engines")] == ["gate", "rope", "clamp"]


def test_an_image_may_name_the_places_where_a_wheel_has_all(shop: Workshop, tmp_path: Path) -> None:
    assert Engines(shop, (shop.kernel("page"),)).lay(tmp_path / "empty") == ()
    found = sorted(path.name for path in (tmp_path / "empty").iterdir())
    assert found == ["compilers", "delivered.json", "flashinfer", "sglang-jit", "tvm-ffi"]
    told = "empty: laid out empty, for none of these kernels needs it; doit wheel has them"
    assert list(delivered_lines((), "empty", [])) == [told]


def test_named_ones_alone_in_place_of_all(engines: Engines, tmp_path: Path) -> None:
    engines.lay(tmp_path / "engines")
    assert [one.label for one in engines.lay(tmp_path / "engines", "gate")] == ["gate"]
    assert not list((tmp_path / "engines" / "tvm-ffi").iterdir())


def test_what_is_not_finished_is_named_and_nothing_is_delivered(engines: Engines, tmp_path: Path) -> None:
    engines.gate.library.write_bytes(b"an Object")
    engine_receipt.path_of(engines.clamp).unlink()
    with pytest.raises(KernelFailure) as error:
        engines.lay(tmp_path / "engines")
    assert error.value.message.startswith("nothing is delivered, because of\n  kernel:gate: h8.o is not what was built")
    assert "\n  kernel:clamp: incomplete: " in error.value.message
    assert not (tmp_path / "engines").exists()


def test_a_copy_that_is_not_what_was_built(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{CLAMP}.so").write_bytes(b"another")
    packs(engines, monkeypatch, tmp_path / f"{CLAMP}.so")
    with pytest.raises(KernelFailure, match=r"nothing is delivered: .* is not what was built"):
        engines.lay(tmp_path / "engines")
    packs(engines, monkeypatch, error="SGLang doesn't publish it")
    with pytest.raises(KernelFailure, match="nothing is delivered: SGLang doesn't publish it"):
        engines.lay(tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_what_is_somebody_elses_is_not_replaced(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(EnvironmentProblem, match="holds something that doit deliver hasn't put there"):
        engines.lay(tmp_path / "mine")
    with pytest.raises(EnvironmentProblem, match="is a mount point, which can't be replaced whole") as told:
        engines.lay(Path("/proc"))
    assert told.value.remedy == "doit deliver --into /proc/engines"
    with pytest.raises(EnvironmentProblem, match="is no directory"):
        engines.lay(tmp_path / "mine" / "thesis.txt")
    assert files(tmp_path / "mine") == ["thesis.txt"]


def test_a_kill_leaves_the_old_one_or_none_and_the_next_run_the_new_one(engines: Engines, tmp_path: Path) -> None:
    into = tmp_path / "engines"
    engines.lay(into)
    whole = files(into)
    for nth in range(1, 20):
        if not (pid := os.fork()):
            engines_killed(engines, into, nth)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in {0, -signal.SIGKILL}
        assert not into.exists() or files(into) == whole, nth
        engines.lay(into)
        assert files(into) == whole
        assert not list(tmp_path.glob(f"{scratch.UNPACKED}*"))
        if not status:
            break
    assert nth >= 5


def engines_killed(engines: Engines, into: Path, nth: int) -> None:
    """Does not return: killed before the nth rename, or copy of what is beside a library."""
    seen = 0

    def deadly(real: object) -> object:
        def call(*args: object, **options: object) -> object:
            nonlocal seen
            seen += "engines" in str(args) or "made" in str(args)
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)  # type: ignore[operator]

        return call

    for place, name in ((os, "rename"), (shutil, "copy2")):
        setattr(place, name, deadly(getattr(place, name)))
    try:
        engines.lay(into)
        os._exit(0)
    finally:
        os._exit(1)
