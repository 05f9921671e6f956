"""What the recorder notes of DeepGEMM and TileLang: their packages' real Python code, without their C++ and a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fitasks.trace.coverage import coverage
from fitasks.trace.sources import read_sources
from fitasks.ui.trace_table import covered
from tests.serving.flashinfer_wheels import sources_of, wheel_of
from tests.serving.test_record_toolchains import recorded

if TYPE_CHECKING:
    from pathlib import Path

# The packages around one that is real: whatever they are asked for is there, and does nothing.
NOTHING = """
import importlib.machinery, sys, time, types
class Nothing(type):
    def __getattr__(cls, name):
        if name.startswith("__"): raise AttributeError(name)
        return Anything
class Anything(metaclass=Nothing):
    def __init__(self, *args, **kwargs): pass
    def __enter__(self): return self
    def __exit__(self, *args): return False
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return Anything()
    def __call__(self, *args, **kwargs): return Anything()
    def __iter__(self): return iter((Anything(), None))
    def __bool__(self): return False
class Around:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in AROUND and name != ALONE:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return types.ModuleType(spec.name)
    def exec_module(self, module):
        module.__path__ = [PLACE] if module.__name__ == ALONE.rpartition(".")[0] else []
        module.__getattr__ = lambda name: getattr(Anything, name)
sys.meta_path.insert(1, Around())  # behind the recorder's
"""
# What DeepGEMM's C++ does at the first call for a shape: a directory in its cache (deep_jit/cache/disk.hpp:
# `paths[0] / "cache" / entry_name`), after the seconds of a compile. A launch takes no time.
COMPILES = """
import os, time
def compiles(*args):
    place = os.path.join(os.environ["DG_JIT_CACHE_DIR"], "cache", f"kernel.{args[0]}.0123")
    if not os.path.isdir(place):
        time.sleep(0.1)
        if args[0] == "bad": raise RuntimeError("NVCC compilation failed")
        os.makedirs(place)
"""
# sgl-deep-gemm 0.2.5: `op = getattr(torch.ops.deep_gemm, name).default`; 0.1.4.post1: `tvm_ffi.load_module(lib_path)`.
TORCH = """
ops = {}
class Ops:
    def __getattr__(self, name):
        return ops.setdefault(name, types.SimpleNamespace(default=Op(name)))
class Op:
    def __init__(self, name): self.name = name
    def __call__(self, *args): return compiles(*args) if self.name == "cublaslt_gemm_nt" else None
class Module:
    def __getattr__(self, name):
        return getattr(Ops(), name).default
import torch, tvm_ffi
tvm_ffi.load_module = lambda path: Module()
torch.compiler = types.SimpleNamespace(is_compiling=lambda: False)
torch.ops = types.SimpleNamespace(load_library=lambda path: None, deep_gemm=Ops())
sys.modules["deep_gemm.locality_domain"] = Anything()  # callbacks for its C++
import deep_gemm
for name in ("gemm", "gemm", "bad"):
    try: deep_gemm.cublaslt_gemm_nt(name, "b", "d")
    except RuntimeError: pass
