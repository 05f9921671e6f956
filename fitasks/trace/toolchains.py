"""The toolchains that a recorded server compiles with: what a person calls them, and where what they made is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.trace.model import Requested

COMPILER = "compiler"  # not a toolchain: processes that Python started, for whichever of them


@dataclass(frozen=True)
class Toolchain:
    """`kept` is where its results lie, for whoever wants to keep them; "" where each process makes them anew."""

    title: str
    kept: str


TOOLCHAINS = {
    "nvcc": Toolchain("FlashInfer, nvcc", "cached_ops"),
    "cute-dsl": Toolchain("FlashInfer, CuTe-DSL", "cached_ops"),
    "cute-dsl-in-memory": Toolchain("CuTe-DSL, in memory", ""),
    "sglang-jit": Toolchain("SGLang's own JIT", "~/.cache/tvm-ffi, or ~/.cache/sglang/jit of newer versions"),
    "triton": Toolchain("Triton", "TRITON_CACHE_DIR (~/.triton/cache)"),
    "other": Toolchain("others of FlashInfer", "cached_ops"),
}


@dataclass(frozen=True)
class Waited:
    """What a server did with one toolchain: `seconds` of all modules, each by the process that waited longest."""

    toolchain: Toolchain
    modules: int
    compiled: int  # the rest was there
    seconds: float  # of those that were compiled


def waited(requested: Sequence[Requested]) -> list[Waited]:
    """By toolchain, the longest wait first."""
    found = []
    for kind in dict.fromkeys(one.kind for one in requested if one.kind != COMPILER):
        of_kind = [one for one in requested if one.kind == kind and one.loaded]
        compiled = [one for one in of_kind if one.compiled]
        toolchain = TOOLCHAINS.get(kind, Toolchain(kind, ""))
        found.append(Waited(toolchain, len(of_kind), len(compiled), sum(one.seconds for one in compiled)))
    return sorted((one for one in found if one.modules), key=lambda one: -one.seconds)
