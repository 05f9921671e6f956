"""The verdicts of `doit check` for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.padding import Padding
from rich.text import Text

from fitasks.base.files import write_atomic
from fitasks.base.streams import clean
from fitasks.base.wording import counted, labelled
from fitasks.ui.console import console as rich_console
from fitasks.ui.overview import MOST
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from fitasks.plan.kernel import NotLoaded
    from fitasks.server.verdict import Verdict

_STYLES = {"ahead-of-time": "green", "cached": "green"}


def show_verdicts(
    verdicts: list[Verdict], conditions: list[str], not_loaded: Sequence[NotLoaded] = (), *, whole: bool = False
) -> None:
    """A table, the count of kernels that are there, and what all of it depends on.

    Of more than fifty kernels those that are there are only counted, unless `whole`.
    """
    console = rich_console()
    good = [verdict for verdict in verdicts if verdict.good]
    short = len(verdicts) > MOST and bool(good) and not whole
    shown = [verdict for verdict in verdicts if not (short and verdict.good)]
    if shown or not short:
        _show_table(console, shown)
    total = size(sum(verdict.bytes for verdict in good))
    hidden = "; `doit check -v` lists them" if short else ""
    console.print(f"{len(good)} of {counted(len(verdicts), 'kernel')} found, {total}{hidden}", soft_wrap=True)
    for other in not_loaded:
        console.print(f"Without a module: {other.entry} ({other.target}): {other.why}", soft_wrap=True)
    for condition in conditions:
        console.print(f"Provided that {condition}", soft_wrap=True)


def _show_table(console: Console, verdicts: Sequence[Verdict]) -> None:
    """A row each; a reason that is longer than what is left of a terminal's line stands below its row."""
    rows = [("kernel", "the server", "size", "why"), *map(_row, verdicts)]
    label, state, weight = (max(cell_len(row[column]) for row in rows) for column in range(3))
    room = console.width - (label + state + weight + 6)
    for row, verdict in zip(rows, [None, *verdicts], strict=True):
        style = _STYLES.get(verdict.state, "red") if verdict else "bold"
        fits = cell_len(row[3]) <= room
        parts = (
            f"{row[0]:{label}}  ",
            (f"{row[1]:{state}}", style),
            f"  {row[2]:>{weight}}",
            f"  {row[3]}" if fits else "",
        )
        console.print(Text.assemble(*parts, style="" if verdict else "bold"), soft_wrap=True)
        if not fits:
            console.print(Padding(Text(row[3]), (0, 0, 0, 4)))


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    why = clean(labelled(verdict.reason, verdict.name, verdict.label))
    return verdict.label, verdict.state, size(verdict.bytes) if verdict.bytes else "", why


def write_verdicts(
    file: Path, verdicts: list[Verdict], conditions: list[str], not_loaded: Sequence[NotLoaded] = ()
) -> None:
    """The same for machines."""
    good = all(verdict.good for verdict in verdicts)
    data = {
        "version": 1,
        "good": good,
        "conditions": conditions,
        "not_loaded": [asdict(other) for other in not_loaded],
        "kernels": [asdict(verdict) for verdict in verdicts],
    }
    write_atomic(file, json.dumps(data, indent=2) + "\n")
