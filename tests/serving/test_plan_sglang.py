"""Planning modules of SGLang's own JIT: the real package's functions, compared with what they then do themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.serving.flashinfer_wheels import wheel_of
from tests.serving.planner_runs import PLAN, environment, request_of, run
from tests.serving.sglang_stubs import stubbed

CLAMP = "sglang.jit_kernel.clamp_position:_jit_clamp_position_module"
ROPE = "sglang.jit_kernel.rope:_jit_fused_rope_module"
ENTRIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (CLAMP, {"dtype": "int64"}),
    (ROPE, {"is_neox": True, "rope_dim": 128, "dtype": "bfloat16"}),
    ("sglang.jit_kernel.kvcache:_jit_kvcache_module", {"row_bytes": 2048}),
    ("sglang.jit_kernel.per_token_group_quant_8bit_v2:_jit_module",
     {"in_dtype": "bfloat16", "out_dtype": "float8_e4m3fn", "use_pdl": True}),
    ("sglang.jit_kernel.all_reduce:get_all_reduce_module", {"dtype": "bfloat16", "world_size": 2}),
    ("sglang.jit_kernel.all_reduce:_init_communicator", {}),
    ("sglang.jit_kernel.all_reduce:_init_ipc_manager", {}),
)  # fmt: skip
# SGLang's own way to the first step that needs a compiler, in a process that has none.
ITSELF = """
import gc; gc.disable()
import sys, torch, tvm_ffi.cpp.extension as extension
extension.build_ninja = lambda build_dir: None
torch.cuda.current_device, torch.cuda.get_device_capability = lambda: 0, lambda device: (9, 0)
from sglang.jit_kernel.clamp_position import _jit_clamp_position_module
from sglang.jit_kernel.rope import _jit_fused_rope_module
from sglang.jit_kernel.kvcache import _jit_kvcache_module
from sglang.jit_kernel.per_token_group_quant_8bit_v2 import _jit_module
from sglang.jit_kernel.all_reduce import get_all_reduce_module, _init_communicator, _init_ipc_manager
for make in (
    lambda: _jit_clamp_position_module(torch.int64),
    lambda: _jit_fused_rope_module(True, 128, torch.bfloat16),
    lambda: _jit_kvcache_module(2048),
    lambda: _jit_module(torch.bfloat16, torch.float8_e4m3fn, True),
    lambda: get_all_reduce_module(torch.bfloat16, 2),
    _init_communicator,
    _init_ipc_manager,
):
    try:
        make()
    except Exception as error:  # there is no library to load
        print(error, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, torch: None, flashinfer: None) -> dict[str, str]:
    """Of a server with SGLang 0.5.16, whose home is its own."""
    home = tmp_path_factory.mktemp("sglang")
    base = environment(home / "base", TVM_FFI_GPU_BACKEND="cuda", HOME=str(home))
    stubs = stubbed(home, wheel_of("sglang", "sglang==0.5.16"))
    return base | {"PYTHONPATH": os.pathsep.join([str(stubs), base["PYTHONPATH"]])}


@pytest.fixture(scope="module")
def planned(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    wrong: tuple[tuple[str, dict[str, Any]], ...] = (
        (CLAMP.replace("_jit_clamp", "_jit_klamp"), {"dtype": "int64"}),
        (CLAMP, {"dtyp": "int64"}),
        ("sglang.jit_kernel.utils.compile:_jit_build_dir_name", {"module_name": "x"}),
        ("sglang.nothing:_jit_module", {}),
        ("sglang.jit_kernel.rope:rotary_embedding", {}),
    )
    _, answer = run(PLAN, request_of(*ENTRIES, *wrong), tmp_path_factory.mktemp("asked"), env)
    kernels: list[dict[str, Any]] = answer["kernels"]
    return kernels


def test_it_is_planned_as_sglang_builds_it(planned: list[dict[str, Any]], env: dict[str, str], tmp_path: Path) -> None:
    home = Path(env["HOME"])
    assert not (home / ".cache" / "tvm-ffi").exists(), "planning writes nothing there"
    file = tmp_path / "server.py"
    file.write_text(textwrap.dedent(ITSELF))
    done = subprocess.run([sys.executable, str(file)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels = planned[: len(ENTRIES)]
    made = {path.name: path for path in (home / ".cache" / "tvm-ffi").iterdir()}
    assert {Path(one["build_dir"]).name for one in kernels} == set(made)
    for one in kernels:
        directory = made[Path(one["build_dir"]).name]
        assert (directory / "build.ninja").read_text() == one["ninja"]
        assert {str(directory / "cuda.cu")} == set(one["sources"]) == set(one["texts"])
        assert (directory / "cuda.cu").read_text() == one["texts"][one["sources"][0]]
        assert one["library"] == f"{directory}/{one['name']}.so"
        assert one["lock"] == f"{directory}/lock", "where tvm_ffi.cpp locks"
        assert one["kind"] == "sglang"


def test_arguments_are_said_back(planned: list[dict[str, Any]]) -> None:
    assert [one["params"] for one in planned[: len(ENTRIES)]] == [params for _, params in ENTRIES]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (0, "has no function _jit_klamp_position_module (did you mean _jit_clamp_position_module?)"),
        (1, "unknown parameter; _jit_clamp_position_module takes dtype (did you mean dtype?)"),
        (2, "makes 0 modules through tvm_ffi.cpp, not one"),
        (3, "unknown op; sglang.nothing cannot be imported here: ModuleNotFoundError"),
        (
            4,
            "sglang.jit_kernel.rope:rotary_embedding is no function of SGLang that makes a module: those call load_jit",
        ),
    ],
)
def test_mistakes_are_named(planned: list[dict[str, Any]], index: int, message: str) -> None:
    assert message in planned[len(ENTRIES) + index]["error"]["message"]


def test_a_target_of_several_gpus_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    _, answer = run(PLAN, request_of(ENTRIES[0]), tmp_path, env | {"FLASHINFER_CUDA_ARCH_LIST": "8.0 9.0a"})
    (one,) = answer["kernels"]
    assert one["error"]["message"].startswith("SGLang compiles for one GPU at a time, and the target is '8.0 9.0a'")


def test_a_trace_may_name_it_and_what_is_there_is_not_loaded(
    planned: list[dict[str, Any]], env: dict[str, str], tmp_path: Path
) -> None:
    """It would run in the planner. The cache is where the variable says, for another GPU."""
    library = Path(planned[0]["library"])
    there = tmp_path / "cache" / library.parent.name.replace("9.0a", "8.9") / library.name
    there.parent.mkdir(parents=True)
    there.write_text("not a library")
    moved = env | {"TVM_FFI_CACHE_DIR": str(tmp_path / "cache"), "FLASHINFER_CUDA_ARCH_LIST": "8.9"}
    odd: list[tuple[str, dict[str, Any]]] = [
        (f"sglang.jit_kernel.{name}", {}) for name in ("norm:_jit_nothing", "rope:apply_rope_inplace")
    ]
    _, answer = run(PLAN, request_of(ENTRIES[0], *odd, recorded=True), tmp_path, moved)
    right, *wrong = answer["kernels"]
    assert right["library"] == str(there)
    assert there.read_text() == "not a library"
    assert "compute_89,code=sm_89 " in right["ninja"]
    assert all("is no function of SGLang that makes a module" in one["error"]["message"] for one in wrong)
