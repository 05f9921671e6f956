"""What a server will do with one kernel, and what is common to all kinds of kernels in foretelling it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.base import temporary
from fitasks.base.errors import NoCompiler
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile.ninja import ninja as ninjas
from fitasks.cuda.capability import nvcc_flags, nvcc_of, refusal
from fitasks.cuda.elf import is_shared_object, segments
from fitasks.cuda.survey import host_compiler
from fitasks.plan.unbuildable import misplaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.plan.kernel import Kernel, Kind
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Obstacle, Place

State = Literal[
    "ahead-of-time", "cached", "outdated", "altered", "would compile", "refused", "would fail", "unplanned", "unknown"
]

CONTENT = {"corrupt", "command", "toolchain", "changed", "vanished"}  # reasons that ninja doesn't look for


@dataclass(frozen=True)
class Verdict:
    """What the server will do with one kernel. `bytes` is the size of what it would load.

    `sha256` is its hash where nothing else tells a copy of it, as no package can hold it, and it is as it should be;
    of those that an engine's own code keeps, `op` and `params` are what it can be asked with.
    `architectures` are those of the target's GPUs that the module has code for: "sm80", "sm90a".
    """

    label: str
    name: str
    target: str
    state: State
    reason: str = ""
    library: str = ""
    bytes: int = 0
    architectures: tuple[str, ...] = ()
    kind: Kind = "flashinfer"
    sha256: str = ""
    op: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    store: str = ""  # that has the kernel, where it isn't in the cache: a directory or URL

    @property
    def good(self) -> bool:
        """Nothing is compiled and nothing fails."""
        return self.state in {"ahead-of-time", "cached"}


def asked(kernel: Kernel) -> Verdict:
    """Nothing yet, of a kernel that its engine's own code keeps."""
    verdict = Verdict(kernel.label, kernel.name, kernel.target, "unplanned", kernel.problem, kind=kernel.kind)
    return replace(verdict, op=kernel.op, params=kernel.given)


def barred(verdict: Verdict, obstacle: Obstacle) -> Verdict:
    """The verdict where something about the place keeps the server from going on."""
    return replace(verdict, state="would fail" if obstacle.known else "unknown", reason=obstacle.reason)


def stored(verdict: Verdict, place: str) -> Verdict:
    """The same verdict, of a kernel that a store has, if one does: `doit` takes it from there, the server doesn't."""
    if not place:
        return verdict
    return replace(verdict, store=place, reason=f"{verdict.reason}; in the store {place}, from which `doit` takes it")


def loaded(verdict: Verdict, library: Path, place: Place) -> Verdict:
    """The same verdict, unless the file can't be loaded: for its mount, for the user's sake, or as it is damaged."""
    verdict = replace(verdict, library=str(library))
    if obstacle := place.mapping(library):
        return barred(verdict, obstacle)
    if problem := is_shared_object(library):
        state: State = "unknown" if segments(library) == "whole" else "would fail"
        return replace(verdict, state=state, reason="; ".join(filter(None, [problem, verdict.reason])))
    return replace(verdict, bytes=library.stat().st_size)


def at_work(known: Knowledge, kernel: Kernel, place: Place, compiling: Verdict) -> Verdict:
    """Whether a server that has to compile can: where it may write, by an nvcc that can, what hasn't failed already."""
    if obstacle := place.compiling(kernel):
        return replace(barred(compiling, obstacle), reason=f"{compiling.reason}; {obstacle.reason}")
    first = known.judge(kernel).first
    if refused := _refused(known, kernel):
        return replace(compiling, state="would fail", reason=refused)
    return replace(compiling, state="would fail") if first and first.kind == "failed" else compiling


def _refused(known: Knowledge, kernel: Kernel) -> str:
    """Why it can't be compiled here, or not in its place; "" where it can, as far as can be told without compiling."""
    toolkit = known.plan.toolkit
    if (place := misplaced(kernel)) and not place.again:
        return f"{place.message}; {place.remedy}"
    try:
        host_compiler(known.plan.server.env)
    except NoCompiler as problem:
        return problem.message
    env = known.plan.server.env if kernel.kind == "flashinfer" else {}  # FLASHINFER_NVCC is no affair of others
    nvcc = nvcc_of(toolkit.home, env)
    said = refusal(nvcc, toolkit.build, nvcc_flags(kernel.ninja), known.probe)
    return f"{nvcc} can't compile it: {said}" if said else ""


def provenance(known: Knowledge, kernel: Kernel) -> str:
    receipt = receipts.read(kernel)
    if receipt is None:
        return f"{known.judge(kernel).first}: somebody else compiled it"
    origin = receipt.notes.get("adopted_from")
    whose = f"FlashInfer {origin}" if kernel.kind == "flashinfer" else "the store"
    return f"adopted from {whose}, all inputs equal" if origin else ""


def compiled_since(kernel: Kernel) -> bool:
    """Whether ninja's log tells of a later link than the receipt: a server writes no receipt, and leaves ours."""
    receipt, log = receipts.read(kernel), kernel.build_dir / ninjas.LOG
    if not receipt or not log.exists() or sha256_file(log) == receipt.outputs[ninjas.LOG].sha256:
        return False
    linked = (at for path, at in ninjas.read_log(kernel.build_dir).items() if Path(path).name == kernel.library.name)
    return max(linked, default=0) > receipt.outputs[kernel.library.name].mtime_ns


def explained(known: Knowledge, kernel: Kernel) -> tuple[str, ...]:
    """Why ninja would do something, asked with the planned build.ninja; empty where it has no work to do."""
    with temporary.directory("check") as scratch:
        ninja_file = Path(scratch, "build.ninja")
        ninja_file.write_text(kernel.ninja, encoding="utf-8")  # the server writes this text before it asks
        return ninjas.explain(known.ninja, kernel.build_dir, ninja_file)
