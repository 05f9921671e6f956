"""What a wheel weighs, for people and for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.table import Table

from fitasks.base.files import write_atomic
from fitasks.ui.console import console as rich_console
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fitasks.delivery.wheel.sizes import Report, Size


def show_sizes(report: Report) -> None:
    """A table of kernels, one of families and one of architectures."""
    console = rich_console()
    console.print(_table("kernel", report.kernels))
    for title, sizes in (("family", report.families), ("architecture", report.architectures)):
        console.print()
        console.print(_table(title, sizes, count=True))
    console.print()
    if not report.stripped:
        console.print("no strip (binutils) on PATH: compiled again, the same kernels would give another wheel")


def write_sizes(file: Path, report: Report) -> None:
    """The same for machines."""
    write_atomic(file, json.dumps(report.as_data(), indent=2) + "\n")


def _table(title: str, sizes: Iterable[Size], *, count: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    for column in ("kernels", "installed", "in the wheel") if count else ("installed", "in the wheel"):
        table.add_column(column, no_wrap=True, justify="right")
    for one in sizes:
        numbers = [size(one.bytes), size(one.compressed)]
        table.add_row(one.name, *([str(one.kernels), *numbers] if count else numbers))
    return table
