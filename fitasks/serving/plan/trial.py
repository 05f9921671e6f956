"""Compiles, links and loads ten lines of CUDA as FlashInfer would. Runs in the serving interpreter.

    <serving python> trial.py RESPONSE.json

The environment names architectures, toolkit and a FLASHINFER_WORKSPACE_BASE of its own, which is thrown away. The
response: {"version": 1, "steps": [{"name", "seconds", "value"}], "failed": "" or the step's name, "output": what the
compiler or loader said}. FlashInfer's own JitSpec writes the ninja file, so flags and link line are the real ones.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
from load_flashinfer import load  # noqa: E402
from plan_errors import FatalError, one_line  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

_SOURCE = """
#include <cuda_bf16.h>
#include <cuda_runtime.h>

__global__ void doubled(float* out) { *out = 2.0f * __bfloat162float(__float2bfloat16(21.0f)); }

extern "C" int fitasks_trial(int* runtime, float* answer) {
  cudaRuntimeGetVersion(runtime);
  float* out;
  if (cudaError_t status = cudaMalloc(&out, sizeof(float))) return status;
  doubled<<<1, 1>>>(out);
  if (cudaError_t status = cudaGetLastError()) return status;
  return cudaMemcpy(answer, out, sizeof(float), cudaMemcpyDeviceToHost);
}
"""
_NO_DEVICE = {35: "the driver is older than the CUDA runtime, or there is none", 100: "no GPU here"}


class StepError(Exception):
    """What kept a step from being done."""


def main(arguments: list[str]) -> int:
    """Run the script; the exit status."""
    os.dup2(2, 1)
    answer: dict[str, object] = {"version": 1, "steps": [], "failed": "", "output": ""}
    steps: list[dict[str, object]] = []
    name = ""
    try:
        state: dict[str, object] = {}
        for name, step in (("import", _import), ("compile and link", _compile), ("load", _load), ("run", _run)):
            begin = time.monotonic()
            value = step(state)
            steps.append({"name": name, "seconds": round(time.monotonic() - begin, 1), "value": value})
    except FatalError as error:
        answer |= {"failed": name, "output": error.fields["message"]}
    except Exception as error:
        answer |= {"failed": name, "output": str(error) if isinstance(error, StepError) else one_line(error)}
    path = Path(arguments[0])
    beside = Path(f"{path}.tmp")
    beside.write_text(json.dumps(answer | {"steps": steps}), encoding="utf-8")
    beside.replace(path)
    return 0


def _import(_state: dict[str, object]) -> str:
    head = load()
    return f"FlashInfer {head['flashinfer']}, torch {head['torch']}"


def _compile(state: dict[str, object]) -> str:
    from flashinfer.jit import core, env

    source = Path(env.FLASHINFER_GEN_SRC_DIR, "fitasks_trial.cu")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(_SOURCE, encoding="utf-8")
    spec = core.gen_jit_spec("fitasks_trial", [source])
    Path(spec.ninja_path).parent.mkdir(parents=True, exist_ok=True)
    spec.write_ninja()
    command = ["ninja", "-v", "-C", str(spec.build_dir), "-f", str(spec.ninja_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise StepError(done.stdout)
    state["library"] = spec.jit_library_path
    return "with FlashInfer's flags and link line"


def _load(state: dict[str, object]) -> str:
    state["loaded"] = ctypes.CDLL(str(state["library"]))
    return "all symbols found"


def _run(state: dict[str, object]) -> str:
    loaded: ctypes.CDLL = state["loaded"]  # type: ignore[assignment]
    runtime, answer = ctypes.c_int(), ctypes.c_float()
    status = loaded.fitasks_trial(ctypes.byref(runtime), ctypes.byref(answer))
    version = f"CUDA runtime {runtime.value // 1000}.{runtime.value % 1000 // 10}"
    if status in _NO_DEVICE:
        return f"{version}; not run on a GPU: {_NO_DEVICE[status]}"
    if status:
        raise StepError(f"{version}: CUDA error {status}")
    if answer.value != 42.0:
        raise StepError(f"{version}: the GPU computed {answer.value}, not 42")
    return f"{version}; the GPU computed what it should"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
