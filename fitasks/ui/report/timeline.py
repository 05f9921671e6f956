"""The timeline: an SVG whose horizontal places are percentages, so that it is as wide as the screen, its text as large.

A bar bears its kernel's name where there is room for it; how much room there is depends on the screen, so that each
name says the width it needs (classes `at-…`) and the style sheet shows it there.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from fitasks.ui.report.html import clock, percent, seconds, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.ui.report.lanes import FileSpan
    from fitasks.ui.report.model import KernelRun, RecordedRun

_AXIS = 22  # pixels under the lanes
_LETTER = 7  # pixels, on average, of a wide font
_ROOMS = {
    "at-390": 280,
    "at-700": 600,
    "at-1000": 880,
    "at-1240": 1080,
}  # class → pixels of the plot at that width of the screen
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000, 86400)


def timeline(run: RecordedRun, colours: Mapping[str, str]) -> str:
    """Every compiler process by slot. `colours` are the style attributes of kernels; run has at least one span."""
    lanes = max(max(span.lanes) for span in run.spans) + 1
    row = 26 if lanes <= 20 else 14 if lanes <= 64 else 7
    length = max(span.end for span in run.spans) or 1.0
    bars = "\n".join(_kernel(kernel, colours, row, length) for kernel in run.kernels if kernel.spans)
    labels = _labels(run, colours, row, length) if row >= 26 else ""
    parts = [_stripes(lanes, row), _axis(length, lanes * row), bars, labels]
    height = lanes * row + _AXIS
    plot = (
        f'<svg class="plot" role="img" aria-label="compiler processes by slot and time" width="100%" '
        f'height="{height}">\n' + "\n".join(parts) + "\n</svg>"
    )
    return f'<div class="timeline">{_slots(lanes, row)}{plot}</div>'


def _slots(lanes: int, row: int) -> str:
    """The numbers of slots, as many as there is room for."""
    every = 1 if row >= 14 else 4
    texts = "".join(
        f'<text x="100%" y="{lane * row + row / 2:g}" dy=".35em">{lane + 1}</text>' for lane in range(0, lanes, every)
    )
    return f'<svg class="slots" width="28" height="{lanes * row + _AXIS}" aria-hidden="true">{texts}</svg>'


def _stripes(lanes: int, row: int) -> str:
    rects = (f'<rect class="lane" y="{lane * row}" width="100%" height="{row - 1}"/>' for lane in range(lanes))
    return "".join(rects)


def _axis(length: float, bottom: int) -> str:
    """At most seven ticks, each with its time, the last one's to its left where it would stand out."""
    step = next((step for step in _STEPS if length / step <= 6), 86400 * (1 + length // (6 * 86400)))
    ticks = [index * step for index in range(int(length / step) + 1)]
    return "".join(_tick(tick, tick / length, bottom) for tick in ticks)


def _tick(tick: float, place: float, bottom: int) -> str:
    x, anchor = percent(place), "start" if place < 0.02 else "end" if place > 0.95 else "middle"
    line = f'<line x1="{x}" x2="{x}" y2="{bottom + 4}"/>'
    return f'{line}<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{clock(tick)}</text>'


def _kernel(kernel: KernelRun, colours: Mapping[str, str], row: int, length: float) -> str:
    bars = "".join(_bar(kernel, span, row, length) for span in kernel.spans)
    return f'<g class="kernel"{colours[kernel.label]}>{bars}</g>'


def _bar(kernel: KernelRun, span: FileSpan, row: int, length: float) -> str:
    """In each of its slots; of one that didn't succeed with a mark."""
    x, width, kind = percent(span.begin / length), percent(span.seconds / length), ' class="failed"' * bool(span.status)
    rects = "".join(f'<rect x="{x}" y="{lane * row}" width="{width}" height="{row - 1}"/>' for lane in span.lanes)
    return f"<g{kind}>{rects}<title>{text(_tooltip(kernel, span))}</title></g>"


def _labels(run: RecordedRun, colours: Mapping[str, str], row: int, length: float) -> str:
    """A kernel's name once over its neighbouring bars."""
    texts = []
    for first, last in _neighbours(run, gap=length / 100):
        if kind := _room(first.label, (last.end - first.begin) / length):
            place = f'x="{percent(first.begin / length)}" dx="6" y="{(first.lane + 0.5) * row:g}" dy=".35em"'
            texts.append(f'<text class="{kind}"{colours[first.label]} {place}>{text(first.label)}</text>')
    return f'<g class="labels">{"".join(texts)}</g>'


def _neighbours(run: RecordedRun, gap: float) -> list[tuple[FileSpan, FileSpan]]:
    """First and last of each row of bars that are one kernel's, in one lane, with less than `gap` seconds between."""
    rows: list[tuple[FileSpan, FileSpan]] = []
    for span in sorted(run.spans, key=lambda span: (span.lane, span.begin)):
        first, last = rows[-1] if rows else (span, span)
        if rows and (last.lane, last.label) == (span.lane, span.label) and span.begin - last.end < gap:
            rows[-1] = (first, span)
        else:
            rows.append((span, span))
    return rows


def _room(words: str, width: float) -> str:
    """The narrowest screen on which a bar of this part of the width has room for the words; "" for none."""
    return next((kind for kind, room in _ROOMS.items() if width * room >= len(words) * _LETTER + 12), "")


def _tooltip(kernel: KernelRun, span: FileSpan) -> str:
    times = f"{clock(span.begin)} to {clock(span.end)}, {seconds(span.seconds)}"
    split = [f"optimised by {span.threads} threads"] if span.threads > 1 else []
    return "\n".join([kernel.label, span.output, *ending(span), times, *split, *kernel.why[:3]])


def ending(span: FileSpan) -> list[str]:
    """What became of a compiler that didn't succeed."""
    if span.status >= 0:
        return [f"failed, exit status {span.status}"] if span.status else []
    with contextlib.suppress(ValueError):
        return [f"ended by {signal.Signals(-span.status).name}"]
    return [f"ended by signal {-span.status}"]
