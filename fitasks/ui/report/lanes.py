"""Which slot of the pool each compiler had.

The journal doesn't say, because slots are all alike: any assignment in which no two overlap is as true
as another. This one takes as few lanes as there were compilers at once, and keeps a kernel in its lane where it can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Seconds by which two in one slot may seem to overlap: begin and duration come from two clocks.
SLACK = 0.1


@dataclass(frozen=True)
class FileSpan:
    """One compiler or linker process; seconds since the run began. `lane` is its slot, from 0, `more` are others."""

    label: str
    output: str  # "csrc_page.cuda.o"
    begin: float
    end: float
    lane: int = 0
    more: tuple[int, ...] = ()
    slots: int = 1  # that it takes
    threads: int = 1  # of nvcc's optimiser (`--split-compile`)
    status: int = 0  # as subprocess has it; negative: a signal
    cpu_seconds: float = 0.0  # 0 where they aren't known

    @property
    def lanes(self) -> tuple[int, ...]:
        """All its slots."""
        return (self.lane, *self.more)

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    @property
    def links(self) -> bool:
        """Whether this is the link, not a compile."""
        return self.output.endswith(".so")


def assign_lanes(spans: Iterable[FileSpan], slots: int) -> tuple[FileSpan, ...]:
    """The spans by begin, each in a lane (from 0) where no other overlaps it.

    Beyond `slots` lanes a span that overlaps by less than SLACK begins a little later instead of opening another lane.
    """
    lanes: list[FileSpan] = []  # the last of each
    placed = []
    for span in sorted(spans, key=lambda span: (span.begin, span.end, span.label, span.output)):
        chosen: list[int] = []
        for _ in range(max(1, span.slots)):
            chosen.append(_choose(lanes, span, slots, chosen))
        begin = max([span.begin, *(lanes[lane].end for lane in chosen if lane < len(lanes))])
        one = replace(span, begin=begin, lane=chosen[0], more=tuple(chosen[1:]))
        for lane in chosen:
            lanes[lane : lane + 1] = [one]
        placed.append(one)
    return tuple(placed)


def _choose(lanes: list[FileSpan], span: FileSpan, slots: int, chosen: list[int]) -> int:
    """One more lane for the span: one that is free, or nearly so, else a new one."""
    left = [index for index in range(len(lanes)) if index not in chosen]
    free = [index for index in left if lanes[index].end <= span.begin]
    if free:
        return next((index for index in free if lanes[index].label == span.label), free[0])
    count = max([len(lanes), *(index + 1 for index in chosen)])
    if left and count >= slots > 0:
        lane = min(left, key=lambda index: lanes[index].end)
        if lanes[lane].end - span.begin < SLACK and lanes[lane].end <= span.end:
            return lane
    return count
