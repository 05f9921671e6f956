"""Which kernel first, and which files to shorten: longest first, and no build that waits for one file alone.

With C cores a build takes at least (CPU seconds / C), and at least as long as its longest file. Where the second is
the larger, nvcc is told to optimise that kernel's files with several threads (`--split-compile`, nvcc 12.8 and later),
through NVCC_APPEND_FLAGS, which is no part of ninja's commands. Only the optimiser is split, so that threads are
scarcely more than half busy (sampling.cu: 122 s alone, 76 s with 4 threads, 65 s with 16, for the same CPU seconds):
each kernel so treated takes one further slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitasks.build.costs import Cost, Costs
    from fitasks.plan.kernel import Kernel

SPLIT_THREADS = 4  # more shorten little: 76 s with 4, 65 s with 16
_GAIN = 0.62  # of its time is what a file takes with 4 threads


@dataclass(frozen=True)
class Schedule:
    """For one run: kernels in the order in which to begin them, and the threads of those that are split."""

    order: tuple[str, ...]  # labels
    split: Mapping[str, int]  # label → threads
    bound: float  # seconds that the run takes at least, as far as is known


def longest_first(kernels: Iterable[Kernel], costs: Costs) -> list[Kernel]:
    """By the longest file, then by all files: what bounds the end begins first."""
    return sorted(kernels, key=lambda kernel: _weight(costs.of(kernel)), reverse=True)


def schedule(kernels: Iterable[Kernel], costs: Costs, slots: int, *, split: bool) -> Schedule:
    """Of the kernels that are to be compiled."""
    ordered = longest_first(kernels, costs)
    cpu = sum(costs.of(kernel).cpu_seconds for kernel in ordered) / max(1, slots)
    threads = {}
    if split and slots > 2:  # with two cores a thread more only takes from another file
        threads = {kernel.label: min(SPLIT_THREADS, slots) for kernel in ordered if costs.of(kernel).longest > cpu}
    longest = max((_shortened(costs.of(kernel), kernel.label in threads) for kernel in ordered), default=0.0)
    return Schedule(tuple(kernel.label for kernel in ordered), threads, max(cpu, longest))


def _weight(cost: Cost) -> tuple[float, float]:
    return cost.longest, cost.cpu_seconds


def _shortened(cost: Cost, is_split: bool) -> float:
    return cost.longest * (_GAIN if is_split else 1.0)
