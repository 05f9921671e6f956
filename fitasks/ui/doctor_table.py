"""The doctor's findings for people, and for machines."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fitasks.base.files import write_atomic
from fitasks.base.wording import counted
from fitasks.ui.console import cell
from fitasks.ui.console import console as rich_console

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.doctor.finding import Finding

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def show_findings(findings: list[Finding]) -> None:
    """Show a table per section, with what to do under each finding that isn't "ok"; then the count."""
    findings = list(dict.fromkeys(findings))
    console = rich_console()
    width = max(len(finding.state) for finding in findings)
    for section, group in groupby(findings, key=lambda finding: finding.section):
        console.print(Text(section, style="bold"))
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=width)
        table.add_column(overflow="fold", max_width=28 if console.is_terminal else None)
        table.add_column(overflow="fold")
        for finding in group:
            table.add_row(Text(finding.state, style=_STYLES[finding.state]), finding.subject, cell(finding.value))
            if finding.remedy:
                table.add_row("", "", cell(f"→ {finding.remedy}", style="italic"))
        console.print(Padding(table, (0, 0, 1, 2)))
    counts = {state: sum(finding.state == state for finding in findings) for state in ("problem", "note")}
    console.print(", ".join(counted(count, state) for state, count in counts.items()))


def write_findings(file: Path, findings: list[Finding]) -> None:
    """The same for machines."""
    good = all(finding.state != "problem" for finding in findings)
    data = {"version": 1, "good": good, "findings": [asdict(finding) for finding in findings]}
    write_atomic(file, json.dumps(data, indent=2) + "\n")
