"""What a server does with modules of SGLang's own JIT: a library that is there is loaded as it is."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import receipt as receipts
from fitasks.graph.session import Session
from fitasks.server.check import check
from fitasks.server.conditions import conditions
from fitasks.server.exports import exports
from tests.sessions import session_of
from tests.workshop import TARGET

if TYPE_CHECKING:
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop


@pytest.fixture
def rope(shop: Workshop) -> Kernel:
    kernel = shop.sglangs()
    assert shop.build(kernel).outcome == "compiled"
    return kernel


def session(shop: Workshop, *kernels: Kernel, **env: str) -> Session:
    plan = shop.plan()
    server = replace(plan.server, env=plan.server.env | {"HOME": str(shop.root / "home")} | env)
    return session_of(replace(plan, server=server, kernels=kernels), ninja=shop.ninja, judges={TARGET: shop.judge()})


def said(shop: Workshop, kernel: Kernel, **env: str) -> str:
    (verdict,) = check(session(shop, kernel, **env))
    return f"{verdict.state}: {verdict.reason}"


def test_a_fresh_one_is_cached_whatever_flashinfer_may_do(shop: Workshop, rope: Kernel) -> None:
    """FLASHINFER_DISABLE_JIT is FlashInfer's; its cache need not even be writable."""
    assert said(shop, rope, FLASHINFER_DISABLE_JIT="1") == "cached: "
    (verdict,) = check(session(shop, rope))
    assert verdict.library == str(rope.library)
    assert verdict.bytes == rope.library.stat().st_size


def test_one_that_is_not_there_would_be_compiled(shop: Workshop) -> None:
    assert said(shop, shop.sglangs()) == "would compile: new: never built"


@pytest.mark.parametrize("lost", [".ninja_log", "build.ninja", "main.cpp", "cpp_0.o"])
def test_nobody_asks_ninja(shop: Workshop, rope: Kernel, lost: str) -> None:
    (rope.build_dir / lost).unlink()
    assert said(shop, rope).startswith("cached: ")


def test_touched_headers_mean_nothing(shop: Workshop, rope: Kernel) -> None:
    (shop.include / "common.h").touch()
    assert said(shop, rope).startswith("cached: ")


def test_a_header_with_other_contents_is_not_noticed_by_the_server(shop: Workshop, rope: Kernel) -> None:
    (shop.include / "common.h").write_text("inline int common() { return 2; }\n")
    assert said(shop, rope).startswith("outdated: SGLang loads it as it is, but {FLASHINFER}/include/common.h changed")


def test_anothers_library_is_loaded_all_the_same(shop: Workshop, rope: Kernel) -> None:
    receipts.path_of(rope).unlink()
    assert "somebody else compiled it" in said(shop, rope)
    assert said(shop, rope).startswith("cached: ")


def test_a_library_that_ends_too_early_kills_the_server(shop: Workshop, rope: Kernel) -> None:
    """The loader maps what isn't there, and SGLang catches no SIGBUS."""
    rope.library.write_bytes(rope.library.read_bytes()[:2000])
    assert said(shop, rope).startswith("would fail: ")


def test_what_the_loader_refuses_is_built_again_if_ninja_finds_work(shop: Workshop, rope: Kernel) -> None:
    rope.library.write_text("no library")
    later = rope.library.stat().st_mtime_ns + 10**9
    os.utime(shop.include / "common.h", ns=(later, later))
    assert said(shop, rope).startswith("would compile: ")


def test_what_the_loader_refuses_stays_refused_where_ninja_finds_none(shop: Workshop, rope: Kernel) -> None:
    rope.library.write_text("no library")
    assert said(shop, rope).startswith("would fail: ")


