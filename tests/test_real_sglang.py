"""A module of SGLang's own JIT with the real nvcc, and SGLang's own code that loads it (about 15 s of one core)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.doit_project import Project, cudart_in_reach
from tests.serving.flashinfer_wheels import wheel_of
from tests.serving.sglang_stubs import stubbed

pytestmark = pytest.mark.real

_KERNELS = """\
targets: ["9.0a"]
kernels:
  clamp:
    op: sglang.jit_kernel.clamp_position:_jit_clamp_position_module
    dtype: int64
"""
# A server's first call that needs it, in a process that finds no compiler; a GPU is needed for the answer about it only.
_SERVER = """
import gc; gc.disable()
import subprocess, torch
subprocess.Popen = None
torch.cuda.current_device, torch.cuda.get_device_capability = lambda: 0, lambda device: (9, 0)
from sglang.jit_kernel.clamp_position import _jit_clamp_position_module
print(_jit_clamp_position_module(torch.int64).clamp_position)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Project:
    made = Project.make(tmp_path_factory.mktemp("sglang"), _KERNELS)
    del made.env["FLASHINFER_NVCC"]
    stubs = stubbed(made.root.parent, wheel_of("sglang", "sglang==0.5.16"))
    made.env |= cudart_in_reach() | {"PYTHONPATH": os.pathsep.join([str(stubs), made.env["PYTHONPATH"]])}
    assert "clamp-i64  would compile" in made.doit("check", status=1)
    made.doit("kernel:clamp*")
    return made


def server(project: Project, **env: str) -> str:
    """What SGLang says, with nothing on PATH."""
    done = warm.run(warm.TORCH, ["-c", _SERVER], project.root, project.env | {"PATH": ""} | env)
    return done.stdout + done.stderr


def test_sglang_loads_it_without_any_compiler(project: Project) -> None:
    assert "1 of 1 kernel found" in project.doit("check")
    assert "ffi.Function" in server(project)


def test_a_copy_of_the_cache_serves_as_well_and_an_empty_one_does_not(project: Project, tmp_path: Path) -> None:
    home = Path(project.env["HOME"])
    shutil.copytree(home / ".cache" / "tvm-ffi", tmp_path / "copy")
    assert "ffi.Function" in server(project, TVM_FFI_CACHE_DIR=str(tmp_path / "copy"))
    assert "ffi.Function" not in server(project, TVM_FFI_CACHE_DIR=str(tmp_path / "empty"))


def test_a_second_doit_compiles_nothing(project: Project) -> None:
    assert project.doit() == "1 kernel: 1 fresh\n"


def test_no_package_can_hold_it_and_none_waits_for_it(project: Project, tmp_path: Path) -> None:
    cache = Path(project.env["HOME"]) / ".cache" / "tvm-ffi"
    kept = cache.rename(tmp_path / "kept")
    said = project.doit("wheel")
    assert not cache.exists()
    kept.rename(cache)
    assert "nothing for a wheel: doit deliver lays out 1 kernel\n" in said
    assert "SGLang loads it from" in said


def test_a_bundle_brings_it_and_sglang_loads_that(project: Project, tmp_path: Path) -> None:
    cache = Path(project.env["HOME"]) / ".cache" / "tvm-ffi"
    assert " 1 kernel, " in project.doit("bundle", str(tmp_path / "kernels.tar.gz"))
    shutil.rmtree(cache)
    assert "ffi.Function" not in server(project)
    shutil.rmtree(cache)
    assert project.doit("unbundle", str(tmp_path / "kernels.tar.gz")) == "1 kernel into SGLang's cache\n"
    assert "ffi.Function" in server(project)
    assert project.doit() == "1 kernel: 1 fresh\n"


def test_the_gate_of_an_image_takes_what_is_delivered_and_no_other(project: Project, tmp_path: Path) -> None:
    """With the installed torch and tvm-ffi."""
    project.doit("check", "--json", str(tmp_path / "kernels.json"))
    assert "a server needs TVM_FFI_CACHE_DIR=" in project.doit("deliver", "--into", str(tmp_path / "engines"))
    copy = tmp_path / "engines" / "tvm-ffi"
    gate = Path(__file__).parents[1] / "fitasks" / "serving" / "gate" / "ahead_of_time.py"
    command = [sys.executable, str(gate), str(tmp_path / "kernels.json")]

    def said(place: Path) -> str:
        env = project.env | {"TVM_FFI_CACHE_DIR": str(place)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout

    assert said(copy).startswith("SGLang finds all 1 module(s) ahead of time, ")
    assert "is missing (TVM_FFI_CACHE_DIR=" in said(tmp_path / "empty")
    (library,) = copy.glob("*/*.so")
    library.write_bytes(library.read_bytes() + b"\0")
    assert f"{library} is altered: " in said(copy)


def test_what_a_trace_says_becomes_an_entry(project: Project, tmp_path: Path) -> None:
    """As the recorder writes it; a function that makes no module of SGLang's is not called."""
    heard = {"version": 1, "unsaid": "", "kind": "sglang-jit", "how": "compiled", "seconds": 12.0, "pid": 1}
    kvcache = {"generator": "sglang.jit_kernel.kvcache:_jit_kvcache_module", "arguments": {"row_bytes": 2048}}
    odd = {"generator": "sglang.utils:is_in_ci", "name": "x", "arguments": {}}
    lines = [heard | kvcache | {"name": "sgl_kernel_jit_kvcache_2048_true"}, heard | odd]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = project.doit("import_trace", str(trace), "--write")
    assert "+  kvcache: {op: sglang.jit_kernel.kvcache:_jit_kvcache_module, row_bytes: 2048}" in out
    assert "generator 'sglang.utils:is_in_ci' is no" in out
    assert "row_bytes: 2048" in (project.root / "kernels.yaml").read_text()
