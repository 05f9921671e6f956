"""Which way FlashInfer goes where it has both an nvcc module and CuTe-DSL kernels for one purpose (norm)."""

from __future__ import annotations

import os
import re
import sys

from plan_errors import PlanError

_IN_MEMORY = "CuTe-DSL, compiled in memory by each process"
_ONLY_WITHOUT_DSL = (
    "the server prefers CuTe-DSL kernels; it loads this module with FLASHINFER_USE_CUDA_NORM=1, without "
    "nvidia-cutlass-dsl, or on an architecture that the DSL does not support"
)


def refuse_unless_loaded(op: str) -> None:
    """Raise PlanError of the kind "skipped" where the server takes CuTe-DSL kernels in place of the op's module."""
    if _takes_dsl(op):
        raise PlanError("skipped", f"{op}: {_IN_MEMORY}")


def load_condition(op: str) -> list[str]:
    """A sentence on when the server loads the module, where FlashInfer has CuTe-DSL kernels for the same purpose."""
    off = _off(op)
    if off is None:
        return []
    if _takes_dsl(op):
        return [_ONLY_WITHOUT_DSL]
    why = "the CuTe-DSL path is off in this environment" if off else "CuTe-DSL may not serve this target's GPUs"
    return [f"the server loads this module: {why}"]


def _takes_dsl(op: str) -> bool:
    """Whether GPUs of the target's architecture get CuTe-DSL kernels (flashinfer/norm: _USE_CUDA_NORM, _use_cuda_norm).

    On a host of several architectures 0.7.4 decides for each GPU, by the first one's: there the module is needed, too.
    """
    if _off(op) is not False:
        return False
    architectures = re.findall(r"(\d+)\.(\d+)", os.environ.get("FLASHINFER_CUDA_ARCH_LIST", ""))
    supports = getattr(sys.modules[f"flashinfer.{op}"], "_cute_dsl_supports_arch", None)
    if supports is None:  # until 0.6.14 or later all of them
        return True
    return len(architectures) == 1 and all(supports(int(major), int(minor)) for major, minor in architectures)


def _off(op: str) -> bool | None:
    """What FlashInfer found at its import: the variable, or no nvidia-cutlass-dsl. None where there is no choice."""
    off: bool | None = getattr(sys.modules.get(f"flashinfer.{op}"), "_USE_CUDA_NORM", None)
    return off