def test_where_it_lies_is_a_condition_only_where_a_variable_says_so(shop: Workshop, rope: Kernel) -> None:
    plain, moved = session(shop, rope), session(shop, rope, TVM_FFI_CACHE_DIR=str(rope.build_dir.parent))
    assert not [line for line in conditions(plain, check(plain)) if "TVM_FFI" in line]
    (line,) = [line for line in conditions(moved, check(moved)) if "TVM_FFI" in line]
    assert line.startswith(f"the server has TVM_FFI_CACHE_DIR={rope.build_dir.parent} (SGLang looks for its own")
    assert exports(moved.plan, shop.ninja.executable.parent)["TVM_FFI_CACHE_DIR"] == str(rope.build_dir.parent)
    assert "TVM_FFI_CACHE_DIR" not in exports(plain.plan, shop.ninja.executable.parent)


def test_it_asks_for_neither_toolkit_nor_ninja(shop: Workshop, rope: Kernel) -> None:
    made = session(shop, rope)
    told = conditions(made, check(made))
    assert not [line for line in told if "CUDA_HOME" in line or "ninja" in line]


def test_a_directory_that_is_gone_is_no_traceback(shop: Workshop, rope: Kernel) -> None:
    shutil.rmtree(rope.build_dir)
    rope.build_dir.write_text("a file in its place")
    assert said(shop, rope).startswith("would ")


def test_without_ninja_it_is_loaded_all_the_same(shop: Workshop, rope: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(shop, rope)

    def judge(kernel: Kernel) -> Judgement:
        raise EnvironmentProblem("no ninja on the server's PATH")

    monkeypatch.setattr(made, "judge", judge)
    (verdict,) = check(made)
    assert (verdict.state, verdict.reason) == ("cached", "what it was made from isn't compared: there is no ninja here")


def test_without_a_toolkit(shop: Workshop, rope: Kernel) -> None:
    """A host compiler may be there all the same."""
    made = session(shop, rope)
    made.problem = EnvironmentProblem("no CUDA toolkit")
    (shop.include / "common.h").rename(shop.include / "away.h")
    assert check(made)[0].state == "cached"
    rope.library.unlink()
    (verdict,) = check(made)
    assert (verdict.state, verdict.reason) == ("would fail", "nothing to compile it with: no CUDA toolkit")


@pytest.mark.parametrize("name", [".ninja_log", "fitasks-receipt.json"])
def test_a_directory_in_a_files_place_costs_no_other_kernel(shop: Workshop, rope: Kernel, name: str) -> None:
    (rope.build_dir / name).unlink()
    (rope.build_dir / name).mkdir()
    assert said(shop, rope).partition(":")[0] in {"unknown", "cached"}


def test_another_users_home_is_not_ours(shop: Workshop, rope: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLASHINFER_WORKSPACE_BASE, which is FlashInfer's, doesn't lead SGLang anywhere."""
    made = session(shop, rope, FLASHINFER_WORKSPACE_BASE=str(shop.root), HOME="/root")
    config = replace(made.plan.config, serving=replace(made.plan.config.serving, user="nobody"))
    monkeypatch.setattr(made, "_plan", replace(made.plan, config=config))
    assert exports(made.plan, shop.ninja.executable.parent)["TVM_FFI_CACHE_DIR"] == str(rope.build_dir.parent)
    assert [line for line in conditions(made) if "TVM_FFI_CACHE_DIR" in line]


def test_where_nothing_can_be_compiled_other_commands_mean_nothing(shop: Workshop, rope: Kernel) -> None:
    """Nor do headers that aren't there; those that are, count all the same."""
    other = replace(rope, ninja=rope.ninja.replace("cxx = c++", "cxx = /opt/gcc/bin/g++"))
    assert "command changed: cxx in build.ninja" in said(shop, other)
    assert said(shop, other, PATH=str(shop.root), CXX="none") == "cached: "
    (shop.include / "common.h").rename(shop.include / "away.h")
    assert said(shop, other).startswith("outdated: ")
    assert said(shop, other, PATH=str(shop.root), CXX="none") == "cached: "
    (shop.include / "common.h").write_text("inline int common() { return 2; }\n")
    assert said(shop, other, PATH=str(shop.root), CXX="none").startswith("outdated: ")
