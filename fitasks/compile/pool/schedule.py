"""Which files first, and which to shorten: no build that waits for one file alone.

With C cores a build takes at least (CPU seconds / C), and at least as long as its longest file. Files of all kernels
wait in one queue, the longest first, which keeps every core busy until only short ones are left. Where a file would
outlast everything else all the same, nvcc is told to optimise it with several threads (`--split-compile`), through
NVCC_APPEND_FLAGS, which is no part of ninja's commands. Only the optimiser is split (sampling.cu: 122 s alone, 76 s
with 4 threads, 65 s with 16, for the same CPU seconds): for most of its time one core is busy, then as many as there
are threads. So it takes no slot that would be idle; and meanwhile short files are patient (nice), so that those that
are nearly as long as the whole build aren't held up by its threads. nvcc 13.0 could also pay for each thread with a
token of a jobserver (`--jobserver`); with every file split like that nothing was won (16 cores, eight modules, 105 s
instead of 100 s).

How many of the longest are split is tried out: the pool is simulated (forecast.py).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from fitasks.compile.pool.costs import guess
from fitasks.compile.pool.forecast import Work, makespan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from fitasks.compile.pool.costs import Costs
    from fitasks.plan.kernel import Kernel

SPLIT_THREADS = 8  # more shorten little
_LONG = 0.75  # of an even spread over all cores is what a file must take for shorter ones to be patient
_WORTH = 0.98  # of the time is what it must take with further files split
_EQUAL = 1.0025  # of the best average over several cases
_EVENTS = 20_000  # files that may be simulated: about 0.2 s
_CASES = 16  # besides what is foretold, for what was never compiled here
_ERROR = 0.1  # of what is foretold: the standard deviation of its logarithm


@dataclass(frozen=True)
class Turn:
    """How one file is compiled: what takes most seconds begins first; `threads` are those of nvcc's optimiser."""

    seconds: float
    threads: int = 1
    slots: int = 1
    patient: bool = False  # whether it gives way to longer ones, where cores are scarce


@dataclass(frozen=True)
class Schedule:
    """For one run: each kernel's files by name; what isn't known takes no time."""

    turns: Mapping[str, Mapping[str, Turn]] = field(default_factory=dict)  # by label and source file
    bound: float = 0.0  # seconds that the run takes at least, as far as is known
    expected: float = 0.0  # seconds that it takes, by the same knowledge

    def turn(self, label: str, source: str) -> Turn:
        """Of one file."""
        return self.turns.get(label, {}).get(source, Turn(0.0))


def longest_first(kernels: Iterable[Kernel], costs: Costs) -> list[Kernel]:
    """By their longest file, then by CPU seconds."""

    def key(kernel: Kernel) -> tuple[float, float]:
        cost = costs.of(kernel)
        return cost.longest, cost.cpu_seconds

    return sorted(kernels, key=key, reverse=True)


@dataclass(frozen=True)
class _File:
    label: str
    name: str
    seconds: float
    gain: float  # if it is split
    sure: bool = True  # whether it was compiled here before


_ALL: Mapping[str, Collection[str]] = MappingProxyType({})


def schedule(
    kernels: Iterable[Kernel], costs: Costs, slots: int, *, split: bool, only: Mapping[str, Collection[str]] = _ALL
) -> Schedule:
    """Of the kernels that are to be compiled; `only` names the files of those that aren't compiled whole, by label."""
    files = [
        _File(kernel.label, name, seconds, guess(kernel).gain, costs.of(kernel).learnt)
        for kernel in kernels
        for name, seconds in costs.files(kernel).items()
        if name in only.get(kernel.label, (name,))
    ]
    if not files:
        return Schedule()
    files.sort(key=lambda file: (-file.seconds, file.label, file.name))
    count, expected = _split_count(files, slots) if split and slots > 2 else (0, _makespan(files, 0, slots))
    turns: dict[str, dict[str, Turn]] = {}
    for index, (file, work) in enumerate(zip(files, _works(files, count, slots), strict=True)):
        threads = min(SPLIT_THREADS, slots) if index < count else 1
        turns.setdefault(file.label, {})[file.name] = Turn(file.seconds, threads, work.slots, work.patient)
    return Schedule(turns, _bound(files, count, slots), expected)


def _split_count(files: list[_File], slots: int) -> tuple[int, float]:
    """How many of the longest files are split, and the seconds that all then take.

    What was never compiled here takes somewhat more or less than was foretold: what is best on average counts.
    """
    cases = [files] if all(file.sure for file in files) else [files, *_otherwise(files)]
    most = min(len(files), slots, max(3, _EVENTS // (len(files) * len(cases))))
    tried = [sum(_makespan(case, count, slots) for case in cases) / len(cases) for count in range(most + 1)]
    count = _most_of_the_best(tried) if len(cases) > 1 else _first_of_the_best(tried)
    return count, _makespan(files, count, slots)


def _first_of_the_best(seconds: list[float]) -> int:
    best = 0
    for count, each in enumerate(seconds):
        if each < _WORTH * seconds[best]:
            best = count
    return best


def _most_of_the_best(seconds: list[float]) -> int:
    """Which file turns out to be the longest isn't known: rather one too many."""
    return max(count for count, each in enumerate(seconds) if each <= _EQUAL * min(seconds))


def _otherwise(files: list[_File]) -> Iterator[list[_File]]:
    """The files with other seconds for those that nobody is sure of; the same at each call."""
    dice = random.Random(0)
    for _ in range(min(_CASES, _EVENTS // (4 * len(files)))):
        yield [
            one if one.sure else replace(one, seconds=one.seconds * dice.lognormvariate(0.0, _ERROR)) for one in files
        ]


def _makespan(files: list[_File], count: int, slots: int) -> float:
    return makespan(_works(files, count, slots), slots)


def _works(files: list[_File], count: int, slots: int) -> list[Work]:
    """With the first `count` split. Without any there are never more threads than slots, and nobody gives way."""
    long = _LONG * sum(file.seconds for file in files) / slots if count else 0.0
    return [
        Work(file.seconds, file.gain if index < count else 1.0, file.seconds < long) for index, file in enumerate(files)
    ]


def _bound(files: list[_File], count: int, slots: int) -> float:
    """No order is better: every core busy to the end, or the longest file."""
    longest = max(file.seconds * (file.gain if index < count else 1.0) for index, file in enumerate(files))
    return max(sum(file.seconds for file in files) / max(1, slots), longest)
