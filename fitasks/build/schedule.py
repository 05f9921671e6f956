"""Which kernel first, and which files to shorten: no build that waits for one file, or one kernel, alone.

With C cores a build takes at least (CPU seconds / C), and at least as long as its longest file. Where the second is
the larger, nvcc is told to optimise that kernel's files with several threads (`--split-compile`), through
NVCC_APPEND_FLAGS, which is no part of ninja's commands. Only the optimiser is split, so that threads are scarcely more
than half busy (sampling.cu: 122 s alone, 76 s with 4 threads, 65 s with 16, for the same CPU seconds): each kernel so
treated takes one further slot. nvcc 13.0 could also pay for each thread with a token of the pool (`--jobserver`), but
it takes them before ninjas that have further files, so that nothing is won (every file split like that: 16 cores, eight
modules, 105 s instead of 100 s; 2 cores, six modules, 128 s instead of 126 s; sampling alone 71.5 s instead of 72.2 s).

Kernels with such a file begin first. After them what counts is a kernel's CPU seconds: ninja looks for a free slot of
the pool only when one of its own commands has ended (measured), so that a kernel of many short files that begins late
works through them one after another, with other slots idle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitasks.build.costs import Cost, Costs
    from fitasks.plan.kernel import Kernel

SPLIT_THREADS = 4  # more shorten little: 76 s with 4, 65 s with 16
SPLIT_GAIN = 0.62  # of its time is what a file takes with 4 threads
_PAYS = 1.15  # a file must outlast an even spread by this: split files keep two slots, not quite busy


@dataclass(frozen=True)
class Schedule:
    """For one run: kernels in the order in which to begin them, and the threads of those that are split."""

    order: tuple[str, ...]  # labels
    split: Mapping[str, int]  # label → threads
    bound: float  # seconds that the run takes at least, as far as is known


def heaviest_first(kernels: Iterable[Kernel], costs: Costs) -> list[Kernel]:
    """By CPU seconds."""
    return sorted(kernels, key=lambda kernel: costs.of(kernel).cpu_seconds, reverse=True)


def schedule(kernels: Iterable[Kernel], costs: Costs, slots: int, *, split: bool) -> Schedule:
    """Of the kernels that are to be compiled."""
    heavy = heaviest_first(kernels, costs)
    even = sum(costs.of(kernel).cpu_seconds for kernel in heavy) / max(1, slots)
    late = [kernel for kernel in heavy if costs.of(kernel).longest > _PAYS * even]
    late.sort(key=lambda kernel: costs.of(kernel).longest, reverse=True)
    threads = {}
    if split and slots > 2:  # with two cores a thread more only takes from another file
        threads = {kernel.label: min(SPLIT_THREADS, slots) for kernel in late}
    order = (*late, *(kernel for kernel in heavy if kernel not in late))
    longest = max((_shortened(costs.of(kernel), kernel.label in threads) for kernel in order), default=0.0)
    return Schedule(tuple(kernel.label for kernel in order), threads, max(even, longest))


def _shortened(cost: Cost, is_split: bool) -> float:
    return cost.longest * (SPLIT_GAIN if is_split else 1.0)
