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
    """One compiler or linker process; seconds since the run began. `lane` is its slot, from 0."""

    label: str
    output: str  # "csrc_page.cuda.o"
    begin: float
    end: float
    lane: int = 0

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
        free = [index for index, last in enumerate(lanes) if last.end <= span.begin]
        lane = _preferred(free, lanes, span) if free else _nearly_free(lanes, span, slots)
        begin = max(span.begin, lanes[lane].end) if lane < len(lanes) else span.begin
        one = replace(span, begin=begin, lane=lane)
        lanes[lane : lane + 1] = [one]
        placed.append(one)
    return tuple(placed)


def _preferred(free: list[int], lanes: list[FileSpan], span: FileSpan) -> int:
    return next((index for index in free if lanes[index].label == span.label), free[0])


def _nearly_free(lanes: list[FileSpan], span: FileSpan, slots: int) -> int:
    """A lane that is all but free, where all slots are taken; else a new one."""
    if len(lanes) >= slots > 0:
        lane = min(range(len(lanes)), key=lambda index: lanes[index].end)
        if lanes[lane].end - span.begin < SLACK and lanes[lane].end <= span.end:
            return lane
    return len(lanes)
