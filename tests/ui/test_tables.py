"""What tables look like on a terminal, and in a log or a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import pytest

from fitasks.doctor.finding import Finding
from fitasks.server.verdict import Verdict
from fitasks.ui.check_table import show_verdicts
from fitasks.ui.console import console
from fitasks.ui.doctor_table import show_findings
from fitasks.ui.show import why_lines

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


def test_a_reason_that_is_too_long_for_its_row_stands_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = on_a_terminal(monkeypatch, 80)
    show_verdicts(VERDICTS, [])
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[:4] == [
        "kernel            the server     size  why",
        "decode-bf16-d128  would compile        new: never built",
        "page              would compile",
        "    compiled in /home/somebody/.cache/flashinfer/0.7.4/90a, where this server",
    ]
    assert max(map(len, lines)) <= 80


def test_what_the_doctor_found_keeps_its_paths_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/opt/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcudart.so.13"
    found = [Finding("caches", "libcudart", f"13.0.96 at {path}", "note", "do it"), Finding("caches", "store", "/s")]
    out = on_a_terminal(monkeypatch, 80)
    show_findings(found, whole=True)
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "caches",
        "  note  libcudart",
        "        13.0.96 at",
        f"        {path}",
        "        → do it",
        "  ok    store      /s",
        "",
        "0 problems, 1 note",
    ]


def test_the_doctors_findings_are_whole_lines_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    path = "/opt/venv/lib/python3.12/site-packages/nvidia/cu13 (from pip)"
    hole = Finding("toolkit", path, f"lacks {LONG}", "note", "do it")
    show_findings([Finding("toolkit", "used", "/usr/local/cuda"), hole, hole], whole=True)
    assert capsys.readouterr().out.splitlines() == [
        "toolkit",
        f"  ok    {'used':{len(path)}}  /usr/local/cuda",
        f"  note  {path}  lacks {LONG}",
        f"        {'':{len(path)}}  → do it",
        "",
        "0 problems, 1 note",
    ]


def test_the_doctor_says_what_is_wrong_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    note = Finding("caches", "libcudart", "13.0.88", "note", "do it")
    show_findings([Finding("toolkit", "used", "/usr/local/cuda"), Finding("caches", "store", "/s"), note])
    assert capsys.readouterr().out.splitlines() == [
        "caches",
        "  note  libcudart  13.0.88",
        "                   → do it",
        "",
        "0 problems, 1 note; 2 ok: `doit doctor -v` shows them",
    ]


def test_the_doctor_counts_where_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    show_findings([Finding("toolkit", "used", "/usr/local/cuda")])
    assert capsys.readouterr().out == "0 problems, 0 notes; 1 ok: `doit doctor -v` shows them\n"


@pytest.mark.parametrize(("cached", "whole", "rows"), [(49, False, 51), (50, False, 2), (50, True, 52)])
def test_of_many_kernels_those_that_are_there_are_counted(
    cached: int, whole: bool, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [Verdict(f"page-{n}", "page", "9.0a", "cached", bytes=1000) for n in range(cached)]
    show_verdicts([*there, VERDICTS[0]], [], whole=whole)
    *table, last = capsys.readouterr().out.splitlines()
    assert len(table) == rows
    assert table[-1].startswith("decode-bf16-d128")
    assert last.endswith("; `doit check -v` lists them") == (rows == 2)


def test_of_many_kernels_that_are_all_there_the_sum_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    show_verdicts([Verdict(f"page-{n}", "page", "9.0a", "cached", bytes=1000) for n in range(60)], [])
    assert capsys.readouterr().out == "60 of 60 kernels found, 60.0 kB; `doit check -v` lists them\n"


MANY = tuple(f"header {n} changed" for n in range(700))


def test_of_hundreds_of_reasons_the_first_are_told() -> None:
    assert list(why_lines([("page", MANY), ("rope", ("new: never built",))], whole=False)) == [
        "kernel:page: header 0 changed",
        "             header 1 changed",
        "             header 2 changed",
        "             and 697 reasons more: `doit why page`",
        "kernel:rope: new: never built",
    ]
    assert len(list(why_lines([("page", MANY)], whole=True))) == 700


def test_many_kernels_with_equal_reasons_are_told_together() -> None:
    rows = [(f"page-{n}", MANY[:2]) for n in range(60)]
    assert list(why_lines([*rows, ("rope", MANY[:1])], whole=False)) == [
        "kernel:page-0 and 59 more: header 0 changed",
        "                           header 1 changed",
        "kernel:rope: header 0 changed",
    ]
    assert len(list(why_lines(rows[:50], whole=False))) == len(list(why_lines(rows[:50], whole=True))) == 100


def test_a_reader_who_has_seen_enough_ends_no_program() -> None:
    """`doit check | head`: rich would raise SystemExit(1), of which doit prints the 1."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    with pytest.raises(BrokenPipeError):
        console(stream).print("a table\n" * 9999)
    with contextlib.suppress(BrokenPipeError):
        stream.close()
