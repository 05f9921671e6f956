"""Which kernel first, and which files to shorten: no build that waits for one file, or one kernel, alone.

With C cores a build takes at least (CPU seconds / C), and at least as long as its longest file. Where the second is
the larger, nvcc is told to optimise that kernel's files with several threads (`--split-compile`), through
NVCC_APPEND_FLAGS, which is no part of ninja's commands. Only the optimiser is split, so that threads are scarcely more
than half busy (sampling.cu: 122 s alone, 76 s with 4 threads, 65 s with 16, for the same CPU seconds): each kernel so
treated takes one further slot. With two slots that would be all; there the second thread is paid for with a token of
the pool whenever one is free, which an nvcc can do that is a client of the jobserver itself (`--jobserver`; 13.0 is,
measured). To let every file of a build take tokens like that was no gain: they keep them from ninjas that have further
files (16 cores, eight modules: 105 s, and 100 s without; 2 cores, six modules: 128 s and 126 s).

Kernels with such a file begin first. After them what counts is a kernel's CPU seconds: ninja looks for a free slot of
the pool only when one of its own commands has ended (measured), so that a kernel of many short files that begins late
works through them one after another, with other slots idle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from fitasks.build.costs import Cost, Costs
    from fitasks.plan.kernel import Kernel

SPLIT = "--split-compile"
CLIENT = "--jobserver"
SPLIT_GAIN = 0.62  # of its time is what a file takes with 4 threads
_THREADS = 4  # more shorten little
_PAYS = 1.15  # a file must outlast an even spread by this: with a slot set aside, two aren't quite busy


@dataclass(frozen=True)
class Split:
    """How a kernel's files are compiled: threads of nvcc's optimiser, at most, and the slots that its ninja takes."""

    threads: int = 1
    slots: int = 1
    flags: str = ""  # of nvcc


@dataclass(frozen=True)
class Schedule:
    """For one run: kernels in the order in which to begin them, and how those are split that are."""

    order: tuple[str, ...] = ()  # labels
    split: Mapping[str, Split] = field(default_factory=dict)  # by label
    bound: float = 0.0  # seconds that the run takes at least, as far as is known


def heaviest_first(kernels: Iterable[Kernel], costs: Costs) -> list[Kernel]:
    """By CPU seconds."""
    return sorted(kernels, key=lambda kernel: costs.of(kernel).cpu_seconds, reverse=True)


def schedule(kernels: Iterable[Kernel], costs: Costs, slots: int, *, nvcc: Collection[str]) -> Schedule:
    """Of the kernels that are to be compiled; `nvcc` are the options that it knows and that may be used."""
    heavy = heaviest_first(kernels, costs)
    even = sum(costs.of(kernel).cpu_seconds for kernel in heavy) / max(1, slots)
    late = [kernel for kernel in heavy if costs.of(kernel).longest > _PAYS * even]
    late.sort(key=lambda kernel: costs.of(kernel).longest, reverse=True)
    order = (*late, *(kernel for kernel in heavy if kernel not in late))
    how = _split(slots, nvcc)
    split = {kernel.label: how for kernel in late if how.threads > 1}
    longest = max((_shortened(costs.of(kernel), kernel.label in split) for kernel in order), default=0.0)
    return Schedule(tuple(kernel.label for kernel in order), split, max(even, longest))


def _split(slots: int, nvcc: Collection[str]) -> Split:
    threads = min(_THREADS, slots)
    if SPLIT not in nvcc or slots < 2 or (slots == 2 and CLIENT not in nvcc):
        return Split()
    if slots == 2:
        return Split(threads, 1, f"{SPLIT}={threads} {CLIENT}")
    return Split(threads, 2, f"{SPLIT}={threads}")


def _shortened(cost: Cost, is_split: bool) -> float:
    return cost.longest * (SPLIT_GAIN if is_split else 1.0)
