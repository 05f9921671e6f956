"""Dividing kernels among machines that don't speak with each other: each finds the same division by itself.

What may decide is therefore only what is the same everywhere: the plan's kernels and their sources' names, by which
first guesses of their cost are made (costs.py). What this machine has learnt, or has compiled, mustn't. Costs count
that the user hands to every machine in a file.

Kernels stay whole. To divide one by its files, its objects would have to lie in a store before there is a receipt that
vouches for them, and somebody would have to wait for the others and link: a coordinator, and a compiler where kernels
are only fetched. So the largest kernel is what more machines don't make faster; `Division.largest` says it.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.pool.costs import guess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fitasks.compile.pool.costs import Cost
    from fitasks.plan.kernel import Kernel

_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})", re.ASCII)
_OBJECT = 8.0  # seconds: a kernel without sources is an object of CuTe-DSL's, which takes that long
_DIGITS = 8  # of a digest that people compare


@dataclass(frozen=True)
class Shard:
    """One machine's part: the `number`th of `count`, from 1 on."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """Read "3/20". Raises EnvironmentProblem."""
        found = _FORM.fullmatch(text)
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise EnvironmentProblem(f"--shard {text}: {_mistake(shard, text)}", remedy=_remedy(shard))
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def _mistake(shard: Shard, text: str) -> str:
    if not _FORM.fullmatch(text):
        return "not a part of the whole, such as 3/20"
    if not shard.count:
        return "nothing can be divided among 0 machines"
    return f"there is no part {shard.number} of {shard.count}"


def _remedy(shard: Shard) -> str:
    most = shard.count or 20
    return f"the parts of {most} machines are called 1/{most} to {most}/{most}"


@dataclass(frozen=True)
class Division:
    """Kernels' labels of each shard, and the seconds that these are thought to take; `digest` tells it from others."""

    shards: tuple[tuple[str, ...], ...]
    seconds: tuple[float, ...]
    largest: tuple[str, float]  # label and seconds
    digest: str

    @property
    def even(self) -> float:
        """The seconds of a shard if kernels could be divided."""
        return sum(self.seconds) / len(self.seconds)


def divide(kernels: Iterable[Kernel], count: int, cost: Callable[[Kernel], Cost] = guess) -> Division:
    """Divide kernels, each with a label of its own: the longest first, to whoever has least."""
    weights = {kernel.label: _weight(kernel, cost) for kernel in kernels}
    order = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
    parts: list[list[str]] = [[] for _ in range(count)]
    loads = [(0.0, index) for index in range(count)]
    for label, seconds in order:
        load, index = heapq.heappop(loads)
        parts[index].append(label)
        heapq.heappush(loads, (load + seconds, index))
    loads.sort(key=lambda load: load[1])
    digest = hashlib.sha256(repr((count, order)).encode()).hexdigest()[:_DIGITS]
    return Division(
        tuple(map(tuple, parts)), tuple(load for load, _ in loads), order[0] if order else ("", 0.0), digest
    )


def _weight(kernel: Kernel, cost: Callable[[Kernel], Cost]) -> float:
    """CPU seconds. A module of SGLang's has a hash in its name, under which perhaps only this machine knows it."""
    return (cost if kernel.kind == "flashinfer" else guess)(kernel).cpu_seconds or _OBJECT
