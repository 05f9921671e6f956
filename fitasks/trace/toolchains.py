"""The toolchains that a recorded server compiles with: what a person calls them, and where what they made is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.trace.model import RAN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.trace.model import Requested

COMPILER = "compiler"  # not a toolchain: processes that were started for whichever of them
SERVER = "server"  # nor is this: when it began to answer, and when it ended


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
    "deep-gemm": KnownToolchain(
        "DeepGEMM",
        "DG_JIT_CACHE_DIR (~/.cache/deep_gemm, ~/.cache/sglang/deep_gemm by SGLang, ~/.cache/vllm/deep_gemm)",
    ),
    "tilelang": KnownToolchain(
        "TileLang", "TILELANG_CACHE_DIR (~/.tilelang/cache, ~/.cache/sglang/tilelang by SGLang)"
    ),
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
    unfinished: int = 0  # that a process was killed in
    left: float = 0.0  # seconds until then, of the one that was waited for longest; 0 where that isn't known


def waited(requested: Sequence[Requested]) -> list[Waited]:
    """By toolchain, the longest wait first."""
    found = []
    for kind in dict.fromkeys(one.kind for one in requested if one.kind not in {COMPILER, SERVER}):
        of_kind = [one for one in requested if one.kind == kind and one.loaded]
        compiled = [one for one in of_kind if one.compiled]
        toolchain = TOOLCHAINS.get(kind.replace("_", "-"), KnownToolchain(kind))
        seconds = sum(one.seconds for one in compiled)
        late = sum(one.seconds for one in compiled if one.late)
        left = [one.left for one in of_kind if one.unfinished]
        found.append(Waited(toolchain, len(of_kind), len(compiled), seconds, late, len(left), max(left, default=0.0)))
    return sorted((one for one in found if one.modules), key=lambda one: -one.seconds - one.left)


@dataclass(frozen=True)
class Compiler:
    """Processes of one compiler below a server; `seconds` of all of them, None where it is only known that they began.

    ninja's are those of its nvcc, too, and nvcc's those of its cicc. `late` are those of compilers that were at work
    when the server was already answering.
    """

    name: str
    processes: int
    seconds: float | None = None
    late: float = 0.0


def compilers(requested: Sequence[Requested]) -> list[Compiler]:
    """Those that ran, the longest first; where nobody watched them, those that Python started, the most first."""
    processes = [one for one in requested if one.kind == COMPILER]
    if ran := [one for one in processes if RAN in one.how]:
        found = [_of(name, those, _seconds(those)) for name, those in _by_name(ran)]
        return sorted(found, key=lambda one: -(one.seconds or 0.0))
    return sorted((_of(name, those) for name, those in _by_name(processes)), key=lambda one: -one.processes)


def _of(name: str, those: Sequence[Requested], seconds: float | None = None) -> Compiler:
    return Compiler(name, sum(one.times for one in those), seconds, _seconds([one for one in those if one.late]))


def _seconds(those: Sequence[Requested]) -> float:
    return sum(one.total for one in those)


def _by_name(processes: Sequence[Requested]) -> Iterator[tuple[str, list[Requested]]]:
    """By the word before what it worked on, "nvcc page.cu"."""
    for name in dict.fromkeys(one.name.partition(" ")[0] for one in processes):
        yield name, [one for one in processes if one.name.partition(" ")[0] == name]
