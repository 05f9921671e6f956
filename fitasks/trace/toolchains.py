"""The toolchains that a recorded server compiles with: what a person calls them, and where what they made is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.trace.model import Requested

COMPILER = "compiler"  # not a toolchain: processes that Python started, for whichever of them
SERVER = "server"  # nor is this: when it began to answer


@dataclass(frozen=True)
class KnownToolchain:
    """`kept` is where its results lie; "" where each process makes them anew, None where that isn't known."""

    title: str
    kept: str | None = None
    ahead: bool = False  # whether kernels.yaml can name what it compiles


TOOLCHAINS = {
    "nvcc": KnownToolchain("FlashInfer, nvcc", "cached_ops", ahead=True),
    "cute-dsl": KnownToolchain("FlashInfer, CuTe-DSL", "cached_ops", ahead=True),
    "cute-dsl-in-memory": KnownToolchain("CuTe-DSL, in memory", ""),
    "sglang-jit": KnownToolchain(
        "SGLang's own JIT", "~/.cache/tvm-ffi, or ~/.cache/sglang/jit of newer versions", ahead=True
    ),
    "triton": KnownToolchain("Triton", "TRITON_CACHE_DIR (~/.triton/cache)"),
    "torch-compile": KnownToolchain("torch.compile, tracing", ""),
    "inductor": KnownToolchain("torch.compile, Inductor", "TORCHINDUCTOR_CACHE_DIR, vLLM's in ~/.cache/vllm"),
    "autotuning": KnownToolchain("FlashInfer, autotuning", "~/.cache/vllm/flashinfer_autotune_cache by vLLM"),
    "tirx": KnownToolchain("FlashInfer, TIRx", "cached_ops"),
    "other": KnownToolchain("others of FlashInfer"),
}


CUTE = "cute-dsl"


def nameable(one: Requested) -> bool:
    """Whether kernels.yaml may name it; of CuTe-DSL's objects those whose function, and its arguments, were heard."""
    known = TOOLCHAINS.get(one.kind)
    return bool(known and known.ahead) and (one.kind != CUTE or bool(one.generator and not one.unsaid))


@dataclass(frozen=True)
class Waited:
    """What a server did with one toolchain: `seconds` of all modules, each by the process that waited longest."""

    toolchain: KnownToolchain
    modules: int
    compiled: int  # the rest was there
    seconds: float  # of those that were compiled
    late: float  # of these seconds, those when the server was already answering


def waited(requested: Sequence[Requested]) -> list[Waited]:
    """By toolchain, the longest wait first."""
    found = []
    for kind in dict.fromkeys(one.kind for one in requested if one.kind not in {COMPILER, SERVER}):
        of_kind = [one for one in requested if one.kind == kind and one.loaded]
        compiled = [one for one in of_kind if one.compiled]
        toolchain = TOOLCHAINS.get(kind.replace("_", "-"), KnownToolchain(kind))
        seconds = sum(one.seconds for one in compiled)
        late = sum(one.seconds for one in compiled if one.late)
        found.append(Waited(toolchain, len(of_kind), len(compiled), seconds, late))
    return sorted((one for one in found if one.modules), key=lambda one: -one.seconds)
