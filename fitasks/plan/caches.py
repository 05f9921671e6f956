"""Where FlashInfer's caches lie, by engine: FlashInfer's own default, and the ones that engines set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.environment import home

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.plan.plan import Plan

CACHED_OPS, GENERATED = "cached_ops", "generated"  # in a workspace, `<version>/<architectures>`: modules, sources
LOCKS = "tmp"  # in cached_ops
META = "meta.json"  # beside CuTe-DSL objects
TVM_FFI = "tvm-ffi"  # what the directory of SGLang's own modules is called by default
_BELOW = Path(".cache", "flashinfer")  # of FLASHINFER_WORKSPACE_BASE (flashinfer/jit/env.py)


def used(env: Mapping[str, str]) -> Path:
    """Where FlashInfer looks in this environment. Raises EnvironmentProblem without a home."""
    return Path(env.get("FLASHINFER_WORKSPACE_BASE") or home(env)) / _BELOW


def sglang_base(env: Mapping[str, str]) -> str:
    """What `import sglang` makes of FLASHINFER_WORKSPACE_BASE, from 0.5.18 on, where that isn't set."""
    return env.get("SGLANG_CACHE_DIR") or f"{home(env)}/.cache/sglang"


def of_engines(env: Mapping[str, str]) -> dict[Path, str]:
    """Each directory with the engines that read it by default."""
    found: dict[Path, str] = {}
    for base, engines in ((home(env) / _BELOW, "FlashInfer, vLLM"), (Path(sglang_base(env)) / _BELOW, "SGLang")):
        found[base] = f"{found[base]}, {engines}" if base in found else engines
    return found


def bases(plan: Plan) -> tuple[Path, ...]:
    """The cache directories in which kernels of this plan may have been compiled: the one in use first."""
    in_use = [target.base for target in plan.targets.values()]
    return tuple(dict.fromkeys([*in_use, *of_engines(plan.server.env)]))
