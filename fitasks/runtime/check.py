"""`doit check`: is every planned kernel there, whole and current?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.ui.units import size

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel
    from fitasks.session import Session


@dataclass(frozen=True)
class Line:
    """One kernel's state for the table."""

    label: str
    state: str
    bytes: int
    reason: str


def check_all(session: Session) -> bool:
    """Print the table; whether all kernels are complete."""
    from rich.console import Console
    from rich.table import Table

    lines = [_line(session, kernel) for kernel in session.plan.kernels if not kernel.twin]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kernel", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("reason")
    for line in lines:
        table.add_row(line.label, line.state, size(line.bytes) if line.bytes else "", line.reason)
    console = Console(soft_wrap=False)
    console.print(table)
    complete = [line for line in lines if line.state == "complete"]
    console.print(
        f"Found {len(complete)} compiled kernel(s) of {len(lines)}, {size(sum(line.bytes for line in complete))}",
        highlight=False,
    )
    return len(complete) == len(lines)


def _line(session: Session, kernel: Kernel) -> Line:
    if kernel.problem:
        return Line(kernel.label, "unplanned", 0, kernel.problem)
    judged = session.judge(kernel)
    try:
        found = kernel.library.stat().st_size
    except OSError:
        found = 0
    if judged.verdict in {"fresh", "look"}:
        return Line(kernel.label, "complete", found, "")
    state = "incomplete" if kernel.build_dir.exists() else "missing"
    return Line(kernel.label, state, found, str(judged.reasons[0]))
