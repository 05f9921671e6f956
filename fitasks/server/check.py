"""What a server will do with each kernel: predicted in its own environment, asked of its own ninja, nothing loaded.

The order is FlashInfer's (JitSpec.build_and_load): its import opens a log; an ahead-of-time module is loaded as it is;
otherwise, unless FLASHINFER_DISABLE_JIT forbids it, the module is locked, build.ninja is written, ninja always runs,
and the `.so` is loaded. Whether the server's user can do that where the kernels lie is place.py's to say.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.base import temporary
from fitasks.base.errors import NoCompiler, Unbuildable
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile.ninja import ninja as ninjas
from fitasks.cuda.architecture import with_code
from fitasks.cuda.capability import nvcc_flags, nvcc_of, refusal
from fitasks.cuda.elf import is_shared_object, machine_code_architectures, segments
from fitasks.cuda.survey import host_compiler
from fitasks.delivery.wheel.installed import altered, is_ours, packaged
from fitasks.server.ahead import served, wanted
from fitasks.server.loadable import loadable
from fitasks.server.place import Obstacle, Place, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.delivery.wheel.installed import InstalledModule
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from fitasks.server.knowledge import Knowledge

State = Literal[
    "ahead-of-time", "cached", "outdated", "altered", "would compile", "refused", "would fail", "unplanned", "unknown"
]

_CONTENT = {"corrupt", "command", "toolchain", "changed", "vanished"}  # reasons that ninja doesn't look for


@dataclass(frozen=True)
class Verdict:
    """What the server will do with one kernel. `bytes` is the size of what it would load.

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

    @property
    def good(self) -> bool:
        """Nothing is compiled and nothing fails."""
        return self.state in {"ahead-of-time", "cached"}


def check(known: Knowledge, names: Sequence[str] = ()) -> list[Verdict]:
    """The verdict on each kernel of these names, or on every planned one in the plan's order.

    Raises EnvironmentProblem for a user that this machine doesn't know.
    """
    kernels = known.plan.chosen(names)
    workers = 4  # each asks one ninja process
    with place_of(known.plan.config) as place, ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda kernel: predict(known, kernel, place), kernels))


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """What a server that has the lines of `doit env` in its environment will do with this kernel.

    In FlashInfer's order: its import, what is loaded ahead of time, then the cache.
    """
    blank = Verdict(kernel.label, kernel.name, kernel.target, "unplanned", kernel.problem)
    if kernel.problem:
        return replace(blank, state="would fail") if kernel.unfit else blank
    blank = replace(blank, architectures=wanted(known.plan, kernel))
    if barred := _import(known.plan, kernel, place) or place.generating(kernel):
        return _barred(blank, barred)
    found = served(known.plan, kernel)
    gap = found.gap
    if found.libraries and not found.missing:
        ahead = _all_ahead(known, kernel, found.libraries, place, replace(blank, state="ahead-of-time"))
        if ahead.good:
            return _with_code(ahead)
        if ahead.state != "would fail" or not _passes_over(known.plan, kernel, Path(ahead.library)):
            return ahead
        gap = f"{ahead.reason}; FlashInfer passes over what it can't load"
    verdict = _compiled(known, kernel, place, blank)
    return replace(verdict, reason="; ".join(filter(None, [gap, verdict.reason])))


def _passes_over(plan: Plan, kernel: Kernel, library: Path) -> bool:
    """Whether the server goes on after it couldn't load this library: it does after an error, not after a SIGBUS."""
    return plan.targets[kernel.target].passes_over and segments(library) != "cut"


def _import(plan: Plan, kernel: Kernel, place: Place) -> Obstacle | None:
    """What keeps the server from `import flashinfer`."""
    target = plan.targets[kernel.target]
    starting = place.starting(plan.server.python, target.root)
    return starting or place.importing(target.workspace)


def _barred(verdict: Verdict, obstacle: Obstacle) -> Verdict:
    """The verdict where something about the place keeps the server from going on."""
    return replace(verdict, state="would fail" if obstacle.known else "unknown", reason=obstacle.reason)


