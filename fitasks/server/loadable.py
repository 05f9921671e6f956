"""Will the server's dynamic loader take a library: every one that it needs, each version, each symbol, and its ABI."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.audit import DRIVER, Refusal, audit, needs_driver, refusal
from fitasks.cuda.elf import is_shared_object
from fitasks.delivery.tvmffi import same_abi
from fitasks.delivery.wheel.installed import built_with, is_ours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.plan import Plan
    from fitasks.plan.server import Server
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.verdict import Verdict

_LOADED = {"ahead-of-time", "cached", "outdated", "altered"}  # what a server loads, right or not
_CUDA = ("libcu", "libnv")  # begin the names of what a CUDA build of torch brings


def loadable(known: Knowledge, verdict: Verdict) -> Verdict:
    """The same verdict on a library that a server would load, unless the loader would refuse it, or nobody can say."""
    if verdict.state not in _LOADED:
        return verdict
    refused = refused_by(known, Path(verdict.library))
    if refused is None:
        return verdict
    reason = refused.sentence if verdict.good else f"{refused.sentence}; {verdict.reason}"
    return replace(verdict, state="would fail" if refused.certain else "unknown", reason=reason)


def refused_by(known: Knowledge, library: Path) -> Refusal | None:
    """What a server's process has against a file; None if nothing."""
    try:
        needs = known.loader.needs(library)
    except (EnvironmentProblem, OSError) as error:
        return Refusal(str(error))
    if known.runtime.reached:
        names = [name.partition(":")[0] for name in needs.libraries]
        if failure := audit(library.name, names, needs.symbols, known.runtime.loaded):
            return Refusal(failure)
    built = built_with(library) if is_ours(library) else ""
    if not (needs.libraries or needs.symbols or built):
        return None
    answer = known.loader.answer(needs, lambda: _others(known.plan))
    bring = functools.partial(remedy, known.plan.server, known.plan.toolkit)
    if refused := refusal(library.name, needs, answer, bring):
        return refused
    known.loader.without_driver |= needs_driver(needs, answer)
    if built and answer.tvm_ffi and not same_abi(built, answer.tvm_ffi):
        sentence = f"{library.name} was compiled against tvm-ffi {built}, whose ABI isn't that of {answer.tvm_ffi} here"
        return Refusal(f"{sentence}: doit wheel, doit install", certain=False)
    return None


def remedy(server: Server, toolkit: Toolkit, soname: str) -> str:
    """What brings a library into the reach of the server's dynamic loader."""
    brought = "a CUDA build of torch" if soname.startswith(_CUDA) else "the package that has it"
    install = f"install {brought} for {server.python}"
    if not (directory := next(_directories(server, toolkit, soname), None)):
        return f"{install}, or name the server's own interpreter as serving.python"
    path = ":".join(filter(None, [str(directory), server.env.get("LD_LIBRARY_PATH", "")]))
    return f"{install}, or write LD_LIBRARY_PATH: {path} below `serving: env:` in kernels.yaml"


def provisos(known: Knowledge) -> list[str]:
    """What was taken for granted of libraries that aren't here."""
    return [f"the server has the driver's {DRIVER}, which isn't here"] if known.loader.without_driver else []


def _directories(server: Server, toolkit: Toolkit, soname: str) -> Iterator[Path]:
    """Where a sound library of that name lies in reach of the environment, but not of its loader."""
    places = [place for site in server.site_packages for place in sorted(site.glob("nvidia/*/lib"))]
    places.append(toolkit.cudart.parent)
    yield from (place for place in places if soname and not is_shared_object(place / soname))


def _others(plan: Plan) -> Iterator[Path]:
    """Every library of the plan that is there."""
    for kernel in plan.buildable():
        paths = [kernel.library, *(artefact.path for artefact in kernel.aot)]
        yield from (path for path in paths if path.exists())
