"""How long the pool takes for files in a given order, simulated.

Each file takes its slots when it is its turn and they are free; nobody overtakes (pool.py). A file that is split keeps
more than one core busy; where more is wanted than there is, patient files get what others leave, or their small share.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NICE = 10  # of a patient compiler
_SHARE = 0.1  # of a core that it then has beside one of another that isn't


@dataclass(frozen=True)
class Work:
    """One file: its CPU seconds, and what it takes of them where nvcc's optimiser has several threads."""

    seconds: float
    gain: float = 1.0  # 1.0: not split
    patient: bool = False  # gives way to those that aren't

    @property
    def cores(self) -> float:
        """That it keeps busy, on average."""
        return 1 / self.gain

    @property
    def slots(self) -> int:
        """That it takes of the pool: so many that none of them is idle."""
        return max(1, int(self.cores))


@dataclass
class _Running:
    work: Work
    left: float  # seconds, with its cores to itself
    slots: int
    pace: float = 1.0  # 1.0: with its cores to itself


def makespan(works: Iterable[Work], slots: int) -> float:
    """Seconds until the last file is done, begun in this order on so many slots."""
    waiting, running, now = deque(works), list[_Running](), 0.0
    while waiting or running:
        free = slots - sum(one.slots for one in running)
        while waiting and free >= min(waiting[0].slots, slots):
            work = waiting.popleft()
            running.append(_Running(work, work.seconds * work.gain, min(work.slots, slots)))
            free -= running[-1].slots
        _share_out(running, slots)
        step = min(one.left / one.pace for one in running)
        now += step
        for one in running:
            one.left -= step * one.pace
        running = [one for one in running if one.left > 1e-9]
    return now


def _share_out(running: list[_Running], cores: int) -> None:
    wanted = sum(one.work.cores for one in running if not one.work.patient)
    patiently = sum(one.work.cores for one in running if one.work.patient)
    first = min(1.0, cores / (wanted + _SHARE * patiently))
    second = min(1.0, (cores - first * wanted) / patiently) if patiently else 0.0
    for one in running:
        one.pace = second if one.work.patient else first
