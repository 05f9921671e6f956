"""Modules of SGLang's own JIT: its directory, outputs named from it, a source that is written there, and no ninja."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.compile import receipt as receipts
from fitasks.compile.job import link_variables
from fitasks.plan.kernel import as_record, from_record, impossible
from fitasks.server.check import check
from fitasks.store.local import Store
from tests.sessions import session_of
from tests.workshop import TARGET

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop


@pytest.fixture
def rope(shop: Workshop) -> Kernel:
    kernel = shop.sglangs()
    assert shop.verdict(kernel).verdict == "stale"
    assert str(shop.verdict(kernel).first) == "new: never built"
    assert shop.build(kernel).outcome == "compiled"
    return kernel


def test_it_is_built_once_and_fresh(shop: Workshop, rope: Kernel) -> None:
    assert rope.library.is_file()
    assert {path.name for path in rope.build_dir.iterdir()} == {
        ".ninja_deps", ".ninja_log", "build.ninja", "cpp_0.o", "fitasks-receipt.json", "lock", "main.cpp",
        rope.library.name,
    }  # fmt: skip
    assert shop.verdict(rope).verdict == "fresh"
    assert shop.build(rope).outcome == "fresh"
    assert shop.ninja_would_run(rope) == "", "a server that can't load it asks its ninja"


def test_its_linker_finds_the_driver_that_its_flags_dont_name(shop: Workshop) -> None:
    env = {"CUDA_HOME": "/cuda", "LIBRARY_PATH": "/ours"}
    assert link_variables(env, shop.sglangs()) == {"LIBRARY_PATH": "/ours:/cuda/lib64/stubs"}
    others = (shop.kernel(), shop.cute_object("{}"), shop.keyed_module("clamp"))
    assert [link_variables(env, kernel) for kernel in others] == [{}, {}, {}]


def in_cache(shop: Workshop, name: str) -> Kernel:
    """The module, in a cache of this name."""
    place = shop.sglangs().build_dir
    return shop.sglangs_in(place.parent.with_name(name) / place.name)


@pytest.mark.parametrize(
    ("character", "why"),
    [
        (" ", "with a blank in one it can't build there"),
        ("$", "with `$` in one it can't build there"),
        ("|", "with `|` in one it can't build there"),
        (";", "with `;` in one doit can't tell there which headers were read"),
        ("#", "with `#` in one doit can't tell there which headers were read"),
    ],
)
def test_a_cache_that_ninja_cant_read_the_name_of_is_told_before_anything_is_compiled(
    shop: Workshop, character: str, why: str
) -> None:
    kernel = in_cache(shop, f"my{character}cache")
    with pytest.raises(KernelFailure) as told:
        shop.build(kernel)
    assert told.value.message.startswith("rope: SGLang's cache of modules is in ")
    assert str(kernel.build_dir.parent) in told.value.message
    assert told.value.message.endswith(why)
    assert told.value.remedy == "set TVM_FFI_CACHE_DIR, for doit and the server, to a directory whose path has none"
    assert not kernel.build_dir.exists()
    assert shop.build(shop.kernel()).outcome == "compiled", "no other kernel's trouble"
    (verdict,) = check(session_of(replace(shop.plan(), kernels=(kernel,)), judges={TARGET: shop.judge()}))
    assert (verdict.state, "TVM_FFI_CACHE_DIR" in verdict.reason) == (
        ("would fail", True) if why.endswith("build there") else ("would compile", False)
    )


@pytest.mark.parametrize("character", [":", "'", "é"])
def test_a_cache_that_ninja_can_read_the_name_of(shop: Workshop, character: str) -> None:
    kernel = in_cache(shop, f"my{character}cache")
    assert shop.build(kernel).outcome == "compiled"
    assert shop.build(kernel).outcome == "fresh"


def test_a_header_that_changed_under_its_old_time_makes_it_stale(shop: Workshop, rope: Kernel) -> None:
    header = shop.include / "common.h"
    times = header.stat()
    header.write_text("inline int common() { return 2; }\n")

    os.utime(header, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert str(shop.verdict(rope).first).startswith("{FLASHINFER}/include/common.h changed")
    assert shop.build(rope).outcome == "compiled"
    assert shop.verdict(rope).verdict == "fresh"


def test_another_text_of_its_source_makes_it_stale(shop: Workshop, rope: Kernel) -> None:
    """SGLang's directory keeps its name: only the sources of its package are in the hash."""
    (path, text), = rope.texts.items()  # fmt: skip
    other = replace(rope, texts={path: f"{text}int more() {{ return 2; }}\n"})
    first = shop.verdict(other).first
    assert first
    assert first.kind == "command"
    assert "main.cpp" in str(first)
    assert shop.build(other).outcome == "compiled"
    assert "int more()" in other.sources[0].read_text()
    assert shop.verdict(other).verdict == "fresh"


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [
        ("main.cpp", "fresh"),  # written again, whatever there is to do
        ("build.ninja", "fresh"),
        (".ninja_log", "healed"),
        ("cpp_0.o", "compiled"),
        ("sgl_kernel_jit_rope.so", "compiled"),
    ],
)
def test_what_is_lost_comes_back(shop: Workshop, rope: Kernel, lost: str, outcome: str) -> None:
    (rope.build_dir / lost).unlink()
    assert shop.build(rope).outcome == outcome
    assert shop.verdict(rope).verdict == "fresh"
    assert rope.library.is_file()
    assert rope.sources[0].is_file()


