"""Whatever is quoted, a terminal shows it and doesn't obey."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.streams import clean, one_line, show, show_for_shell, tell, whole
from fitasks.compile.failure.diagnose import diagnose
from fitasks.compile.pool.usage import Usage
from fitasks.graph import tasks
from fitasks.server.verdict import Verdict
from fitasks.ui.board import LiveBoard, PlainBoard
from fitasks.ui.check_table import show_verdicts, write_verdicts
from fitasks.ui.console import cell, console
from fitasks.ui.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp\u2066\u200b\r\x08b"
SPELT = r"a\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp\u2066\u200b\r\x08b"
TEXTS = st.text(st.characters() | st.sampled_from("\x1b[]0;m\x07\r\n\t\u202e\u2028\x9b\\")) | st.just(EVIL)


def is_harmless(text: str) -> bool:
    """By Unicode's own categories, not by our list: no control, format or half character, no other end of line."""
    allowed = {"\n", "\t", "\U00013430"}
    bad = {one for one in text if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - allowed
    return not {one for one in bad if unicodedata.bidirectional(one) != "L" or unicodedata.category(one) != "Cf"}


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_nothing_acts_and_nothing_is_cleaned_twice(text: str) -> None:
    told = clean(text)
    assert is_harmless(told)
    assert clean(told) == told
    assert len(told.splitlines()) <= len(text.splitlines())
    assert "\n" not in one_line(text)


@pytest.mark.parametrize(
    "text", ["编译内核", "カーネル", "日本語\u3000空白", "é e\u0301", "→ … 7.0 MB", "Ελληνικά", "مرحبا", "a\tb\nc"]
)
def test_letters_stay(text: str) -> None:
    assert clean(text) == text


def test_a_compilers_colours_are_left_out_and_all_else_is_spelt_out() -> None:
    said = "\x1b[01m\x1b[Kpage.cu:3:1:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kno\r\n"
    assert clean(said) == "page.cu:3:1: error: no\n"
    assert clean("\x1b[\x1b[0mm") == r"\x1b[m"
    assert clean(EVIL) == SPELT


def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO]:
    """Standard output and standard error as a run has them."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    tasks._prepare_streams()
    tasks._prepare_streams()  # dodo.py may be loaded twice
    assert whole(sys.stdout) is out
    return out, err


def test_whatever_prints_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch)
    print(EVIL)  # noqa: T201
    show(f"one\n{EVIL}")
    sys.stdout.writelines([EVIL, "\n"])
    print(EnvironmentProblem(EVIL, remedy=EVIL), file=sys.stderr)  # noqa: T201
    tell(EVIL)
    assert out.getvalue() == f"{SPELT}\none\\n{SPELT}\n{SPELT}\n"
    assert err.getvalue() == f"{SPELT}\n  remedy: {SPELT}\nfitasks: {SPELT}\n"


def test_a_shell_gets_what_it_is_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = streams(monkeypatch)
    show_for_shell("export A='/opt/\u200b'")
    assert out.getvalue() == "export A='/opt/\u200b'\n"
    out.isatty = lambda: True  # type: ignore[method-assign]
    show_for_shell("export A='/opt/\u200b'")
    assert out.getvalue().endswith("export A='/opt/\\u200b'\n")


def verdict(reason: str) -> Verdict:
    return Verdict("page", "page", "9.0a", "would compile", reason)


@pytest.mark.parametrize("reason", [EVIL, "[/red] [bold]x", ":smile:", "[link=file:///etc/passwd]"])
def test_a_table_shows_what_it_is_given(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out, _ = streams(monkeypatch)
    show_verdicts([verdict(reason)], [reason])
    said = out.getvalue()
    assert clean(reason) in said.splitlines()[1]
    assert f"Provided that {clean(reason)}" in said
    assert is_harmless(said)


def test_a_terminal_gets_richs_own_colours_and_no_others() -> None:
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    shown = console(out)
    table = Table(EVIL)
    table.add_row(cell(EVIL, style="red"))
    table.add_row(Text(EVIL, style="red"))
    shown.print(table)
    said = out.getvalue()
    if "\x1b[31m" in said:  # a terminal that has colours
        assert clean(said) == said.replace("\x1b[31m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\x1b[2J" not in said
    assert "\x1b]0" not in said
    assert "\u202e" not in said


def test_the_boards_lines_are_clean() -> None:
    for board in (PlainBoard, LiveBoard):
        out = io.StringIO()
        board(out, Progress(lambda _label: 0, Usage)).line(EVIL)
        assert out.getvalue() == f"{SPELT}\n"


def test_what_is_for_machines_stays_as_it_is(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "check.json", [verdict(EVIL)], [EVIL])
    written = (tmp_path / "check.json").read_text(encoding="utf-8")
    assert json.loads(written)["kernels"][0]["reason"] == EVIL
    assert is_harmless(written)


def test_an_error_in_colour_is_found_and_said_without() -> None:
    log = "\x1b[01m\x1b[Kpage.cu:3:1:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[K\x1b]0;x\x07 no\u202e\n"
    found = diagnose(log, 1)
    assert (found.kind, found.file, found.line) == ("compile", "page.cu", 3)
    assert found.first_error == r"page.cu:3:1: error: \x1b]0;x\x07 no\u202e"
