"""What `doit list` says: each kernel with its state and size, then the tasks, by what they are for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from fitasks.base.wording import counted, labelled
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fitasks.compile.judge.reasons import Judgement
    from fitasks.plan.kernel import Kernel

MOST = 50  # kernels that have a line each; of more, each entry of kernels.yaml has one
_STATES = {"fresh": "fresh", "look": "fresh, to be looked at", "heal": "fresh but for timestamps"}
_KINDS = {"new": "not built", "elsewhere": "not built", "incomplete": "half-built", "failed": "failed"}


@dataclass(frozen=True)
class Row:
    """One kernel; `bytes` is the size of its library, 0 where there is none; `why` is told of one that isn't fresh."""

    label: str
    entry: str
    state: str
    bytes: int = 0
    why: str = ""


def judged(kernel: Kernel, judgement: Judgement, bytes_: int) -> Row:
    """Return the row of a kernel that was judged."""
    first = judgement.first
    state = _STATES.get(judgement.verdict) or _KINDS.get(first.kind if first else "", "stale")
    why = "" if first is None or first.kind == "new" else labelled(str(first), kernel.name, kernel.label)
    return Row(kernel.label, kernel.entry, state, bytes_, why or kernel.note)


def kernel_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each kernel, or for each entry where there are more than fifty; then the sum."""
    yield from _each(rows) if len(rows) <= MOST else _by_entry(rows)
    yield f"  {counted(len(rows), 'kernel')}{_sum(rows)}"


def task_lines(title: str, tasks: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a group's title, and a line for each of its tasks: name and what it does."""
    listed = list(tasks)
    width = max((len(name) for name, _ in listed), default=0)
    yield title
    yield from (f"  {name:{width}}  {doc}" for name, doc in listed)


def _each(rows: Sequence[Row]) -> Iterator[str]:
    label, state = (max((len(getattr(row, name)) for row in rows), default=0) for name in ("label", "state"))
    for row in rows:
        weight = size(row.bytes) if row.bytes else ""
        yield f"  {row.label:{label}}  {row.state:{state}}  {weight:>7}  {row.why}".rstrip()


def _by_entry(rows: Sequence[Row]) -> Iterator[str]:
    ordered = sorted(rows, key=lambda row: row.entry)
    entries = [(entry, list(group)) for entry, group in groupby(ordered, key=lambda row: row.entry)]
    width = max(len(entry) for entry, _ in entries)
    for entry, group in entries:
        yield f"  {entry:{width}}  {counted(len(group), 'kernel')}{_sum(group)}"


def _sum(rows: Sequence[Row]) -> str:
    """`: 6 fresh, 1 not built, 7.0 MB`."""
    counts = Counter(row.state for row in rows)
    parts = [f"{count} {state}" for state, count in counts.most_common()]
    total = sum(row.bytes for row in rows)
    return ": " + ", ".join([*parts, *([size(total)] if total else [])]) if parts else ""
