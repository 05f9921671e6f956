"""What FlashInfer loads ahead of time for a kernel, and on which of a host's GPUs it would look further.

One library may serve a part of a mixed host only: FlashInfer then compiles for the other GPUs, at their first call
(jit/core.py, _HeterogeneousAOTModule).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.cuda.architecture import fitting

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan


@dataclass(frozen=True)
class Served:
    """Ahead-of-time modules, and the architectures that each of them leaves to the compiler."""

    libraries: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()  # "sm90a"
    covered: tuple[str, ...] = ()

    @property
    def gap(self) -> str:
        """What is missing, in a sentence; "" where nothing is, or where nothing is there at all."""
        if not self.libraries or not self.missing:
            return ""
        there = f", only for {', '.join(self.covered)}" if self.covered else ""
        return f"no ahead-of-time module for {', '.join(self.missing)}{there}"


def served(plan: Plan, kernel: Kernel) -> Served:
    """FlashInfer's own data/aot, which it takes for anything, else providers' modules."""
    own = plan.targets[kernel.target].root / "data" / "aot" / kernel.name / f"{kernel.name}.so"
    if own.exists():
        return Served((own,))
    found = [artefact for artefact in kernel.aot if artefact.path.exists()]
    if not found:
        return Served()
    covered = {architecture for artefact in found for architecture in artefact.architectures}
    missing = tuple(one for one in wanted(plan, kernel) if one not in covered)
    return Served(tuple(artefact.path for artefact in found), missing, tuple(sorted(covered)))


def ahead_of_time(plan: Plan, kernel: Kernel) -> list[Path]:
    """Modules that FlashInfer would load without looking further, on whichever GPU of the target."""
    found = served(plan, kernel)
    return [] if found.missing else list(found.libraries)


def wanted(plan: Plan, kernel: Kernel) -> tuple[str, ...]:
    """The target's architectures that this module has code for: a Hopper module of "8.0 9.0a" for sm90a alone."""
    return fitting(kernel.ninja, plan.targets[kernel.target].gpus)
