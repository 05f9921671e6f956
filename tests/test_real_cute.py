"""CuTe-DSL objects from kernels.yaml to FlashInfer's own code, without a GPU (each object takes about 2 s)."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doit_project import Project
from tests.serving.cute_server import GATE, LOADED, served
from tests.serving.test_ahead_of_time import SCRIPT

pytestmark = pytest.mark.real

_KERNELS = f"""\
targets: ["9.0a"]
kernels:
  gate:
    op: {GATE}:_get_compiled
    num_heads: [8, 4]
    x_token_stride: 1024
    gate_token_stride: 1024
    lanes: 16
    warps: 4
    cluster: 1
  rmsnorm:
    op: flashinfer.norm.kernels.rmsnorm:_get_compiled_rmsnorm_kernel
    dtype_str: bfloat16
    H: 4096
    weight_bias: 0.0
    enable_pdl: true
    sm_version: 90
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Project:
    if not importlib.util.find_spec("cutlass"):
        pytest.skip("nvidia-cutlass-dsl isn't installed")
    made = Project.make(tmp_path_factory.mktemp("cute"), _KERNELS)
    assert states(made, status=1) == ["would compile", "would compile", "unplanned"]
    said = made.doit("kernel:gate*")
    assert "compiling with CuTe-DSL; new: never built" in said
    assert said.endswith("2 kernels: 2 compiled\n")
    return made


def states(project: Project, *words: str, status: int = 0) -> list[str]:
    file = project.root / "check.json"
    project.doit("check", "--json", str(file), *words, status=status)
    return [one["state"] for one in json.loads(file.read_text())["kernels"]]


def objects(project: Project) -> list[Path]:
    return sorted(project.cached_ops.glob("*_cute_dsl/*.o"))


def test_flashinfer_finds_them_and_compiles_nothing(project: Project) -> None:
    assert states(project, "gate*") == ["cached", "cached"]
    env = project.env | {"FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
    empty = {"FLASHINFER_WORKSPACE_BASE": str(project.root / "empty")}
    assert served(env, {}, {"FLASHINFER_DISABLE_JIT": "1"}, empty) == [LOADED, LOADED, ["it compiles"]]


def test_a_second_doit_compiles_nothing(project: Project) -> None:
    assert project.doit("kernel:gate*") == "2 kernels: 2 fresh\n"


def test_what_flashinfer_keeps_nowhere_is_said(project: Project) -> None:
    assert "each process of a server compiles it anew, in memory" in project.doit("why", "rmsnorm*")


def test_altered_gpu_code_is_noticed_and_made_again(project: Project) -> None:
    """FlashInfer would load it without a word."""
    changed = objects(project)[0]
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    assert sorted(states(project, "gate*", status=1)) == ["cached", "unknown"]
    assert project.doit("kernel:gate*").endswith("2 kernels: 1 fresh, 1 compiled\n")
    assert states(project, "gate*") == ["cached", "cached"]


def test_no_package_can_hold_them(project: Project) -> None:
    said = project.doit("wheel", "gate*")
    assert "nothing for a wheel: doit deliver lays out 2 kernels\n" in said
    assert "alone, under a key of this environment's packages and paths" in said


def test_delivered_they_pass_the_gate_and_flashinfer_finds_them(project: Project) -> None:
    states(project, "gate*")
    assert "a server needs FLASHINFER_WORKSPACE_BASE=dist/engines/flashinfer" in project.doit("deliver", "gate*")
    place = project.root / "dist" / "engines" / "flashinfer"
    env = project.env | {"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "FLASHINFER_DISABLE_JIT": "1"}
    env |= {"FLASHINFER_WORKSPACE_BASE": str(place)}
    assert served(env, {}) == [LOADED]
    status, said = gate(project.root / "check.json", env)
    assert (status, said.startswith("FlashInfer finds all 2 module(s) ahead of time")) == (0, True), said
    (meta,) = place.rglob("meta.json")
    meta.write_text(meta.read_text().replace("sm90a", "sm80"))
    status, said = gate(project.root / "check.json", env)
    assert (status, said.count("which is of another key: arch is sm80, not sm90a")) == (1, 2)


def gate(file: Path, env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, file], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_bundle_brings_them_to_where_flashinfer_finds_them(project: Project) -> None:
    project.doit("bundle", "-f", "x.tar.gz", "gate*")
    (family,) = project.cached_ops.glob("*_cute_dsl")
    shutil.rmtree(family)
    assert project.doit("unbundle", "x.tar.gz") == "2 kernels into FlashInfer's cache\n"
    env = project.env | {"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "FLASHINFER_DISABLE_JIT": "1"}
    assert served(env, {}) == [LOADED]
    assert project.doit("kernel:gate*") == "2 kernels: 2 fresh\n"
