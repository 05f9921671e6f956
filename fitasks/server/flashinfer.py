"""What a server will do with a module of FlashInfer's, asked of its own ninja.

The order is FlashInfer's (JitSpec.build_and_load): its import opens a log; an ahead-of-time module is loaded as it is;
otherwise, unless FLASHINFER_DISABLE_JIT forbids it, the module is locked, build.ninja is written, ninja always runs,
and the `.so` is loaded. Whether the server's user can do that where the kernels lie is place.py's to say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import Unbuildable
from fitasks.compile import receipt as receipts
from fitasks.cuda.architecture import with_code
from fitasks.cuda.elf import machine_code_architectures, segments
from fitasks.delivery.wheel.installed import altered, is_ours, packaged
from fitasks.server.ahead import served, wanted
from fitasks.server.loadable import loadable
from fitasks.server.verdict import (
    CONTENT,
    State,
    Verdict,
    at_work,
    barred,
    compiled_since,
    explained,
    loaded,
    provenance,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.delivery.wheel.installed import InstalledModule
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Obstacle, Place


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """In FlashInfer's order: its import, what is loaded ahead of time, then the cache."""
    blank = Verdict(kernel.label, kernel.name, kernel.target, "unplanned", kernel.problem)
    if kernel.problem:
        return replace(blank, state="would fail") if kernel.unfit else blank
    blank = replace(blank, architectures=wanted(known.plan, kernel))
    if obstacle := _import(known.plan, kernel, place) or place.generating(kernel):
        return barred(blank, obstacle)
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
    if obstacle := place.locking(kernel) or place.reading(kernel):
        return barred(blank, obstacle)
    if reason := _work(known, kernel):
        return at_work(known, kernel, place, replace(blank, state="would compile", reason=reason))
    return loadable(known, loaded(_trusted(known, kernel, blank), kernel.library, place))


def _work(known: Knowledge, kernel: Kernel) -> str:
    """Why the server's ninja would run a compiler, as doit itself gives the reason; "" if it has nothing to do."""
    first = known.judge(kernel).first
    if not kernel.library.exists() or not all(source.exists() for source in kernel.sources):
        return str(first or f"{kernel.library.name} or a source is missing")
    reasons = explained(known, kernel)
    return str(first or reasons[0]) if reasons else ""


def _trusted(known: Knowledge, kernel: Kernel, blank: Verdict) -> Verdict:
    """ninja has no work to do; whether it is right in that, only contents can tell."""
    if compiled_since(kernel):
        return replace(blank, state="cached", reason="compiled by a server since: fitasks has no receipt of it")
    first = known.judge(kernel).first
    if first and first.kind in CONTENT:
        return replace(blank, state="outdated", reason=f"ninja sees nothing to do, but {first}")
    return replace(blank, state="cached", reason=provenance(known, kernel))


# A module that is installed


def _all_ahead(known: Knowledge, kernel: Kernel, libraries: Sequence[Path], place: Place, blank: Verdict) -> Verdict:
    """One verdict on all that is loaded for the target's GPUs: the first that isn't good, or all bytes together."""
    verdicts = [_ahead(known, kernel, library, place, blank) for library in libraries]
    bad = next((verdict for verdict in verdicts if not verdict.good), None)
    return bad or replace(verdicts[0], bytes=sum(verdict.bytes for verdict in verdicts))


def _ahead(known: Knowledge, kernel: Kernel, artefact: Path, place: Place, blank: Verdict) -> Verdict:
    """Of a module that is installed: the file itself is asked what it needs, its package what it should be."""
    verdict = loaded(replace(blank, reason=_foreign(artefact)), artefact, place)
    if verdict.good and is_ours(artefact):
        module = packaged(artefact)
        if damage := altered(artefact, module):
            return loadable(known, replace(verdict, state="altered", reason=f"{damage}; doit install"))
        verdict = replace(verdict, reason=_another_build(known, _packed_from(known.plan, kernel, artefact), module))
    return loadable(known, verdict)


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
    changed = [reason for reason in known.judge(kernel).reasons if reason.kind in CONTENT]
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
