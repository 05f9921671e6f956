from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fitasks.cuda import toolkit as toolkit_module
from fitasks.cuda.probe import ProbeMemo
from fitasks.cuda.survey import Linker, find_library, host_compiler
from fitasks.cuda.toolkit import choose_toolkit
from tests.cuda.fake_toolkit import Maker, calls, put
from tests.cuda.toolkit_world import NEEDS, World

PIP = "pip install 'cuda-toolkit[nvcc,nvvm,crt,cudart,cccl,cublas,curand,nvrtc]==13.0.*'"


def test_the_order_is_flashinfers(world: World, maker: Maker) -> None:
    default = maker.installed(world.base / "default", headers=NEEDS)
    assert world.choose() == world.expect_installed(default, "default")
    on_path = maker.installed(world.base / "on_path", headers=NEEDS)
    world.env["PATH"] += f":{on_path}/bin"
    assert world.choose() == world.expect_installed(on_path, "PATH")
    from_path = maker.installed(world.base / "cuda_path", headers=NEEDS)
    world.env["CUDA_PATH"] = str(from_path)
    assert world.choose() == world.expect_installed(from_path, "CUDA_PATH")
    real = maker.installed(world.base / "cuda-13.0", headers=NEEDS)
    home = world.base / "cuda"
    home.symlink_to(real)
    assert world.choose(CUDA_HOME=home) == world.expect_installed(home, "CUDA_HOME")
    assert world.choose(CUDA_HOME="") == world.expect_installed(from_path, "CUDA_PATH")


def test_pips_is_used_where_there_is_no_other(world: World, maker: Maker) -> None:
    root = maker.pip(world.site)
    assert world.choose() == world.expect_pip(root)


def test_an_incomplete_cuda_home_gives_way_to_pips_and_that_is_said(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda")
    (home / "lib64/stubs/libcuda.so").unlink()
    root = maker.pip(world.site)
    assert world.choose(CUDA_HOME=home) == world.expect_pip(
        root,
        "…/cuda (from CUDA_HOME) lacks cublasLt.h (cublas), lib64/stubs/libcuda.so (driver stub); "
        "using the pip toolkit 13.0.88 instead",
    )


def test_another_installed_one_is_named_by_its_place(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda")
    maker.installed(world.base / "default", headers=NEEDS)
    assert [note.replace(str(world.base), "…") for note in world.choose(CUDA_HOME=home).notes] == [
        "…/cuda (from CUDA_HOME) lacks cublasLt.h (cublas); using …/default (13.0.88) instead"
    ]


def test_every_candidate_is_told_with_what_it_lacks_and_how_to_get_it(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda")
    (home / "lib64/stubs/libcuda.so").unlink()
    (home / "nvvm/bin/cicc").unlink()
    (world.site / "nvidia/cu13/lib").mkdir(parents=True)  # torch brings the runtime alone
    shutil.copy(maker.library, world.site / "nvidia/cu13/lib/libcudart.so.13")
    assert world.problem(CUDA_HOME=home) == (
        "no complete CUDA toolkit:\n"
        "  …/cuda (from CUDA_HOME) lacks nvvm/bin/cicc (nvvm), cublasLt.h (cublas), "
        "lib64/stubs/libcuda.so (driver stub)\n"
        "  …/site/nvidia/cu13 (from pip) lacks bin/nvcc (nvcc), bin/cudafe++ (nvcc), bin/fatbinary (nvcc), "
        "bin/ptxas (nvcc), nvvm/bin/cicc (nvvm), include/crt/host_config.h (crt), "
        "include/cuda_runtime.h (cudart), cublasLt.h (cublas), cuda_runtime.h (cudart)\n"
        f"  remedy: {PIP}\n"
        "  or, for …/cuda: apt-get install libnvvm-13-0 libcublas-dev-13-0 cuda-driver-dev-13-0"
    )


def test_nothing_at_all(world: World) -> None:
    assert world.problem() == (
        "no CUDA toolkit: CUDA_HOME and CUDA_PATH are not set, no nvcc on PATH, no …/default, "
        f"none from pip in …/site\n  remedy: {PIP}"
    )


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"nvvm": "13.5.70"}, "nvvm 13.0 (it has 13.5.70, its nvcc is 13.0.88) (nvvm)"),
        ({"crt": "13.5.70"}, "crt 13.0 (it has 13.5.70, its nvcc is 13.0.88) (crt)"),
    ],
)
def test_pips_mixtures_are_refused_by_name(versions: dict[str, Any], told: str, world: World, maker: Maker) -> None:
    maker.pip(world.site, **versions)
    assert world.problem() == (
        f"no complete CUDA toolkit:\n  …/site/nvidia/cu13 (from pip) lacks {told}\n  remedy: {PIP}"
    )


