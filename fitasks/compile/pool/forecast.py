"""How long the pool takes for files in a given order, simulated.

Each file takes its slots when it is its turn and they are free; nobody overtakes (pool.py). A file that is split keeps
more than one core busy; where more is wanted than there is, everything slows down alike.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Work:
    """One file: its CPU seconds, and what it takes of them where nvcc's optimiser has several threads."""

    seconds: float
    gain: float = 1.0  # 1.0: not split

    @property
    def cores(self) -> float:
        """That it keeps busy, on average."""
        return 1 / self.gain

    @property
    def slots(self) -> int:
        """That it takes of the pool."""
        return max(1, round(self.cores))


@dataclass
class _Running:
    work: Work
    left: float  # seconds, with its cores to itself
    slots: int


def makespan(works: Iterable[Work], slots: int) -> float:
    """Seconds until the last file is done, begun in this order on so many slots."""
    waiting, running, now = deque(works), list[_Running](), 0.0
    while waiting or running:
        free = slots - sum(one.slots for one in running)
        while waiting and free >= min(waiting[0].slots, slots):
            work = waiting.popleft()
            running.append(_Running(work, work.seconds * work.gain, min(work.slots, slots)))
            free -= running[-1].slots
        step = min(one.left for one in running)
        now += step * max(1.0, sum(one.work.cores for one in running) / slots)
        for one in running:
            one.left -= step
        running = [one for one in running if one.left > 1e-9]
    return now
