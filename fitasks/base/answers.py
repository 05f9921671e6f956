"""The shapes of what the scripts of fitasks/serving/ answer, and the one check of an answer against its shape.

`serving.python` may be any program, and a library that is loaded in it may write over our file: what comes back is
somebody else's. Keys that a TypedDict doesn't name are let through, a script says more than is read; a dataclass is
what the reader makes of it, and has no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from fitasks.base.border import brief
from fitasks.base.errors import BadInput
from fitasks.base.shape import MISSING, fits, misfit

MOST_BYTES = 256 << 20  # of an answer: a plan has some kB for each kernel


class Reading(TypedDict):
    """plan_reads.py."""

    files: list[str]
    looked: list[tuple[list[str], list[str]]]  # directories, and the names that were looked for


class Fatal(TypedDict):
    message: str
    remedy: NotRequired[str]


class Root(TypedDict):
    root: str
    version: str


class Interpreter(TypedDict):
    prefix: str
    path: list[str]
    site: list[str]
    packages: dict[str, Root]


class Described(Interpreter):
    """describe.py."""

    reads: Reading


class _Environment(TypedDict):
    """load_flashinfer.py."""

    flashinfer: str
    flashinfer_root: str
    torch: str
    tvm_ffi: str
    workspace: str
    arch: str
    passes_over: bool
    cuda_home: str


class Mistake(TypedDict):
    kind: str
    message: str
    parameter: NotRequired[str | None]


class Refused(TypedDict):
    id: int
    error: Mistake
    errors: NotRequired[list[Mistake]]


class Found(TypedDict):
    path: str
    architectures: list[str]


class Planned(TypedDict):
    """plan_spec.py."""

    id: int
    name: str
    params: dict[str, Any]
    generator: str
    build_dir: str
    library: str
    ninja_file: str
    ninja: str
    lock: str
    sources: list[str]
    aot: list[Found]
    kind: NotRequired[Literal["flashinfer", "sglang", "sglang-keyed"]]
    meta: NotRequired[str]
    texts: NotRequired[dict[str, str]]
    note: NotRequired[str]


class CuteObject(TypedDict):
    """cute_objects.py."""

    name: str
    directory: str
    path: str
    meta: str
    lock: str
    expected: dict[str, Any]


class BuiltObject(CuteObject):
    """cute_build.py: how is compiled, cached or failed."""

    how: str
    seconds: float
    message: str
    size: int
    sha256: str


class PlannedObjects(TypedDict):
    id: int
    params: dict[str, Any]
    objects: list[CuteObject]


class MadeObjects(TypedDict):
    id: int
    objects: list[BuiltObject]


class Objects(TypedDict):
    """cute_plan.py."""

    kernels: list[PlannedObjects | Refused]
    reads: Reading


class BuiltObjects(TypedDict):
    """cute_build.py."""

    kernels: list[MadeObjects | Refused]


class BuiltModule(TypedDict):
    """sglang_keyed_build.py: how is compiled, cached or failed."""

    id: int
    directory: str
    library: str
    how: str
    seconds: float
    message: str
    log: str
    size: int
    sha256: str


class BuiltModules(TypedDict):
    """sglang_keyed_build.py."""

    kernels: list[BuiltModule | Refused]
    reads: Reading


class PackedModule(TypedDict):
    """sglang_keyed_pack.py: the copy of a library, "" where there is none."""

    id: int
    packed: str


class PackedModules(TypedDict):
    """sglang_keyed_pack.py."""

    kernels: list[PackedModule | Refused]
    reads: Reading


class Plans(_Environment):
    """plan.py."""

    kernels: list[Planned | Refused]
    reads: Reading


@dataclass(frozen=True)
class Parameter:
    """`default` is what it is where kernels.yaml says nothing; FOLLOWS (config/shorthands.py) where it is dtype_q's."""

    name: str
    required: bool
    default: Any
    type: str  # dtype, bool, int, float, str; list: kernels.yaml cannot say it; "": the generator doesn't tell
    accepted: tuple[str | int | float | bool | None, ...]  # empty where FlashInfer's code doesn't tell


class Operation(TypedDict):
    op: str
    generator: str
    parameters: list[Parameter]
    doc: str
    note: str
    kind: Literal["flashinfer", "sglang", "cute"]


class Operations(TypedDict):
    """ops.py."""

    ops: list[Operation]
    reads: Reading


class Cudarts(TypedDict):
    """libcudart.py."""

    loaded: str | None
    how: str
    runtime_versions: dict[str, int | str]


@dataclass(frozen=True)
class Opened:
    """The file that a library's name leads to, or why it leads to none."""

    path: str
    problem: str


class Loaded(TypedDict):
    """loader.py."""

    problem: str
    process: str
    tvm_ffi: str
    files: list[str]
    libraries: dict[str, Opened]
    offers: dict[str, list[str]]


class Step(TypedDict):
    name: str
    seconds: float
    value: str


class Trial(TypedDict):
    """trial.py."""

    steps: list[Step]
    failed: str
    output: str


class Ready(TypedDict):
    """verify.py, its first line."""

    gpu: str
    torch: str
    flashinfer: str


@dataclass(frozen=True)
class Checked:
    """One computation: the largest error found and what was allowed, and a median run in milliseconds, if timed."""

    what: str
    error: float
    tolerance: float
    milliseconds: float | None


class Proven(TypedDict):
    """verify.py, a line for each request."""

    outcome: str
    message: str
    checks: list[Checked]


def checked(answer: Any, shape: type[Any]) -> Any:
    """Return the answer, if it has the shape. Raises BadInput with the place in it and what stands there."""
    if fits(answer, shape, theirs=True):
        return answer
    names, found = misfit(answer, shape)
    place = brief(".".join(names))[1:-1] or "the answer"
    stands = "missing" if found is MISSING else brief(found)
    raise BadInput(f"it answered what no script of ours does: {place} is {stands}")