# A module that FlashInfer builds: the lock, build.ninja, ninja, then the loader


def _compiled(known: Knowledge, kernel: Kernel, place: Place, blank: Verdict) -> Verdict:
    """What becomes of a kernel that isn't loaded ahead of time."""
    if known.plan.server.env.get("FLASHINFER_DISABLE_JIT"):
        reason = "FLASHINFER_DISABLE_JIT is set and there is no ahead-of-time module; caches are not accepted"
        return replace(blank, state="refused", reason=reason)
    if isinstance(known.problem, Unbuildable):
        state: State = "would compile" if known.problem.again else "would fail"
        return replace(blank, state=state, reason=f"{known.problem.message}; {known.problem.remedy}")
    if known.problem:
        return replace(blank, state="would fail", reason=f"nothing to compile it with: {known.problem.message}")
    if barred := place.locking(kernel) or place.reading(kernel):
        return _barred(blank, barred)
    if reason := _work(known, kernel):
        return _at_work(known, kernel, place, replace(blank, state="would compile", reason=reason))
    return loadable(known, _loaded(_trusted(known, kernel, blank), kernel.library, place))


def _work(known: Knowledge, kernel: Kernel) -> str:
    """Why the server's ninja would run a compiler, as doit itself gives the reason; "" if it has nothing to do."""
    first = known.judge(kernel).first
    if not kernel.library.exists() or not all(source.exists() for source in kernel.sources):
        return str(first or f"{kernel.library.name} or a source is missing")
    with temporary.directory("check") as scratch:
        ninja_file = Path(scratch, "build.ninja")
        ninja_file.write_text(kernel.ninja, encoding="utf-8")  # FlashInfer writes this text before it asks
        reasons = ninjas.explain(known.ninja, kernel.build_dir, ninja_file)
    return str(first or reasons[0]) if reasons else ""


def _at_work(known: Knowledge, kernel: Kernel, place: Place, compiling: Verdict) -> Verdict:
    """Whether a server that has to compile can: where it may write, by an nvcc that can, what hasn't failed already."""
    if barred := place.compiling(kernel):
        return replace(_barred(compiling, barred), reason=f"{compiling.reason}; {barred.reason}")
    first = known.judge(kernel).first
    if refused := _refused(known, kernel):
        return replace(compiling, state="would fail", reason=refused)
    return replace(compiling, state="would fail") if first and first.kind == "failed" else compiling


def _refused(known: Knowledge, kernel: Kernel) -> str:
    """Why no compiler here can do this kernel; "" where they can, as far as it is to be told without compiling."""
    toolkit = known.plan.toolkit
    try:
        host_compiler(known.plan.server.env)
    except NoCompiler as problem:
        return problem.message
    nvcc = nvcc_of(toolkit.home, known.plan.server.env)
    said = refusal(nvcc, toolkit.build, nvcc_flags(kernel.ninja), known.probe)
    return f"{nvcc} can't compile it: {said}" if said else ""


def _trusted(known: Knowledge, kernel: Kernel, blank: Verdict) -> Verdict:
    """ninja has no work to do; whether it is right in that, only contents can tell."""
    if _compiled_since(kernel):
        return replace(blank, state="cached", reason="compiled by a server since: fitasks has no receipt of it")
    first = known.judge(kernel).first
    if first and first.kind in _CONTENT:
        return replace(blank, state="outdated", reason=f"ninja sees nothing to do, but {first}")
    return replace(blank, state="cached", reason=_provenance(known, kernel))


def _compiled_since(kernel: Kernel) -> bool:
    """Whether ninja's log tells of a later link than the receipt: a server writes no receipt, and leaves ours."""
    receipt, log = receipts.read(kernel), kernel.build_dir / ninjas.LOG
    if not receipt or sha256_file(log) == receipt.outputs[ninjas.LOG].sha256:
        return False
    linked = (at for path, at in ninjas.read_log(kernel.build_dir).items() if Path(path).name == kernel.library.name)
    return max(linked, default=0) > receipt.outputs[kernel.library.name].mtime_ns


