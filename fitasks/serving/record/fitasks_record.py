"""Waits for modules that compile to be imported, then has what they compile noted.

FlashInfer's by fitasks_notes.py, those of other toolchains by fitasks_toolchains.py and fitasks_deep_gemm.py, what else
a server waits for by fitasks_waits.py, and each compiler that a process starts by itself by fitasks_compilers.py.

Standard library only, and little of it: this runs in every process of a recorded server.
"""

from __future__ import annotations

import importlib
import sys

from fitasks_quietly import quietly

TYPE_CHECKING = False  # typing itself would cost 5 ms
if TYPE_CHECKING:
    from typing import Any

# A module of the server → our module and its function that is given it, and the trace.
_WATCHED = {
    "flashinfer.jit.core": ("fitasks_notes", "wrap"),
    "sglang.jit_kernel.utils.compile": ("fitasks_toolchains", "sglang_jit_kernel"),
    "sglang.kernels.jit.utils.compile.loader": ("fitasks_toolchains", "sglang_kernels"),
    "triton.knobs": ("fitasks_toolchains", "triton"),
    "cutlass.cute": ("fitasks_toolchains", "cute"),
    "tilelang.jit.kernel": ("fitasks_toolchains", "tilelang"),
    "deep_gemm": ("fitasks_deep_gemm", "wrap"),
    "vllm.third_party.deep_gemm": ("fitasks_deep_gemm", "wrap"),
    "torch._dynamo.convert_frame": ("fitasks_waits", "dynamo"),
    "torch._inductor.compile_fx": ("fitasks_waits", "inductor"),
    "flashinfer.autotuner": ("fitasks_waits", "flashinfer_autotuner"),
    "flashinfer.autotuner.autotuner": ("fitasks_waits", "flashinfer_autotuner"),
    "uvicorn.server": ("fitasks_waits", "uvicorn"),
}
_trace = ""


def install(path: str) -> None:
    """Record into `path`, which is absolute, from the moment that one of them is imported. Once per process."""
    global _trace
    if not _trace:
        _trace = path
        sys.meta_path.insert(0, _Finder())
        sys.addaudithook(_audited)


def _audited(event: str, args: Any) -> None:
    """A compiler that Python starts; those that a compiler starts are its own. Most events are none of ours."""
    if event == "subprocess.Popen":
        quietly(_started, args)


def _started(args: Any) -> None:
    import fitasks_compilers

    fitasks_compilers.started(args[0], args[1], args[2], _trace)


class _Finder:
    """Stands first in sys.meta_path; each module is wrapped when it has been executed (finding it isn't importing)."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _WATCHED:
            return None
        for finder in list(sys.meta_path):
            spec = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, "find_spec") else None
            if spec is not None:
                quietly(self._wrap_after, spec.loader, name)
                return spec
        return None

    def _wrap_after(self, loader: Any, name: str) -> None:
        original = loader.exec_module

        def exec_module(module: Any) -> None:
            original(module)
            quietly(_wrap, module, name)

        loader.exec_module = exec_module


def _wrap(module: Any, name: str) -> None:
    ours, function = _WATCHED[name]
    getattr(importlib.import_module(ours), function)(module, _trace)
