"""What kernels.yaml says, as frozen records. Knows nothing of any FlashInfer version."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fitasks.config.stores import StoreRequest  # noqa: TC001 - memos compare what they say with these types

Scalar = str | int | float | bool | None
Engine = Literal["sglang", "vllm", "none"]
CudartPolicy = Literal["patch", "check", "ignore"]

MOST_BYTES = 256 * 1024  # of kernels.yaml: some seconds of PyYAML; a real file has a few KiB
DEFAULT_TIMEOUT = 4 * 3600  # seconds; others report 1.5 h for one CUTLASS MoE module


@dataclass(frozen=True)
class Position:
    """Where something stands: 1-based line and column, as editors count."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Serving:
    """The server that kernels are built for. `python` is "" for the interpreter that runs doit.

    `user` is a name, "1000" or "1000:1000", as the server's process has it; "" for who runs doit.
    """

    python: str = ""
    engine: Engine = "none"
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""


@dataclass(frozen=True)
class ModelRequest:
    """One entry of `models:`: a model and how it is served; what kernels that needs is derived (fitasks/models)."""

    name: str
    config: str  # path of config.json, or of the directory that it is in
    engine: Literal["sglang", "vllm"]
    place: Position
    version: str = ""  # of the engine; "" for the one that is installed, or else that the rules were read in
    tensor_parallel: int = 1
    kv_cache_dtype: str = "auto"  # as the engines say it: auto, fp8_e4m3, fp8_e5m2
    attention_backend: str = "auto"
    speculative: bool = False


@dataclass(frozen=True)
class KernelConfig:
    """One point of an entry's matrix: an op and its parameters, as written (nothing defaulted yet)."""

    entry: str  # key under `kernels:`
    op: str  # "batch_prefill", or "module:function"
    label: str  # "prefill-fa3-bf16-d128": unique in the file, made from this point alone
    params: dict[str, Scalar]
    place: Position  # of the entry's key
    param_places: dict[str, Position]  # of each parameter's key
    targets: tuple[str, ...] = ()  # that it is for; () for all
    if_loaded: bool = False  # only where FlashInfer loads an nvcc module for it, which it says when it is asked


@dataclass(frozen=True)
class Config:
    """A whole kernels.yaml. `targets` holds "auto" or architecture lists in FlashInfer's form ("8.0 9.0a")."""

    file: str
    serving: Serving
    targets: tuple[str, ...]
    sm90: bool
    cudart: CudartPolicy
    kernels: tuple[KernelConfig, ...]
    jobs: int | None = None  # compilers at once; None: as cores and memory allow
    timeout: int = DEFAULT_TIMEOUT  # seconds per kernel, 0 is none
    split_compile: bool = True
    models: tuple[ModelRequest, ...] = ()
    generators: tuple[str, ...] = ()  # packages beside FlashInfer whose gen_… functions may be called
    stores: tuple[StoreRequest, ...] = ()  # elsewhere, in the order in which they are asked