def _provenance(known: Knowledge, kernel: Kernel) -> str:
    receipt = receipts.read(kernel)
    if receipt is None:
        return f"{known.judge(kernel).first}: somebody else compiled it"
    origin = receipt.notes.get("adopted_from")
    return f"adopted from FlashInfer {origin}, all inputs equal" if origin else ""


def _loaded(verdict: Verdict, library: Path, place: Place) -> Verdict:
    """The same verdict, unless the file can't be loaded: for its mount, for the user's sake, or as it is damaged."""
    verdict = replace(verdict, library=str(library))
    if barred := place.mapping(library):
        return _barred(verdict, barred)
    if problem := is_shared_object(library):
        state: State = "unknown" if segments(library) == "whole" else "would fail"
        return replace(verdict, state=state, reason="; ".join(filter(None, [problem, verdict.reason])))
    return replace(verdict, bytes=library.stat().st_size)


# A module that is installed


def _all_ahead(known: Knowledge, kernel: Kernel, libraries: Sequence[Path], place: Place, blank: Verdict) -> Verdict:
    """One verdict on all that is loaded for the target's GPUs: the first that isn't good, or all bytes together."""
    verdicts = [_ahead(known, kernel, library, place, blank) for library in libraries]
    bad = next((verdict for verdict in verdicts if not verdict.good), None)
    return bad or replace(verdicts[0], bytes=sum(verdict.bytes for verdict in verdicts))


def _ahead(known: Knowledge, kernel: Kernel, artefact: Path, place: Place, blank: Verdict) -> Verdict:
    """Of a module that is installed: the file itself is asked what it needs, its package what it should be."""
    loaded = _loaded(replace(blank, reason=_foreign(artefact)), artefact, place)
    if loaded.good and is_ours(artefact):
        module = packaged(artefact)
        if damage := altered(artefact, module):
            return loadable(known, replace(loaded, state="altered", reason=f"{damage}; doit install"))
        loaded = replace(loaded, reason=_another_build(known, _packed_from(known.plan, kernel, artefact), module))
    return loadable(known, loaded)


def _packed_from(plan: Plan, kernel: Kernel, artefact: Path) -> Kernel:
    """The planned kernel that `doit wheel` makes this module from; the kernel itself where none is.

    A module for "8.0 9.0a" may serve the target "8.0", too, for which another of the same name is compiled.
    """
    same = (one for one in plan.buildable() if one.name == kernel.name)
    targets, directory = plan.targets, artefact.parents[1].name
    return next((one for one in same if targets[one.target].directory == directory), kernel)


def _another_build(known: Knowledge, kernel: Kernel, module: InstalledModule | None) -> str:
    """What tells an installed module from the kernel that is compiled here; "" where they are the same, or none is."""
    receipt = receipts.read(kernel)
    if receipt is None or module is None or known.problem:
        return ""
    if receipt.fingerprint != module.fingerprint:
        return "installed from another build than the kernel here: doit install"
    changed = [reason for reason in known.judge(kernel).reasons if reason.kind in _CONTENT]
    return f"{changed[0]}: doit install makes it anew" if changed else ""


def _foreign(artefact: Path) -> str:
    """A warning for a file in data/aot, which FlashInfer loads without asking which version left it there."""
    if "data/aot" not in str(artefact):
        return ""
    return f"{artefact} is loaded without any check of version or architecture"


def _with_code(verdict: Verdict) -> Verdict:
    """The same verdict, unless the file that FlashInfer loads unasked has no code for one of the target's GPUs."""
    library = Path(verdict.library)
    if not _foreign(library):
        return verdict
    codes = machine_code_architectures(library)
    if not (without := set(verdict.architectures).difference(with_code(codes, verdict.architectures))):
        return verdict
    reason = f"{library} is loaded, and its first call fails: it has code for {', '.join(codes)}, none for "
    return replace(verdict, state="would fail", reason=reason + ", ".join(sorted(without)))
