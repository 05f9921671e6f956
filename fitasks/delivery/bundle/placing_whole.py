"""What an engine's own code builds in one go, on its way from a bundle to where its engine looks for it here.

It is of use only under the very key that the engine makes here, and then it is what a build would make: so nothing is
put anywhere else, and no store takes it. The engine's lock is held meanwhile, and ours, which keeps two doits apart.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.compile.judge import cute, engine_receipt, keyed
from fitasks.compile.keyed import link
from fitasks.compile.lock import module_lock
from fitasks.compile.whole import lock_of
from fitasks.delivery.bundle.placing import UNNAMED, Arrival
from fitasks.processes import sessions

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.delivery.bundle.destination import Destinations
    from fitasks.delivery.bundle.placing import Went
    from fitasks.delivery.bundle.whole import PackedWhole
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

_CUTE = "packages' records, and of paths"
_KEYED = "sources, flags, packages and what nvcc and c++ say"
_SHOWN = 3  # reasons


def arrive(module: PackedWhole, destinations: Destinations, lock_timeout: float) -> Arrival:
    """Put it where its engine looks, or say why it would not be found there. Raises OSError, KernelFailure.

    A kill at any moment leaves one that was never built, or what was there before.
    """
    kernel = destinations.planned(module.held)
    if kernel is None:
        return _unplanned(module, destinations.here.plan)
    judge = destinations.here.judges[kernel.target].refreshed()
    if why := _unlike(kernel, module, judge):
        return _arrival(module, "left", kernel.build_dir, why)
    if judge.judge(kernel).verdict == "fresh":
        return _arrival(module, "kept", kernel.build_dir)
    _place(kernel, module, lock_timeout)
    judged = judge.refreshed().judge(kernel)
    return _arrival(module, "cache", kernel.build_dir, "" if judged.verdict == "fresh" else str(judged))


def _arrival(module: PackedWhole, went: Went, place: Path, why: str = "") -> Arrival:
    """With `why`, of no use here."""
    return Arrival(module.name, module.held.architecture, went, place, why, usable=not why, kind=module.kind)


def _unplanned(module: PackedWhole, plan: Plan) -> Arrival:
    """Nobody here asks for it; or for another build of it, by SGLang's first key."""
    same = (kernel for kernel in plan.buildable() if (kernel.kind, kernel.name) == (module.kind, module.name))
    if kernel := next(same, None):
        why = f"SGLang's key, of {_KEYED}, is {kernel.build_dir.name} here, and this is for {module.held.directory}"
        return _arrival(module, "left", kernel.build_dir, why)
    return replace(_arrival(module, "left", plan.state, UNNAMED), usable=True)


def _unlike(kernel: Kernel, module: PackedWhole, judge: Judge) -> str:
    """Why its engine wouldn't take it here; "" if it would."""
    if module.kind == "cute":
        reasons, what = list(cute.differences(kernel, module.meta)), f"FlashInfer's key, of {_CUTE}, is another here"
    else:
        reasons, what = keyed.differences(kernel, module.key, judge.contents), "it was compiled from other files"
    more = [f"{len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
    return f"{what}: {'; '.join([*map(str, reasons[:_SHOWN]), *more])}" if reasons else ""


def _place(kernel: Kernel, module: PackedWhole, lock_timeout: float) -> None:
    kernel.build_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for lock in (lock_of(kernel), kernel.lock):
            stack.enter_context(module_lock(lock, timeout=lock_timeout, stopping=sessions.stopping))
        (_place_object if module.kind == "cute" else _place_module)(kernel, module)


def _place_object(kernel: Kernel, module: PackedWhole) -> None:
    """As FlashInfer does: a family of another key goes, the object comes before meta.json."""
    stale = any(cute.unlike(kernel))
    if stale:
        shutil.rmtree(kernel.build_dir)
        kernel.build_dir.mkdir()
    engine_receipt.path_of(kernel).unlink(missing_ok=True)
    module.library.replace(kernel.library)
    if stale:
        module.key.replace(kernel.ninja_file)
    _vouch(kernel, module)


def _place_module(kernel: Kernel, module: PackedWhole) -> None:
    """As SGLang does: the directory of the build comes whole, by one rename."""
    leaf = kernel.build_dir / json.loads(module.receipt.meta)["leaf"]
    engine_receipt.path_of(kernel).unlink(missing_ok=True)
    made = _made_leaf(module)
    if leaf.exists():  # nothing vouches for it
        leaf.rename(module.staged / "old")
    made.rename(leaf)
    os.utime(leaf)  # SGLang looks at the newest first
    link(kernel.library, leaf / module.library.name)
    _vouch(kernel, module)


def _made_leaf(module: PackedWhole) -> Path:
    made = module.staged / "leaf"
    made.mkdir()
    for file in (module.library, module.key):
        file.rename(made / file.name)
    return made


def _vouch(kernel: Kernel, module: PackedWhole) -> None:
    """The last step."""
    engine_receipt.write(kernel, module.receipt)
