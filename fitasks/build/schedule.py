"""Which kernel first, and which files to shorten: no build that waits for one file, or one kernel, alone.

With C cores a build takes at least (CPU seconds / C), and at least as long as its longest file. Where the second is
the larger, nvcc is told to optimise that kernel's files with several threads (`--split-compile`), through
NVCC_APPEND_FLAGS, which is no part of ninja's commands. Only the optimiser is split, so that threads are scarcely more
than half busy (sampling.cu: 122 s alone, 76 s with 4 threads, 65 s with 16, for the same CPU seconds): each kernel so
treated takes one further slot. nvcc 13.0 could also pay for each thread with a token of the pool (`--jobserver`), but
it takes them before ninjas that have further files, so that nothing is won (every file split like that: 16 cores, eight
modules, 105 s instead of 100 s; 2 cores, six modules, 128 s instead of 126 s; sampling alone 71.5 s instead of 72.2 s).

In which order, and with which files split, is tried out: ninja looks for a free slot only when one of its own commands
has ended, so that neither "longest file first" nor "most CPU seconds first" is right for every number of cores (for
eight modules on 12 cores these take 1.3 and 1.9 times the bound). The pool is simulated (forecast.py) for a few such
orders, and for the best of them with single kernels moved, within a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fitasks.build.forecast import Work, makespan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fitasks.build.costs import Cost, Costs
    from fitasks.plan.kernel import Kernel

    Order = tuple[str, ...]  # of labels

SPLIT_THREADS = 4  # more shorten little
_MOST_SPLIT = 3  # kernels
_WORTH = 0.98  # of the time is what it must take with one more kernel split
_EVENTS = 50_000  # files that may be simulated for each number of split kernels: about 0.1 s

_ORDERS: tuple[Callable[[Cost, int], float], ...] = (
    lambda cost, _: cost.cpu_seconds,
    lambda cost, _: cost.longest,
    lambda cost, slots: max(cost.longest, cost.cpu_seconds / slots),
    lambda cost, slots: cost.longest + cost.cpu_seconds / slots / 2,
)


@dataclass(frozen=True)
class Schedule:
    """For one run: kernels in the order in which to begin them, and the threads of those that are split."""

    order: tuple[str, ...] = ()  # labels
    split: Mapping[str, int] = field(default_factory=dict)  # label → threads
    bound: float = 0.0  # seconds that the run takes at least, as far as is known
    expected: float = 0.0  # seconds that it takes, by the same knowledge


def heaviest_first(kernels: Iterable[Kernel], costs: Costs) -> list[Kernel]:
    """By CPU seconds."""
    return sorted(kernels, key=lambda kernel: costs.of(kernel).cpu_seconds, reverse=True)


def schedule(kernels: Iterable[Kernel], costs: Costs, slots: int, *, split: bool) -> Schedule:
    """Of the kernels that are to be compiled."""
    known = {kernel.label: costs.of(kernel) for kernel in heaviest_first(kernels, costs)}
    if not known:
        return Schedule()
    tries = _Tries(known, slots)
    best = tries.best(())
    by_file = sorted(known, key=lambda label: known[label].longest, reverse=True)
    for count in range(1, 1 + min(_MOST_SPLIT, len(known)) if split and slots > 2 else 1):
        found = tries.best(tuple(by_file[:count]))
        best = found if found.seconds < _WORTH * best.seconds else best
    threads = dict.fromkeys(best.split, min(SPLIT_THREADS, slots))
    return Schedule(best.order, threads, tries.bound(best.split), best.seconds)


@dataclass(frozen=True)
class _Try:
    seconds: float
    order: Order
    split: Order


class _Tries:
    """Orders of one set of kernels, tried out: as many as `_EVENTS` allows, and the plain ones in any case."""

    def __init__(self, known: Mapping[str, Cost], slots: int) -> None:
        self.known, self.slots = known, slots
        self.left = 0
        self.files = sum(len(cost.files) for cost in known.values())

    def best(self, split: Order) -> _Try:
        """Of the plain orders the best, and then with single kernels moved."""
        self.left = _EVENTS
        plain = (self._try(order, split) for order in map(self._ordered, _ORDERS))
        return self._improved(min(plain, key=lambda one: one.seconds))

    def _improved(self, best: _Try) -> _Try:
        """For as long as that helps and the tries last."""
        moved = True
        while moved:
            moved = False
            for order in _moves(best.order):
                if self.left < self.files:
                    return best
                found = self._try(order, best.split)
                if found.seconds < best.seconds - 0.01:
                    best, moved = found, True
                    break
        return best

    def _ordered(self, key: Callable[[Cost, int], float]) -> Order:
        return tuple(sorted(self.known, key=lambda label: key(self.known[label], self.slots), reverse=True))

    def _try(self, order: Order, split: Order) -> _Try:
        self.left -= self.files
        return _Try(makespan((self._work(label, label in split) for label in order), self.slots), order, split)

    def bound(self, split: Order) -> float:
        """No order is better: every core busy to the end, or the longest file."""
        longest = max(cost.longest * (cost.gain if label in split else 1.0) for label, cost in self.known.items())
        return max(sum(cost.cpu_seconds for cost in self.known.values()) / max(1, self.slots), longest)

    def _work(self, label: str, is_split: bool) -> Work:
        cost = self.known[label]
        return Work(cost.files, cost.gain, 2) if is_split else Work(cost.files)


def _moves(order: Order) -> Iterator[Order]:
    """Each order that differs by the place of one kernel."""
    for index, label in enumerate(order):
        rest = order[:index] + order[index + 1 :]
        for place in range(len(order)):
            if place not in {index, index - 1}:
                yield (*rest[:place], label, *rest[place:])
