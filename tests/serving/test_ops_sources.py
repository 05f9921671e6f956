"""Functions of SGLang's JIT and of CuTe-DSL, read from sources: of a package of a few lines, and of the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.flashinfer_wheels import sources_of, wheel_of
from tests.serving.planner_runs import PLAN

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "import json, ops_sources; print(json.dumps(list(ops_sources.operations())))"

SGLANG = '''
"""Nothing of it is imported: this would fail."""
raise SystemExit("imported")
def _jit_rope_module(is_neox: bool, rope_dim: int, dtype: torch.dtype = torch.bfloat16, *, kind: "Literal['a', 'b']"):
    """Rotates.

    At length.
    """
    assert rope_dim in (64, 128)
    return load_jit("rope", is_neox)
def get_reduce_module(world: Optional[int] = None, size=2): return utils.load_jit("reduce", world)
def uses_it(x): return _jit_rope_module(True, 64)
def load_jit(name): return load_jit(name)
class A:
    def method(self): return load_jit("a")
'''
CUTE = """
def _get_compiled(vec, dev: torch.device, mode: int | None, eps: float = 1e-6):
    if mode not in [1, 2]:
        raise ValueError(mode)
    return build_and_load_cute_dsl_kernel("norm", compile_fn=lambda: vec)
def run(q, out): return build_and_load_cute_dsl_kernel("run", q.shape)
def typed(q: torch.Tensor): return build_and_load_cute_dsl_kernel("typed")
def persistent(name: str, compile_fn): return build_and_load_cute_dsl_kernel(name, compile_fn)
"""


def listed(*paths: Path) -> dict[str, dict[str, Any]]:
    """What is listed for these directories of packages, without any site-packages."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [PLAN.parent, *paths]))}
    command = [sys.executable, "-S", "-c", SCRIPT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return {one["op"]: one for one in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("site")
    files = {
        "sglang/jit_kernel/rope.py": SGLANG,
        "sglang/jit_kernel/torn.py": "load_jit(",
        "sglang/kernels/ops/reduce_hip.py": "def _jit_x(): return load_jit('x')",
        "sglang/kernels/ops/__init__.py": "def _jit_y(a, b=dict(), c=None): return load_jit('y')",
        "sglang/srt/other.py": "def _jit_z(): return load_jit('z')",
        "flashinfer/norm/gate.py": CUTE,
        "flashinfer/jit/core.py": CUTE,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for package in ("sglang", "flashinfer"):
        (root / package / "__init__.py").write_text("raise SystemExit('imported')")
    return listed(root)


def test_which_functions_make_something(small: dict[str, dict[str, Any]]) -> None:
    assert {op: one["kind"] for op, one in small.items()} == {
        "sglang.jit_kernel.rope:_jit_rope_module": "sglang",
        "sglang.jit_kernel.rope:get_reduce_module": "sglang",
        "sglang.kernels.ops:_jit_y": "sglang",
        "flashinfer.norm.gate:_get_compiled": "cute",
    }


def parameters(one: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(parameter.values()) for parameter in one["parameters"]]


def test_what_they_take(small: dict[str, dict[str, Any]]) -> None:
    rope = small["sglang.jit_kernel.rope:_jit_rope_module"]
    assert (rope["doc"], rope["note"], rope["generator"]) == ("Rotates.", "", "sglang.jit_kernel.rope:_jit_rope_module")
    assert parameters(rope) == [
        ("is_neox", True, None, "bool", [False, True]),
        ("rope_dim", True, None, "int", [64, 128]),
        ("dtype", False, "bfloat16", "dtype", []),
        ("kind", True, None, "", ["a", "b"]),
    ]
    assert parameters(small["sglang.jit_kernel.rope:get_reduce_module"]) == [
        ("world", False, None, "int", []),
        ("size", False, 2, "", []),
    ]
    assert parameters(small["sglang.kernels.ops:_jit_y"])[1:] == [
        ("b", False, None, "", []),
        ("c", False, None, "", []),
    ]
    assert parameters(small["flashinfer.norm.gate:_get_compiled"]) == [
        ("vec", True, None, "", []),
        ("dev", True, None, "device", []),
        ("mode", True, None, "int", [None, 1, 2]),
        ("eps", False, 1e-6, "float", []),
    ]


def test_real_packages() -> None:
    """SGLang of both forms, and FlashInfer's objects."""
    found = listed(wheel_of("sglang", "sglang==0.5.16"), sources_of("flashinfer", "flashinfer-python==0.7.2.post1"))
    names = {kind: {op for op, one in found.items() if one["kind"] == kind} for kind in ("sglang", "cute")}
    assert len(names["sglang"]) == 118
    assert {
        "sglang.jit_kernel.all_reduce:get_all_reduce_module",
        "sglang.jit_kernel.all_reduce:_init_ipc_manager",
        "sglang.jit_kernel.clamp_position:_jit_clamp_position_module",
    } <= names["sglang"]
    assert "flashinfer.norm.kernels.rmsnorm_sigmoid_gate:_get_compiled" in names["cute"]
    assert not any("run" in op.rpartition(":")[2] for op in names["cute"]), "those take tensors"
    ratio = found["sglang.jit_kernel.dsv4.compress:_jit_compress_module"]["parameters"][-1]
    assert (ratio["name"], ratio["accepted"]) == ("ratio", [4, 128])
    keyed = listed(wheel_of("sglang", "sglang==0.5.23"))
    assert "sglang.kernels.ops.activation.activation:activation_module" in keyed
    assert all(op.startswith("sglang.kernels.") for op in keyed)
