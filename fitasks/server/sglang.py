"""What a server will do with a module of SGLang's own JIT (load_jit of sglang/jit_kernel/utils/compile.py, 0.5.16).

A library that is there is loaded as it is: no ninja, no lock, no look at what it was made from. One that can't be
loaded is built like one that isn't there: lock, sources, build.ninja, ninja, then loaded again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem, NoCompiler, Unbuildable
from fitasks.base.files import sha256_file
from fitasks.cuda.elf import segments
from fitasks.cuda.survey import host_compiler
from fitasks.server.ahead import wanted
from fitasks.server.loadable import loadable
from fitasks.server.verdict import CONTENT, Verdict, at_work, compiled_since, explained, loaded, provenance

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Place


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """What the server's first call that needs this module will do."""
    blank = Verdict(kernel.label, kernel.name, kernel.target, "unplanned", kernel.problem, kind="sglang")
    if kernel.problem:
        return replace(blank, state="would fail") if kernel.unfit else blank
    blank = replace(blank, architectures=wanted(known.plan, kernel))
    if not kernel.library.is_file():
        return _missed(known, kernel, place, blank)
    verdict = loadable(known, loaded(_as_it_is(known, kernel, blank), kernel.library, place))
    if verdict.good:
        return replace(verdict, sha256=sha256_file(kernel.library))  # the gate of an image compares copies
    return _again(known, kernel, place, verdict) if verdict.state == "would fail" else verdict


def _missed(known: Knowledge, kernel: Kernel, place: Place, blank: Verdict) -> Verdict:
    if known.problem and not isinstance(known.problem, Unbuildable):  # that is about FlashInfer's cache
        return replace(blank, state="would fail", reason=f"nothing to compile it with: {known.problem.message}")
    reason = str(known.judge(kernel).first or f"{kernel.library.name} is missing")
    return at_work(known, kernel, place, replace(blank, state="would compile", reason=reason))


def _as_it_is(known: Knowledge, kernel: Kernel, blank: Verdict) -> Verdict:
    """Nobody asks what it was made from; whether it is what a build would make now, contents tell."""
    if compiled_since(kernel):
        return replace(blank, state="cached", reason="compiled by a server since: fitasks has no receipt of it")
    try:
        reasons = known.judge(kernel).reasons
    except EnvironmentProblem:  # a delivered server has no ninja, and needs none
        return replace(blank, state="cached", reason="what it was made from isn't compared: there is no ninja here")
    differing = [reason for reason in reasons if reason.kind in _decisive(known)]
    if differing:
        return replace(blank, state="outdated", reason=f"SGLang loads it as it is, but {differing[0]}")
    return replace(blank, state="cached", reason=provenance(known, kernel))


def _decisive(known: Knowledge) -> set[str]:
    """Kinds of reasons that make it another than a build here would make.

    Where nothing can be built, as in a delivered image, commands mean nothing, nor do the headers that aren't there.
    """
    nothing = CONTENT - {"command", "toolchain", "vanished"}
    if known.problem and not isinstance(known.problem, Unbuildable):
        return nothing
    try:
        host_compiler(known.plan.server.env)
    except NoCompiler:
        return nothing
    return CONTENT


def _again(known: Knowledge, kernel: Kernel, place: Place, failing: Verdict) -> Verdict:
    """After an error of the loader SGLang builds, which helps if ninja finds work; a cut file ends the process."""
    if segments(kernel.library) == "cut" or not explained(known, kernel):
        return failing
    return at_work(known, kernel, place, replace(failing, state="would compile"))