def test_a_newer_patch_level_of_nvvm_is_no_mixture(world: World, maker: Maker) -> None:
    root = maker.pip(world.site, nvvm="13.0.99")
    assert world.choose().toolkit.root == root


def test_an_nvcc_that_does_not_run(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda", headers=NEEDS)
    (home / "bin/nvcc").chmod(0o644)
    assert world.problem(CUDA_HOME=home) == (
        "no complete CUDA toolkit:\n  …/cuda (from CUDA_HOME) lacks "
        "a bin/nvcc that runs: …/cuda/bin/nvcc --version: Permission denied (nvcc)\n"
        f"  remedy: {PIP}"
    )


def test_a_runtime_of_another_major_release(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda", headers=NEEDS)
    (home / "lib64/libcudart.so").unlink()
    put(home / "lib64/libcudart.so.12.9.79")
    (home / "lib64/libcudart.so").symlink_to("libcudart.so.12.9.79")
    assert "…/cuda (from CUDA_HOME) lacks libcudart.so of 13.0 (cudart)\n" in world.problem(CUDA_HOME=home)


def test_headers_in_targets_and_cccl_count(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda")
    put(home / "include/cccl/nv/target")
    put(home / f"targets/{os.uname().machine}-linux/include/cublasLt.h")
    assert world.choose(("nv/target", "cublasLt.h"), CUDA_HOME=home).notes == ()


@pytest.mark.parametrize(
    ("machine", "there", "complete"),
    [
        ("x86_64", ["x86_64"], True),
        ("aarch64", ["sbsa"], True),  # GH200, GB200, as in NVIDIA's repository and conda's packages
        ("aarch64", ["aarch64"], True),  # Jetson
        ("aarch64", ["aarch64", "sbsa"], True),
        ("aarch64", ["x86_64"], False),
        ("x86_64", ["sbsa"], False),  # what a toolkit for compiling for Arm has
    ],
)
def test_the_headers_of_this_kind_of_machine_count(
    world: World, maker: Maker, monkeypatch: pytest.MonkeyPatch, *, machine: str, there: list[str], complete: bool
) -> None:
    """The header is in the last of the directories that are there."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    home = maker.installed(world.base / "cuda")
    for name in there:
        header = put(home / f"targets/{name}-linux/include/cublasLt.h")
        header.unlink() if name != there[-1] else None
    if complete:
        assert world.choose(("cublasLt.h",), CUDA_HOME=home).toolkit.home == home
    else:
        assert "lacks cublasLt.h (cublas)" in world.problem(("cublasLt.h",), CUDA_HOME=home)


def test_machines_of_two_kinds_with_one_home_have_a_toolkit_each(
    world: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second would take the first one's links: their packages have the same versions."""
    names = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        world.site = world.base / machine
        root = maker.pip(world.site)
        toolkit = world.choose().toolkit
        assert toolkit.root == root
        assert (toolkit.home / "bin/nvcc").resolve() == root / "bin/nvcc"
        names.append(toolkit.home.name)
    assert names == ["cuda-13.0.88", "cuda-13.0.88-aarch64"]


def test_a_driver_in_the_linkers_path_counts_an_empty_file_does_not(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda", headers=NEEDS)
    (home / "lib64/stubs/libcuda.so").unlink()
    driver = put(world.base / "lib/libcuda.so", "")
    told = "lacks lib64/stubs/libcuda.so (driver stub)"
    assert told in world.problem(CUDA_HOME=home, LIBRARY_PATH=driver.parent)
    put(driver)
    assert world.choose(CUDA_HOME=home, LIBRARY_PATH=driver.parent).toolkit.home == home
    flags = f"-lx -L{driver.parent}"
    assert world.choose(CUDA_HOME=home, FLASHINFER_EXTRA_LDFLAGS=flags).toolkit.home == home


def test_the_linkers_default_directories_are_asked_for(tmp_path: Path) -> None:
    linker = Linker({"PATH": os.environ["PATH"]}, ProbeMemo(tmp_path / "memo.json"))
    assert find_library("libc.so", tmp_path, linker) is not None
    assert find_library("libnosuch.so", tmp_path, linker) is None
    assert Path("/usr/local/lib") in linker.dirs()


def wrapper(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    put(path, text).chmod(0o755)


def test_nvcc_on_path_through_wrappers_and_links(world: World, maker: Maker) -> None:
    home = maker.installed(world.base / "cuda-13.0", headers=NEEDS)
    nvcc = world.bin / "nvcc"
    wrapper(nvcc, f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    assert world.choose() == world.expect_installed(home, "PATH")
    nvcc.unlink()
    nvcc.symlink_to(home / "bin" / "nvcc")
    assert world.choose() == world.expect_installed(home, "PATH")
    wrapper(nvcc, f'#!/bin/sh\nif [ "$1" = --dryrun ]; then echo "#$ TOP={home}/bin/.."; fi\n')
    assert world.choose() == world.expect_installed(home, "PATH")


def test_a_plain_nvcc_on_path_keeps_the_string_that_a_server_would_use(world: World, maker: Maker) -> None:
    (world.base / "cuda").symlink_to(maker.installed(world.base / "cuda-13.0", headers=NEEDS))
    world.env["PATH"] += f":{world.base}/cuda/bin"
    assert world.choose() == world.expect_installed(world.base / "cuda", "PATH")


def test_pips_own_directory_named_by_hand_is_assembled(world: World, maker: Maker) -> None:
    root = maker.pip(world.base / "elsewhere")
    assert world.choose(CUDA_HOME=root) == world.expect_pip(root)
    world.env["PATH"] += f":{root}/bin"
    assert world.choose() == world.expect_pip(root)


def test_an_assembled_home_named_by_hand_stays_and_is_mended(world: World, maker: Maker) -> None:
    root = maker.pip(world.site)
    chosen = world.choose()
    home = chosen.toolkit.home
    assert world.choose(CUDA_HOME=home) == chosen
    kept = world.base / "kept" / "cuda-13.0.88"
    kept.parent.mkdir()
    shutil.copytree(home, kept, symlinks=True)
    shutil.rmtree(home)
    (kept / "lib64/libcudart.so").unlink()
    assert world.choose(CUDA_HOME=kept).toolkit.home == kept
    assert (kept / "lib64/libcudart.so").exists()
    assert not home.exists()
    shutil.move(world.site, world.base / "moved")
    world.site = world.base / "moved"
    assert world.choose(CUDA_HOME=kept).toolkit.root == world.base / "moved/nvidia/cu13"
    assert not root.exists()


def test_no_host_compiler(world: World, maker: Maker) -> None:
    maker.pip(world.site)
    (world.bin / "c++").unlink()
    assert world.problem() == (
        "no host compiler: c++ is not on PATH\n  remedy: apt-get install g++, or set CXX to the compiler"
    )


def test_the_compiler_is_the_one_of_flashinfers_commands(tmp_path: Path) -> None:
    for name in ("c++", "clang++", "ccache"):
        put(tmp_path / name).chmod(0o755)
    path = {"PATH": str(tmp_path)}
    assert host_compiler(path) == tmp_path / "c++"
    assert host_compiler(path | {"CXX": "/usr/bin/ccache clang++ -m64"}) == tmp_path / "clang++"


def test_a_warm_choice_starts_nothing(world: World, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    home = maker.installed(world.base / "cuda")
    root = maker.pip(world.site)
    first = world.choose(CUDA_HOME=home)
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: pytest.fail("a process was started"))
    assert world.choose(CUDA_HOME=home) == first
    assert [calls(directory / "bin" / "nvcc") for directory in (home, root)] == [1, 1]


@pytest.mark.real
def test_pips_real_toolkit_is_complete_for_what_flashinfer_needs(
    tmp_path: Path, pip_toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit_module, "DEFAULT_HOME", tmp_path / "default")
    needs = (
        "cublasLt.h",
        "cublas_v2.h",
        "cub/cub.cuh",
        "cuda_bf16.h",
        "curand_kernel.h",
        "nv/target",
        "nvrtc.h",
    )
    environment = {"PATH": "/usr/bin:/bin"}
    probe = ProbeMemo(tmp_path / "memo.json")
    chosen = choose_toolkit(environment, [pip_toolkit.parents[1]], needs, probe, tmp_path / "cache")
    assert chosen.notes == ()
    assert (chosen.toolkit.origin, chosen.toolkit.root) == ("pip", pip_toolkit)
    assert chosen.toolkit.home.name == f"cuda-{chosen.toolkit.build.split()[0][1:]}"
    assert chosen.toolkit.cudart == pip_toolkit / "lib" / "libcudart.so.13"
