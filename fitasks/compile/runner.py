"""Compiling kernels in one pool, and what became of each: its log, its costs, or why it failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.errors import KernelFailure
from fitasks.compile.failure.diagnose import diagnose
from fitasks.compile.job import Compiling
from fitasks.compile.ninja import parts
from fitasks.compile.pool.costs import Cost
from fitasks.plan.unbuildable import refuse_temporary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitasks.compile.journal import Journal
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.compile.pool.costs import Costs
    from fitasks.compile.pool.pool import Pool
    from fitasks.compile.pool.schedule import Schedule
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from fitasks.processes.process import Finished


_LASTING = {"compile", "link", "toolchain", "unknown"}  # kinds of failures that another try would only repeat


@dataclass(frozen=True)
class Runner:
    """Compiles for one plan; `timeout` in seconds for one kernel, None or 0 is none."""

    plan: Plan
    ninja: Ninja
    pool: Pool
    journal: Journal
    costs: Costs
    schedule: Schedule
    timeout: float | None
    say: Callable[[str], None]

    def run(self, kernel: Kernel, announce: Callable[[int], None]) -> Finished:
        """Compile; `announce` is told the number of files once there is a slot. Raises KernelFailure, OSError."""
        refuse_temporary(str(temporary.home()))
        log = self.log(kernel)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        try:
            # An interrupted nvcc leaves three to seven temporary files (measured): they go with their directory.
            with temporary.directory("nvcc") as place:
                compiling = Compiling(self, kernel, announce, place, parts.begin(kernel))
                finished = compiling.run()
        finally:
            parts.end(kernel)
        if finished.stopped:
            raise KernelFailure(f"{kernel.label}: stopped; what was finished stays, run doit again to go on")
        if finished.status or finished.timed_out:
            raise _failure(kernel, finished, compiling, log)
        self._learn(kernel, compiling, finished)
        return finished

    def _learn(self, kernel: Kernel, compiling: Compiling, finished: Finished) -> None:
        """For the order and the pool of later runs; nothing where only some files were compiled."""
        files = {name: round(each, 3) for name, each in compiling.seconds.items()}
        if finished.cpu_seconds > 1 and set(files) == {source.name for source in kernel.sources}:
            longest = max(files, key=lambda name: files[name])
            cost = Cost(
                finished.cpu_seconds, files[longest], finished.peak_rss, longest, files=files, peaks=compiling.peaks
            )
            self.costs.learn(kernel, cost)

    def log(self, kernel: Kernel) -> Path:
        """What its compilers said the last time."""
        return self.plan.state / "logs" / f"{kernel.label}.log"


def too_late(kernel: Kernel, seconds: float, log: str = "") -> KernelFailure:
    """What is said of a kernel that was stopped at its time limit."""
    return KernelFailure(
        f"{kernel.label}: not finished after {seconds:.0f} s, and stopped{log}",
        remedy="raise `timeout:` in kernels.yaml (seconds; 0 is no limit)",
    )


def _failure(kernel: Kernel, finished: Finished, compiling: Compiling, log: Path) -> KernelFailure:
    if finished.timed_out:
        return too_late(kernel, finished.seconds, f"\n  log: {log}")
    found = compiling.found or diagnose("", finished.status)
    hint = f"\n  hint: {found.hint}" if found.hint else ""
    if found.out_of_memory and (had := compiling.alone):
        free = f"the {had.available / 1e9:.1f} GB that were free ({had.source})"
        hint = f"\n  hint: alone it failed as well: it needs more memory than {free}"
    lasting = found.first_error if found.kind in _LASTING else ""
    return KernelFailure(f"{kernel.label}: {found.first_error}{hint}\n  log: {log}", lasting=lasting)