torch.compiler.is_compiling = lambda: True  # Dynamo, which can't trace a clock
assert deep_gemm._C.batched_syrk is ops["batched_syrk"].default
"""
# vLLM's, of DeepGEMM 2.8.1: `from ._C import (..., cublaslt_gemm_nt, ...)`, a module of pybind11, whose functions are
# no Python functions; with all else that its __init__.py takes from elsewhere.
VLLM = """
import functools, sys, types
class Native(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        setattr(self, name, functools.partial(compiles if name == "cublaslt_gemm_nt" else lambda *args: None))
        return getattr(self, name)
sys.modules["vllm.third_party.deep_gemm._C"] = Native("_C")
for name in ("mega", "mega.nvfp4", "locality_domain", "testing", "utils", "legacy"):
    part = sys.modules[f"vllm.third_party.deep_gemm.{name}"] = types.ModuleType(name)
    part.__path__, part.__all__ = [], []
    part.__getattr__ = lambda name: types.SimpleNamespace()
import vllm.third_party.deep_gemm as deep_gemm
deep_gemm.cublaslt_gemm_nt("gemm")
deep_gemm.cublaslt_gemm_nt("gemm")
try: deep_gemm.cublaslt_gemm_nt("bad")
except RuntimeError: pass
"""


def nothing(around: str, alone: str = "", place: str = "") -> str:
    return f"AROUND, ALONE, PLACE = {around.split()!r}, {alone!r}, {place!r}\n{NOTHING}"


def told(tmp_path: Path, script: str, *paths: Path) -> list[tuple[str, str]]:
    lines, said = recorded(tmp_path, script, *paths, DG_JIT_CACHE_DIR=str(tmp_path / "dg"), CUDA_HOME="/cuda")
    assert "fitasks" not in said
    heard = [line for line in lines if line["kind"] == "deep-gemm" and line["how"] not in {"begun", "over"}]
    assert not any(one.unfinished for one in read_sources([tmp_path / "trace.jsonl"]).requested)
    assert all(line["seconds"] > 0.09 for line in heard)
    return [(line["name"], line["how"]) for line in heard]


DEEP_GEMM = [("kernel.gemm.0123", "compiled"), ("cublaslt_gemm_nt", "failed")]


@pytest.mark.parametrize("version", ["0.1.4.post1", "0.2.5"])
def test_deep_gemm_of_sglangs_wheels(tmp_path: Path, version: str) -> None:
    assert (
        told(tmp_path, nothing("torch triton") + COMPILES + TORCH, wheel_of("deep_gemm", "sgl-deep-gemm==0.2.5"))
        == DEEP_GEMM
    )
    table = list(covered(coverage(read_sources([tmp_path / "trace.jsonl"]).requested, {}, None), "kernels.yaml"))
    assert any(line.startswith("  DeepGEMM: 2 modules, 2 of them compiled in 0.") for line in table)
    assert any("kept in DG_JIT_CACHE_DIR (" in line for line in table)


def test_deep_gemm_of_vllms_wheel(tmp_path: Path) -> None:
    real = sources_of("vllm", "vllm==0.33.0") / "vllm" / "third_party" / "deep_gemm"
    place = tmp_path / "site" / "vllm" / "third_party" / "deep_gemm"
    place.mkdir(parents=True)
    (place / "__init__.py").symlink_to(real / "__init__.py")
    (tmp_path / "site" / "torch.py").write_text("class compiler:\n    is_compiling = staticmethod(lambda: False)\n")
    assert told(tmp_path, COMPILES + VLLM, tmp_path / "site") == DEEP_GEMM


# tilelang/jit/kernel.py alone.
TILELANG = """
from tilelang.jit.kernel import JITKernel
func = types.SimpleNamespace(attrs={"global_symbol": "matmul"}, with_attr=lambda *args: func)
JITKernel._compile_artifact = lambda *args: time.sleep(0.1)
JITKernel._create_adapter_from_artifact = lambda *args: types.SimpleNamespace(func="compiled")
sys.modules["tilelang.jit.kernel"].prepare_tvm_ffi_callee_allocated_outputs = lambda func, out, **more: (func, out)
assert JITKernel(func, out_idx=[1]).torch_function == "compiled"
JITKernel._create_adapter_from_database = lambda *args, **more: types.SimpleNamespace(func="found")
found = JITKernel.from_database(func=func, host_kernel_source="", device_kernel_source="", kernel_lib_path="",
                                params=[], target="cuda", target_host=None, out_idx=[1], execution_backend="tvm_ffi")
assert found.torch_function == "found"
"""


def test_tilelang(tmp_path: Path) -> None:
    real = sources_of("tilelang", "tilelang==0.1.15") / "tilelang" / "jit"
    script = nothing("tilelang tvm", "tilelang.jit.kernel", str(real)) + TILELANG
    lines, said = recorded(tmp_path, script, tmp_path)
    assert said == ""
    assert [(line["name"], line["kind"], line["how"]) for line in lines] == [
        ("matmul", "tilelang", "begun"),
        ("matmul", "tilelang", "compiled"),
        ("matmul", "tilelang", "cached"),
    ]
    assert lines[1]["seconds"] > 0.09
