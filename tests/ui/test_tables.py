"""What tables look like on a terminal, and in a log or a pipe."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from fitasks.doctor.finding import Finding
from fitasks.server.verdict import Verdict
from fitasks.ui.check_table import show_verdicts
from fitasks.ui.doctor_table import show_findings

if TYPE_CHECKING:
    import pytest

LONG = "compiled in /home/somebody/.cache/flashinfer/0.7.4/90a, where this server never looks (its cache is /srv/cache)"
VERDICTS = [
    Verdict("decode-bf16-d128", "batch_decode", "9.0a", "would compile", "new: never built"),
    Verdict("page", "page", "9.0a", "would compile", LONG),
]


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> io.StringIO:
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")  # no colours
    monkeypatch.setattr(sys, "stdout", out)
    return out


def test_a_table_is_as_wide_as_it_needs_where_nobody_sees_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show_verdicts(VERDICTS, [])
    assert capsys.readouterr().out.splitlines()[:3] == [
        "kernel            the server     size  why",
        "decode-bf16-d128  would compile        new: never built",
        f"page              would compile        {LONG}",
    ]


def test_a_table_is_no_wider_than_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = on_a_terminal(monkeypatch, 80)
    show_verdicts(VERDICTS, [])
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_doctors_findings_are_whole_lines_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    path = "/opt/venv/lib/python3.12/site-packages/nvidia/cu13 (from pip)"
    hole = Finding("toolkit", path, f"lacks {LONG}", "note", "do it")
    show_findings([Finding("toolkit", "used", "/usr/local/cuda"), hole, hole])
    assert capsys.readouterr().out.splitlines() == [
        "toolkit",
        f"  ok    {'used':{len(path)}}  /usr/local/cuda",
        f"  note  {path}  lacks {LONG}",
        f"        {'':{len(path)}}  → do it",
        "",
        "0 problems, 1 note",
    ]
