"""What `doit verify` says: a line per kernel as it is proven, then what was proven and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.wording import counted

if TYPE_CHECKING:
    from fitasks.verify.proof import Proof
    from fitasks.verify.verify import ProofResult


def line(verdict: ProofResult) -> str:
    """`page  9.0  numerical  GPU 0  2 checks, …`."""
    where = f"on GPU {verdict.gpu}" if verdict.gpu else "before" if verdict.proof else ""
    return f"{verdict.label} ({verdict.capability}): {verdict.outcome} {where}{_detail(verdict)}".rstrip()


def _detail(verdict: ProofResult) -> str:
    if verdict.proof is None:
        return f": {verdict.message}"
    parts = [_checks(verdict.proof), verdict.proof.note, verdict.message]
    return f": {'; '.join(filter(None, parts))}"


def _checks(proof: Proof) -> str:
    worst = proof.worst
    if worst is None:
        return ""
    count = len(proof.checks)
    times = [check.milliseconds for check in proof.checks if check.milliseconds is not None]
    each = f"{sum(times) / len(times):.3f} ms each, " if times else ""
    return (
        f"{counted(count, 'check')}, {each}worst error {worst.error:.2g} "
        f"of {worst.tolerance:.2g} allowed ({worst.what})"
    )


def summary(verdicts: list[ProofResult]) -> str:
    """Which kernels were proven numerically, which only loaded, which neither."""
    names = {"numerical": "proven numerically", "loaded": "only loaded", "no GPU": "without a GPU for them here"}
    names |= {"gpu": "undecided, for trouble with GPUs", "busy": "undecided, while somebody builds them"}
    parts = []
    for outcome in dict.fromkeys(["numerical", "loaded", *(verdict.outcome for verdict in verdicts)]):
        labels = [verdict.label for verdict in verdicts if verdict.outcome == outcome]
        if labels:
            shown = "" if outcome == "numerical" else f" ({', '.join(labels)})"
            parts.append(f"{len(labels)} {names.get(outcome, outcome)}{shown}")
    return ", ".join(parts) or "no kernels"
