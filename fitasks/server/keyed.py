"""What a server will do with a module that SGLang keeps by content (load_jit of 0.5.23).

Its key has what nvcc and c++ say of their versions; one that doesn't answer makes it look elsewhere, and compile. The
first library whose list of files holds is loaded, without a lock. One that can't be loaded is built like one that isn't
there, and thrown away: lock, ninja, published by rename.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import Unbuildable
from fitasks.compile.judge import engine_receipt
from fitasks.compile.judge.keyed import LIST, find
from fitasks.cuda.elf import is_shared_object, segments
from fitasks.server.ahead import wanted
from fitasks.server.loadable import loadable
from fitasks.server.verdict import asked, at_work, barred, loaded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.plan.kernel import Kernel
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Place
    from fitasks.server.verdict import Verdict

_FORCED, _FORBIDDEN = "SGLANG_JIT_FORCE_RECOMPILE", "SGLANG_CRASH_ON_JIT_COMPILE"
_ON = {"true", "1", "yes", "y"}  # sglang/srt/environ.py: EnvBool


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """What the server's first call that needs this module will do."""
    blank = asked(kernel)
    if kernel.problem:
        return replace(blank, state="would fail") if kernel.unfit else blank
    if known.problem and not isinstance(known.problem, Unbuildable):
        return replace(blank, state="unknown", reason=f"its key has what compilers say: {known.problem.message}")
    blank = replace(blank, architectures=wanted(known.plan, kernel))
    if obstacle := place.starting(known.plan.server.python, known.plan.targets[kernel.target].root):
        return barred(blank, obstacle)
    if missing := _no_compiler(known.plan.server.env):
        return replace(blank, state="would fail", reason=missing)
    return _looked_for(known, kernel, place, blank)


def _looked_for(known: Knowledge, kernel: Kernel, place: Place, blank: Verdict) -> Verdict:
    env, library = known.plan.server.env, find(kernel, known.contents).library
    if why := f"{_FORCED} is set" if _is_on(env, _FORCED) else _unread(place, library):
        return _missed(known, kernel, place, replace(blank, reason=why))
    if library is None:
        return _missed(known, kernel, place, replace(blank, reason=str(known.judge(kernel).first)))
    return _loaded(known, kernel, place, replace(blank, state="cached", library=str(library)))


def _no_compiler(env: Mapping[str, str]) -> str:
    """Why SGLang looks under a key of no compiler, and can't compile: it takes CXX for one word, ccache and all."""
    name = env.get("CXX", "c++")
    if shutil.which(name, path=env.get("PATH", os.defpath)):
        return ""
    return f"SGLang's key has what the host compiler says of its version, and there is no {name!r}"


def _unread(place: Place, library: Path | None) -> str:
    """Why SGLang passes over a library, or can't load it."""
    unread = library and place.opening(library.parent / LIST, library)
    return unread.reason if unread else ""


def _loaded(known: Knowledge, kernel: Kernel, place: Place, cached: Verdict) -> Verdict:
    library = Path(cached.library)
    if is_shared_object(library) and not segments(library):  # else it is mapped, whatever becomes of the process
        reason = f"{library.name} can't be loaded, and is thrown away"
        return _missed(known, kernel, place, replace(cached, reason=reason))
    verdict, first = loadable(known, loaded(cached, library, place)), known.judge(kernel).first
    if verdict.good and first is None:
        found = engine_receipt.read(kernel)
        return replace(verdict, sha256=found.sha256 if found else "")
    if not verdict.good or first is None:
        return verdict
    if first.kind == "corrupt":
        return replace(verdict, state="altered", reason=f"{first}; SGLang loads it as it is, doit makes it anew")
    return replace(verdict, reason=f"compiled by a server: {first}")


def _missed(known: Knowledge, kernel: Kernel, place: Place, blank: Verdict) -> Verdict:
    """It is compiled, if that may and can be."""
    if _is_on(known.plan.server.env, _FORBIDDEN):
        return replace(blank, state="refused", reason=f"{_FORBIDDEN} is set; {blank.reason}")
    return at_work(known, kernel, place, replace(blank, state="would compile"))


def _is_on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() in _ON
