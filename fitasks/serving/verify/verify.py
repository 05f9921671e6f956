"""Proves modules on one GPU, one after another. Runs in the serving interpreter, pinned by CUDA_VISIBLE_DEVICES.

    <serving python> verify.py

One JSON request per line on standard input: {"id", "op", "name", "params", "library", "ninja", "exports"}, where ninja
is the text of the module's build file, "" for one that is loaded ahead of time. Answers are lines on standard output
(what FlashInfer prints goes to standard error). The first: {"ready": {"gpu", "torch", "flashinfer"}} or {"fatal":
sentence}. Then for each request {"id", "outcome", "checks": [{"what", "error", "tolerance", "milliseconds"}],
"message"}, where outcome is
    numerical   computed through FlashInfer's public API what float32 in torch computes
    loaded      no reference for it: it loads, and exports its functions; the message says why no more
    failed      wrong numbers, a module that doesn't load, another module loaded, a hidden compile
    busy        somebody holds the module's lock, and so builds it
    gpu         the GPU, not the module, seems to be the trouble; the process ends, its context may be poisoned
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)

if TYPE_CHECKING:
    from collections.abc import Callable

_RUNS = 5  # timed, after one that isn't
# Of torch, of FlashInfer's own macros, and cudaGetErrorString's words, which FlashInfer's checks repeat.
_GPU_TROUBLE = re.compile(
    r"cuda ?error|cudart error|out of memory|illegal (memory access|instruction|address)|misaligned address"
    r"|launch failure|device-side assert|uncorrectable|busy or unavailable",
    re.IGNORECASE,
)
# Errors of CUDA that say what is wrong with the module, wherever it runs.
_MODULE_TROUBLE = re.compile(
    r"no kernel image is available|invalid device function|invalid configuration argument|too many resources requested",
    re.IGNORECASE,
)


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
        return record | _numerically(request, checks)
    except UnsupportedError as error:
        return record | _loaded(request, str(error))
    except HiddenCompileError as error:
        return record | {"message": f"a server would compile: {error}"}
    except TimeoutError as error:  # filelock's, see verify_strict
        return record | {"outcome": "busy", "message": _line(error)}
    except Exception as error:
        return record | {"outcome": "gpu" if _is_the_gpu(error) else "failed", "message": _line(error)}


def _numerically(request: dict[str, Any], checks: list[dict[str, Any]]) -> dict[str, Any]:
    """Fill in the checks. Those that need another module, which isn't there, are left out, and that is said."""
    import verify_strict
    from verify_cases import checks_for

    verify_strict.LOADED.clear()
    verify_strict.REFUSED.clear()
    left_out = []
    for what, compute in checks_for(request["op"], request["params"]):
        try:
            error, tolerance, run = compute()
        except verify_strict.HiddenCompileError as hidden:
            if hidden.name == request["name"]:
                raise
            left_out.append(f"{what} (needs {hidden.name})")
            continue
        if request["library"] in _mapped():
            checks.append({"what": what, "error": error, "tolerance": tolerance, "milliseconds": _timed(run)})
            if not error <= tolerance:
                return {"message": f"{what}: error {error:.3g}, tolerance {tolerance:.3g}"}
    if request["name"] in verify_strict.REFUSED:  # and FlashInfer went on with something else
        return {"message": f"a server would compile: {verify_strict.REFUSED[request['name']]}"}
    if not checks:
        others = ", ".join(dict.fromkeys(verify_strict.LOADED)) or "none"
        return {"message": f"FlashInfer did not load {request['library']}; it loaded {others}"}
    return {"outcome": "numerical", "message": f"without {', '.join(left_out)}" if left_out else ""}


def _loaded(request: dict[str, Any], why: str) -> dict[str, Any]:
    """Load the file as FlashInfer does, and find every function that its sources export."""
    import tvm_ffi
    import verify_strict

    library = Path(request["library"])
    if request["ninja"] and (work := verify_strict.work(library.parent, request["ninja"])):
        return {"message": f"a server would compile: {work}"}
    module = tvm_ffi.load_module(str(library))
    if missing := [name for name in request["exports"] if not _has(module, name)]:
        return {"message": f"doesn't export {', '.join(missing)}, as its sources do"}
    return {"outcome": "loaded", "message": f"{why}; loaded, {len(request['exports'])} functions found"}


def _has(module: Any, name: str) -> bool:
    try:
        return module.get_function(name) is not None
    except (AttributeError, ValueError):
        return False


def _timed(run: Callable[[], Any] | None) -> float | None:
    """Median milliseconds of a run on the GPU; None where there is nothing to time."""
    import torch

    if run is None:
        return None
    times = []
    for _ in range(_RUNS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(round(sorted(times[1:])[_RUNS // 2], 4))


def _mapped() -> set[str]:
    """The files that this process has mapped, links resolved."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return {line.split(None, 5)[5] for line in lines if line.endswith(".so")}


def _is_the_gpu(error: Exception) -> bool:
    """Whether another GPU, or a fresh context, might do better: out of memory, an error of CUDA, a poisoned context."""
    import torch

    if _MODULE_TROUBLE.search(str(error)):
        return False
    if isinstance(error, torch.cuda.OutOfMemoryError) or _GPU_TROUBLE.search(str(error)):
        return True
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def _line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
