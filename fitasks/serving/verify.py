"""Proves modules on one GPU, one after another. Runs in the serving interpreter, pinned by CUDA_VISIBLE_DEVICES.

    <serving python> verify.py

One JSON request per line on standard input: {"id", "op", "name", "params", "library", "exports"}. Answers are lines on
standard output (what FlashInfer prints goes to standard error). The first: {"ready": {"gpu", "torch", "flashinfer"}} or
{"fatal": sentence}. Then for each request {"id", "outcome", "checks": [{"what", "error", "tolerance", "milliseconds"}],
"message"}, where outcome is
    numerical   computed through FlashInfer's public API what float32 in torch computes
    loaded      no reference for it: it loads, and exports its functions; the message says why no more
    failed      wrong numbers, a module that doesn't load, another module loaded, a hidden compile
    gpu         the GPU, not the module, seems to be the trouble; the process ends, its context may be poisoned
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)

if TYPE_CHECKING:
    from collections.abc import Callable

_RUNS = 5  # timed, after one that isn't


def main() -> int:
    """Answer until standard input ends; the exit status."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    try:
        ready = _prepare()
    except Exception as error:
        answer({"fatal": f"{type(error).__name__}: {_line(error)}"})
        return 3
    answer({"ready": ready})
    for line in sys.stdin:
        record = prove(json.loads(line))
        answer(record)
        if record["outcome"] == "gpu":
            return 4
    return 0


def _prepare() -> dict[str, str]:
    import torch

    torch.zeros(1, device="cuda")  # no GPU, no context: said before anything else
    torch.backends.cuda.matmul.allow_tf32 = False
    import flashinfer
    import verify_strict

    verify_strict.install()
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "flashinfer": flashinfer.__version__}


def prove(request: dict[str, Any]) -> dict[str, Any]:
    """One request's answer; whatever goes wrong is part of it."""
    from verify_cases import UnsupportedError
    from verify_strict import HiddenCompileError

    checks: list[dict[str, Any]] = []
    record = {"id": request["id"], "outcome": "failed", "checks": checks, "message": ""}
    try:
        message = _numerically(request, checks)
        return record | {"outcome": "failed" if message else "numerical", "message": message}
    except UnsupportedError as error:
        return record | _loaded(request, str(error))
    except HiddenCompileError as error:
        return record | {"message": f"a server would compile: {error}"}
    except Exception as error:
        return record | {"outcome": "gpu" if _is_the_gpu(error) else "failed", "message": _line(error)}


def _numerically(request: dict[str, Any], checks: list[dict[str, Any]]) -> str:
    """Fill in the checks; what is wrong, "" if nothing. Sub-checks that need a module that isn't ours are left out."""
    from verify_cases import checks_for
    from verify_strict import LOADED, HiddenCompileError

    LOADED.clear()
    used = False
    for what, compute in checks_for(request["op"], request["params"]):
        try:
            error, tolerance, run = compute()
        except HiddenCompileError as hidden:
            if hidden.name == request["name"]:
                raise
            continue
        used = used or request["library"] in _mapped()
        checks.append({"what": what, "error": error, "tolerance": tolerance, "milliseconds": _timed(run)})
        if not error <= tolerance:
            return f"{what}: error {error:.3g}, tolerance {tolerance:.3g}"
    if not used:
        others = ", ".join(dict.fromkeys(LOADED)) or "none"
        return f"FlashInfer did not load {request['library']}; it loaded {others}"
    return ""


def _loaded(request: dict[str, Any], why: str) -> dict[str, Any]:
    """Load the file as FlashInfer does, and find every function that it exports."""
    import tvm_ffi

    module = tvm_ffi.load_module(request["library"])
    missing = [name for name in request["exports"] if not _has(module, name)]
    if missing or not request["exports"]:
        return {"outcome": "failed", "message": f"exports nothing of {', '.join(missing) or 'what tvm-ffi calls'}"}
    return {"outcome": "loaded", "message": f"{why}; loaded, {len(request['exports'])} functions found"}


def _has(module: Any, name: str) -> bool:
    try:
        return module.get_function(name) is not None
    except (AttributeError, ValueError):
        return False


def _timed(run: Callable[[], Any]) -> float:
    """Median milliseconds of a run on the GPU."""
    import torch

    times = []
    for _ in range(_RUNS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return round(sorted(times[1:])[_RUNS // 2], 4)


def _mapped() -> set[str]:
    """The files that this process has mapped."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return {line.split(None, 5)[5] for line in lines if line.endswith(".so")}


def _is_the_gpu(error: Exception) -> bool:
    """Whether another GPU, or a fresh context, might do better: out of memory, or any error of CUDA itself."""
    import torch

    kinds = (torch.cuda.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError))
    return isinstance(error, kinds) or "CUDA error" in str(error) or "cudaError" in str(error)


def _line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