def test_times_that_changed_are_put_right(shop: Workshop, rope: Kernel) -> None:
    (shop.include / "common.h").touch()
    rope.sources[0].touch()
    assert shop.build(rope).outcome == "healed"
    assert shop.ninja_would_run(rope) == ""


def test_a_damaged_library_is_compiled_again(shop: Workshop, rope: Kernel) -> None:
    rope.library.write_bytes(rope.library.read_bytes()[:-1])
    assert "is not what was built" in str(shop.verdict(rope).first)
    assert shop.build(rope).outcome == "compiled"


def test_it_links_with_the_toolkits_stubs(shop: Workshop) -> None:
    """One module wants libcuda, and tvm-ffi, unlike FlashInfer, names no place where a machine without a driver has it."""
    stubs = shop.plan().toolkit.home / "lib64" / "stubs"
    stubs.mkdir(parents=True)
    command = [shop.cxx, "-shared", "-nostdlib", "-x", "c++", "/dev/null", "-o", str(stubs / "libofthedriver.so")]
    subprocess.run(command, check=True)
    kernel = shop.sglangs()
    wants = replace(kernel, ninja=kernel.ninja.replace("-nostdlib", "-nostdlib -lofthedriver"))
    assert shop.build(wants).outcome == "compiled"


def test_it_is_adopted_in_another_directory(shop: Workshop) -> None:
    """Though its source names headers by absolute paths."""
    shop.store = Store(shop.root / "store")
    kernel = shop.sglangs()
    assert shop.build(kernel).outcome == "compiled"
    shutil.move(shop.root / shop.site, shop.root / "other")
    shutil.rmtree(kernel.build_dir)
    shop.site = "other"
    moved = shop.sglangs()
    assert moved.texts != kernel.texts
    assert shop.build(moved).outcome == "adopted"
    assert shop.verdict(moved).verdict == "fresh"


def test_a_receipt_without_its_library_is_believed_by_nobody(shop: Workshop, rope: Kernel) -> None:
    receipts.path_of(rope).write_text("{")
    assert "its receipt is torn" in str(shop.verdict(rope).first)


def test_its_record_survives_json(shop: Workshop) -> None:
    kernel = shop.sglangs()
    record = json.loads(json.dumps(as_record(kernel)))
    assert from_record(record) == kernel
    assert impossible([record], [kernel.target]) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "flashinfer"},
        {"texts": {"/etc/cron.d/x": "text"}},
        {"ninja_file": "/elsewhere/build.ninja"},
        {"build_dir": "/home/tvm-ffi/other__arch_9.0a"},
        {"lock": "lock"},
    ],
)
def test_a_damaged_plan_names_no_file_elsewhere(shop: Workshop, change: dict[str, object]) -> None:
    record = as_record(shop.sglangs()) | change
    assert "with files that don't lie in" in impossible([record], ["9.0a"])
