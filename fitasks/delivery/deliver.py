"""`doit deliver`: what no package can hold, in one directory, laid out for a server that compiles nothing.

    flashinfer/       FLASHINFER_WORKSPACE_BASE: CuTe-DSL objects, in a cache of FlashInfer's
    tvm-ffi/          TVM_FFI_CACHE_DIR: modules of SGLang's own JIT (0.5.16)
    sglang-jit/       SGLANG_JIT_CACHE_DIR: modules that SGLang keeps by content (0.5.23)
    compilers/bin/    on PATH: nvcc and c++ that say what the real ones say of their versions, and can do nothing else
    delivered.json    what is there

All but the last are there whatever is planned, so that an image can name them. Each file is compared with its receipt
as it is copied; the directory comes whole, by a rename.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.answers import PackedModules
from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile.judge import engine_receipt
from fitasks.delivery.bundle.staging import staging
from fitasks.delivery.collect import collected, refuse_nothing
from fitasks.plan.whole import request_for
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fitasks.compile.judge.freshness import Judge
    from fitasks.plan.kernel import Kernel, Kind
    from fitasks.plan.plan import Plan

NAME = "delivered.json"
PLACES: dict[Kind, str] = {"cute": "flashinfer", "sglang": "tvm-ffi", "sglang-keyed": "sglang-jit"}
_COMPILERS = "compilers/bin"
_VARIABLES: dict[Kind, str] = {
    "cute": "FLASHINFER_WORKSPACE_BASE={}/flashinfer",
    "sglang": "TVM_FFI_CACHE_DIR={}/tvm-ffi",
    "sglang-keyed": "SGLANG_JIT_CACHE_DIR={0}/sglang-jit PATH={0}/compilers/bin:$PATH",
}
_BASE = Path(".cache", "flashinfer")  # what FlashInfer adds to its variable
_PACK = interpreter.SCRIPTS / "plan" / "sglang_keyed_pack.py"


@dataclass(frozen=True)
class Delivered:
    """A kernel's library: its path below the directory, its SHA-256 and bytes."""

    label: str
    kind: Kind
    library: str
    sha256: str
    size: int


@dataclass(frozen=True)
class _Fresh:
    """A kernel with its receipt's word on its library."""

    kernel: Kernel
    sha256: str


def deliver(plan: Plan, judges: Mapping[str, Judge], names: Sequence[str], directory: Path) -> tuple[Delivered, ...]:
    """Lay the named kernels, of those that no package can hold, into `directory`, in place of what was delivered there.

    Where there are none it lays out the places alone. Raises KernelFailure where one isn't finished, or not what was
    built, or nothing is planned at all; EnvironmentProblem where the directory is somebody else's.
    """
    refuse_nothing(plan, names)
    _refuse_to_replace(directory)
    today = {target: judge.refreshed() for target, judge in judges.items()}
    fresh = collected(to_lay_out(plan, names), lambda kernel: _fresh(kernel, today[kernel.target]))
    with staging(directory.absolute().parent) as beside:
        made = beside / "made"
        for place in (*PLACES.values(), _COMPILERS):
            (made / place).mkdir(parents=True)
        delivered = (*_copied(plan, fresh, made), *_packed(plan, fresh, made))
        text = json.dumps({"version": 1, "kernels": list(map(asdict, delivered))}, indent=1)
        (made / NAME).write_text(f"{text}\n")
        _open_to_all(made)
        if directory.exists():
            directory.rename(beside / "old")
        made.rename(directory)
    return delivered


def _open_to_all(made: Path) -> None:
    """Let every user read it, as what a wheel installs: an image gives files to root, and its server is another."""
    for path in (made, *made.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)


def variables(delivered: Iterable[Delivered], directory: str) -> list[str]:
    """What a server needs in its environment to find them."""
    kinds = dict.fromkeys(one.kind for one in delivered)
    return [_VARIABLES[kind].format(directory) for kind in kinds]


def to_lay_out(plan: Plan, names: Sequence[str]) -> Iterator[Kernel]:
    """Those of the named kernels that no package can hold, each once: two entries may be one module."""
    seen = set[Path | str]()
    for kernel in plan.chosen(names):
        one = kernel.library if kernel.name else kernel.label
        if not kernel.unfit and not kernel.packageable and one not in seen:
            seen.add(one)
            yield kernel


