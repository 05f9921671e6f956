"""Running a kernel's ninja in the pool: slots, threads of the optimiser, time limit, and what became of it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.build import ninja as ninjas
from fitasks.build import process
from fitasks.build.capacity import memory
from fitasks.build.costs import Cost
from fitasks.build.diagnose import diagnose
from fitasks.build.jobserver import is_client
from fitasks.errors import KernelFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fitasks.build.costs import Costs
    from fitasks.build.jobserver import Jobserver
    from fitasks.build.journal import Journal
    from fitasks.build.ninja import Ninja
    from fitasks.build.schedule import Schedule
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan


@dataclass(frozen=True)
class Runner:
    """Runs ninjas for one plan; `timeout` in seconds for one kernel, None or 0 is none."""

    plan: Plan
    ninja: Ninja
    jobserver: Jobserver
    journal: Journal
    costs: Costs
    schedule: Schedule
    timeout: float | None
    say: Callable[[str], None]

    def run(self, kernel: Kernel, announce: Callable[[], None]) -> process.Finished:
        """Compile in the pool; `announce` is called once there is a slot. Raises KernelFailure.

        What was killed for want of memory is compiled once more, alone.
        """
        threads, order = self.threads(kernel), self.schedule.order
        weight = -float(order.index(kernel.label) if kernel.label in order else len(order))
        with self.jobserver.slot(weight, count=1 + (threads > 1), stopping=process.stopping):
            announce()
            finished = self._one_ninja(kernel, threads, [])
        if _was_killed(finished, self._log(kernel)):
            self.say(f"kernel:{kernel.label}: a compiler was killed for want of memory; again, alone")
            with self.jobserver.alone(process.stopping):
                finished = self._one_ninja(kernel, 1, ["-j", "1"])
        if finished.stopped:
            raise KernelFailure(f"{kernel.label}: stopped; what was finished stays, run doit again to go on")
        if finished.status or finished.timed_out:
            raise _failure(kernel, finished, self._log(kernel))
        return finished

    def _one_ninja(self, kernel: Kernel, threads: int, jobs: list[str]) -> process.Finished:
        if not is_client(self.ninja.version):
            jobs = ["-j", "1"]  # one slot each: doit starts as many ninjas as there are slots
        env = self.plan.environment(kernel.target)
        env |= {"MAKEFLAGS": self.jobserver.makeflags} | split_variables(env, threads)
        before, begin = ninjas.read_times(kernel.build_dir), time.time()
        # An interrupted nvcc leaves three to seven temporary files (measured): they go with their directory.
        with tempfile.TemporaryDirectory(prefix="fitasks-nvcc-", ignore_cleanup_errors=True) as scratch:
            finished = process.run(
                [*self.ninja.command(kernel.build_dir, kernel.ninja_file), *jobs],
                cwd=kernel.build_dir,
                env=env | {"TMPDIR": scratch},
                log=self._log(kernel),
                timeout=self.timeout,
            )
        for output, (first, last) in ninjas.read_times(kernel.build_dir).items():
            if before.get(output) != (first, last):  # of this ninja, not of an interrupted one before it
                self.journal.write("file", begin=begin + first, end=begin + last, label=kernel.label, output=output)
        return finished

    def learn(self, kernel: Kernel, finished: process.Finished) -> None:
        """For the order and the pool of later runs; nothing where only some files were compiled."""
        times = {
            output: last - first
            for output, (first, last) in sorted(ninjas.read_times(kernel.build_dir).items(), key=lambda item: item[1])
            if not output.endswith(".so")
        }
        if finished.cpu_seconds > 1 and len(times) == len(kernel.sources):
            # Of CPU, not of the clock: files wait for each other's core, and split ones use several.
            share = finished.cpu_seconds / max(0.001, sum(times.values()))
            longest = max(times, key=lambda output: times[output])
            files = tuple(round(seconds * share, 3) for seconds in times.values())
            self.costs.learn(kernel, Cost(finished.cpu_seconds, max(files), finished.peak_rss, longest, files=files))

    def threads(self, kernel: Kernel) -> int:
        """Of nvcc's optimiser."""
        return self.schedule.split.get(kernel.label, 1)

    def _log(self, kernel: Kernel) -> Path:
        return self.plan.state / "logs" / f"{kernel.label}.log"


def split_variables(env: Mapping[str, str], threads: int) -> dict[str, str]:
    """What makes nvcc optimise one file with several threads, beside what the user appends already."""
    if threads < 2:
        return {}
    return {"NVCC_APPEND_FLAGS": f"{env.get('NVCC_APPEND_FLAGS', '')} --split-compile={threads}".strip()}


def _was_killed(finished: process.Finished, log: Path) -> bool:
    if not finished.status or finished.timed_out or finished.stopped:
        return False
    return diagnose(log.read_text(errors="replace"), finished.status).out_of_memory


def _failure(kernel: Kernel, finished: process.Finished, log: Path) -> KernelFailure:
    if finished.timed_out:
        return KernelFailure(
            f"{kernel.label}: not finished after {finished.seconds:.0f} s, and stopped\n  log: {log}",
            remedy="raise `timeout:` in kernels.yaml (seconds; 0 is no limit)",
        )
    found = diagnose(log.read_text(errors="replace"), finished.status)
    hint = f"\n  hint: {found.hint}" if found.hint else ""
    if found.out_of_memory:
        hint += f"; {memory().available / 1e9:.1f} GB are free; it was tried alone as well"
    return KernelFailure(f"{kernel.label}: {found.first_error}{hint}\n  log: {log}")
