"""The verdicts of `doit check` for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fitasks.base.files import write_atomic
from fitasks.base.wording import counted, labelled
from fitasks.ui.console import console as rich_console
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fitasks.plan.kernel import NotLoaded
    from fitasks.server.verdict import Verdict

_STYLES = {"ahead-of-time": "green", "cached": "green"}


def show_verdicts(verdicts: list[Verdict], conditions: list[str], not_loaded: Sequence[NotLoaded] = ()) -> None:
    """A table, the count of kernels that are there, and what all of it depends on."""
    console = rich_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kernel", "the server", "size"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    table.add_column("why", overflow="fold")
    for verdict in verdicts:
        state = Text(verdict.state, style=_STYLES.get(verdict.state, "red"))
        why = labelled(verdict.reason, verdict.name, verdict.label)
        table.add_row(verdict.label, state, size(verdict.bytes) if verdict.bytes else "", why)
    console.print(table)
    good = [verdict for verdict in verdicts if verdict.good]
    total = size(sum(verdict.bytes for verdict in good))
    console.print(f"{len(good)} of {counted(len(verdicts), 'kernel')} found, {total}")
    for other in not_loaded:
        console.print(f"Without a module: {other.entry} ({other.target}): {other.why}", soft_wrap=True)
    for condition in conditions:
        console.print(f"Provided that {condition}", soft_wrap=True)


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
