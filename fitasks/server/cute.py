"""What a server will do with an object that FlashInfer's CuTe-DSL kernels keep (jit/cute_dsl_core.py: build_and_load).

No package provides them: FlashInfer looks into its cache alone. Where meta.json says what it expects, the object is
loaded, without a lock; otherwise it is compiled, in memory if nothing can be written there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.compile.judge import objects
from fitasks.server.verdict import Verdict

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Place


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """What the first call that needs this object will do."""
    blank = Verdict(kernel.label, kernel.name, kernel.target, "unplanned", kernel.problem, kind="cute")
    if kernel.problem:
        return blank
    blank = replace(blank, library=str(kernel.library), architectures=known.plan.targets[kernel.target].gpus)
    if obstacle := place.importing(kernel.workspace):
        return replace(blank, state="would fail" if obstacle.known else "unknown", reason=obstacle.reason)
    return _loaded(known, kernel, blank) if kernel.library.is_file() else _missed(known, kernel, blank)


def _loaded(known: Knowledge, kernel: Kernel, blank: Verdict) -> Verdict:
    if any(objects.unlike(kernel)):
        return _missed(known, kernel, blank)
    first = known.judge(kernel).first
    if first is None:
        return replace(blank, state="cached", bytes=kernel.library.stat().st_size)
    if first.kind == "corrupt":
        return replace(blank, state="unknown", reason=f"{first}: FlashInfer loads it unless it is torn")
    return replace(blank, state="unknown", reason=f"{first}: FlashInfer loads it unless it is torn; doit makes it anew")


def _missed(known: Knowledge, kernel: Kernel, blank: Verdict) -> Verdict:
    reason = str(known.judge(kernel).first)
    if known.plan.server.env.get("FLASHINFER_DISABLE_JIT"):
        return replace(blank, state="refused", reason=f"FLASHINFER_DISABLE_JIT is set; {reason}")
    return replace(blank, state="would compile", reason=reason)
