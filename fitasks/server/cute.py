"""What a server will do with an object that FlashInfer's CuTe-DSL kernels keep (jit/cute_dsl_core.py: build_and_load).

No package provides them: FlashInfer looks into its cache alone. Where meta.json says what it expects, the object is
loaded, without a lock; otherwise the family is locked, and it is compiled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.compile.judge import cute, engine_receipt
from fitasks.server.verdict import asked, barred

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Place
    from fitasks.server.verdict import Verdict


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """What the first call that needs this object will do."""
    blank = asked(kernel)
    if kernel.problem:
        return blank
    blank = replace(blank, library=str(kernel.library), architectures=known.plan.targets[kernel.target].gpus)
    target = known.plan.targets[kernel.target]
    if obstacle := place.starting(known.plan.server.python, target.root) or place.importing(kernel.workspace):
        return barred(blank, obstacle)
    if place.opening(kernel.library, kernel.ninja_file) or not kernel.library.is_file() or any(cute.unlike(kernel)):
        return _missed(known, kernel, place, blank)
    return _loaded(known, kernel, blank)


def _loaded(known: Knowledge, kernel: Kernel, blank: Verdict) -> Verdict:
    first = known.judge(kernel).first
    if first is None:
        found = engine_receipt.read(kernel)
        digest = found.sha256 if found else ""
        return replace(blank, state="cached", bytes=kernel.library.stat().st_size, sha256=digest)
    return replace(blank, state="unknown", reason=f"{first}: FlashInfer loads it unless it is torn; doit makes it anew")


def _missed(known: Knowledge, kernel: Kernel, place: Place, blank: Verdict) -> Verdict:
    """Where it is there and can't be read, it is as good as not there."""
    unread = place.opening(kernel.library, kernel.ninja_file)
    reason = unread.reason if unread else str(known.judge(kernel).first)
    if known.plan.server.env.get("FLASHINFER_DISABLE_JIT"):
        return replace(blank, state="refused", reason=f"FLASHINFER_DISABLE_JIT is set; {reason}")
    if obstacle := place.locking(kernel):
        return barred(blank, obstacle)
    return replace(blank, state="would compile", reason=reason)