def _refuse_to_replace(directory: Path) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise EnvironmentProblem(f"{directory} is no directory", remedy="doit deliver --into another")
    if directory.is_mount():
        raise EnvironmentProblem(
            f"{directory} is a mount point, which can't be replaced whole",
            remedy=f"doit deliver --into {directory / 'engines'}",
        )
    if directory.is_dir() and any(directory.iterdir()) and not (directory / NAME).is_file():
        raise EnvironmentProblem(
            f"{directory} holds something that doit deliver hasn't put there (it has no {NAME}); it was not replaced",
            remedy="doit deliver --into another, or remove it first",
        )


def _fresh(kernel: Kernel, judge: Judge) -> _Fresh:
    if kernel.problem:
        raise KernelFailure(kernel.problem, remedy="correct kernels.yaml")
    judged, sha256 = judge.judge(kernel), _vouched(kernel)
    if judged.verdict == "stale" or not sha256:
        raise KernelFailure(str(judged.first or "its receipt is gone"), remedy="doit")
    return _Fresh(kernel, sha256)


def _vouched(kernel: Kernel) -> str:
    """The hash in its receipt; "" without one."""
    if kernel.built_whole:
        return found.sha256 if (found := engine_receipt.read(kernel)) else ""
    receipt = receipts.read(kernel)
    return receipt.outputs[kernel.library.name].sha256 if receipt else ""


def _copied(plan: Plan, fresh: Iterable[_Fresh], made: Path) -> Iterator[Delivered]:
    """Those that are found wherever their directory lies."""
    for one in fresh:
        if one.kernel.kind != "sglang-keyed":
            place, beside = _place(plan, one.kernel)
            into = made / PLACES[one.kernel.kind] / place
            into.mkdir(parents=True, exist_ok=True)
            for file in (one.kernel.library, *beside):
                shutil.copy2(file, into / file.name)
            yield _delivered(one, into / one.kernel.library.name, made)


def _place(plan: Plan, kernel: Kernel) -> tuple[Path, list[Path]]:
    """Its directory below that of its kind, and what a server, or `doit check`, needs beside its library."""
    if kernel.kind == "cute":
        place = _BASE / kernel.build_dir.relative_to(plan.targets[kernel.target].base)
        return place, [kernel.ninja_file, engine_receipt.path_of(kernel)]
    return Path(kernel.build_dir.name), [receipts.path_of(kernel)]


def _packed(plan: Plan, fresh: Iterable[_Fresh], made: Path) -> Iterator[Delivered]:
    """Those that SGLang keeps by content: it publishes a copy that is found without toolkit and system headers."""
    of_target: dict[str, list[_Fresh]] = {}
    for one in fresh:
        if one.kernel.kind == "sglang-keyed":
            of_target.setdefault(one.kernel.target, []).append(one)
    for target, those in of_target.items():
        into = made / "packed"
        wanted = {index: (one.kernel.op, one.kernel.given) for index, one in enumerate(those)}
        request = request_for(target, wanted) | {"into": str(into)}
        env, what = plan.environment(target), "how it packed SGLang's modules"
        answer = interpreter.ask(plan.server.python, _PACK, PackedModules, env, what, request=request)
        for packed in sorted(answer["kernels"], key=lambda one: int(one["id"])):
            yield _delivered(those[packed["id"]], _moved(packed, into, made), made)
        shutil.copytree(into / "compilers", made / _COMPILERS, dirs_exist_ok=True)
        shutil.rmtree(into)


def _moved(packed: Mapping[str, Any], into: Path, made: Path) -> Path:
    """The copy, in its place. Raises KernelFailure where there is none."""
    source = Path(packed.get("packed", ""))
    if not source.is_relative_to(into / "jit"):
        said = packed["error"]["message"] if "error" in packed else "SGLang doesn't find what doit has built"
        raise KernelFailure(f"nothing is delivered: {said}", remedy="doit")
    leaf = source.parent
    place = made / PLACES["sglang-keyed"] / leaf.relative_to(into / "jit")
    place.parent.mkdir(parents=True, exist_ok=True)
    leaf.rename(place)
    return place / source.name


def _delivered(one: _Fresh, library: Path, made: Path) -> Delivered:
    """Raises KernelFailure for a copy that isn't what was built."""
    if sha256_file(library) != one.sha256:
        raise KernelFailure(f"nothing is delivered: {one.kernel.library} is not what was built", remedy="doit")
    kernel = one.kernel
    return Delivered(kernel.label, kernel.kind, str(library.relative_to(made)), one.sha256, library.stat().st_size)
