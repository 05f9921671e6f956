"""The doctor's findings for people, and for machines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.padding import Padding
from rich.text import Text

from fitasks.base.files import write_atomic
from fitasks.base.streams import clean
from fitasks.base.wording import counted
from fitasks.ui.console import cell
from fitasks.ui.console import console as rich_console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from fitasks.doctor.finding import Finding

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}

_COLUMN = 28  # columns of a terminal's line that subjects may take


def show_findings(findings: list[Finding], *, whole: bool = False) -> None:
    """Show a table per section, with what to do under each finding; then the count. Of what is "ok" that if `whole`."""
    findings = list(dict.fromkeys(findings))
    shown = [finding for finding in findings if whole or finding.state != "ok"]
    console = rich_console()
    width = max((len(finding.state) for finding in shown), default=0)
    for section, group in groupby(shown, key=lambda finding: finding.section):
        console.print(Text(section, style="bold"))
        _show_section(console, list(group), width)
        console.print()
    counts = Counter(finding.state for finding in findings)
    hidden = "" if whole or not counts["ok"] else f"; {counts['ok']} ok: `doit doctor -v` shows them"
    console.print(f"{counted(counts['problem'], 'problem')}, {counted(counts['note'], 'note')}{hidden}", soft_wrap=True)


def _show_section(console: Console, findings: Sequence[Finding], width: int) -> None:
    """In columns; what is too long for a terminal's line stands below what it is of, so that paths stay whole."""
    short = (cell_len(finding.subject) for finding in findings)
    subjects = max((count for count in short if count <= _COLUMN or not console.is_terminal), default=0)
    for finding in findings:
        first, *others = _told(finding)
        indent = 2 + width + 2 + subjects + 2
        room = console.width - indent
        beside = cell_len(finding.subject) <= subjects and max(map(cell_len, (first, *others))) <= room
        state = (f"{finding.state:{width}}", _STYLES[finding.state])
        head = f"{finding.subject:{subjects}}  {first}" if beside else finding.subject
        console.print(Text.assemble("  ", state, "  ", head), soft_wrap=True)
        for text in others if beside else (first, *others):
            left = indent if beside else indent - subjects - 2
            console.print(Padding(cell(text, style="italic" if text in others else ""), (0, 0, 0, left)))


def _told(finding: Finding) -> list[str]:
    return [clean(finding.value), *([clean(f"→ {finding.remedy}")] if finding.remedy else [])]


def write_findings(file: Path, findings: list[Finding]) -> None:
    """The same for machines."""
    good = all(finding.state != "problem" for finding in findings)
    data = {"version": 1, "good": good, "findings": [asdict(finding) for finding in findings]}
    write_atomic(file, json.dumps(data, indent=2) + "\n")
