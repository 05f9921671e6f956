"""What is told of a wait: on a pipe, on a terminal, within another one, by another thread."""

from __future__ import annotations

import io
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fitasks.base import doing as module
from fitasks.base import streams
from fitasks.base.doing import doing
from fitasks.base.streams import shown, tell

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = 0.02  # seconds, for a second


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REDRAWN", SOON)
    monkeypatch.setenv("FITASKS_HEARTBEAT", "0")


def until(told: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not told() and time.monotonic() < deadline:
        time.sleep(0.005)


class Terminal(io.StringIO):
    """A terminal's stream: what is on its lines in the end, and whatever was."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError

    @property
    def lines(self) -> list[str]:
        return [line.rpartition("\x1b[K")[2].rpartition("\r")[2] for line in self.getvalue().split("\n")]


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From within a test: pytest's own streams are put back before each."""
    stream = Terminal()
    monkeypatch.setattr(sys, "__stderr__", stream)
    monkeypatch.setattr(sys, "stderr", shown(stream))
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_what_is_quick_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with doing("planning 7 kernels"):
        pass
    assert capsys.readouterr().err == ""


def test_what_takes_longer_is_told_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    with doing("planning 7 kernels", after=SOON):
        time.sleep(5 * SOON)
        assert capsys.readouterr().err == "fitasks: planning 7 kernels …\n"
    assert capsys.readouterr().err == ""


def test_what_is_known_to_take_long_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with doing("planning 7 kernels", after=0):
        assert capsys.readouterr().err == "fitasks: planning 7 kernels …\n"


def test_of_waits_within_each_other_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with doing("checking", after=SOON), doing("planning", after=0), doing("asking", after=0):
        time.sleep(5 * SOON)
    assert capsys.readouterr().err == "fitasks: planning …\n"


def test_after_a_wait_within_it_the_outer_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with doing("checking", after=SOON):
        with doing("planning", after=0):
            time.sleep(2 * SOON)
        time.sleep(4 * SOON)
    assert capsys.readouterr().err == "fitasks: planning …\nfitasks: checking …\n"


def test_a_heartbeat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FITASKS_HEARTBEAT", "0.1")
    with doing("checking", after=0), doing("asking", after=0):
        time.sleep(0.25)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "fitasks: checking …"
    assert said[1:], "once more, at least"
    assert all(one.startswith("fitasks: still checking (") for one in said[1:])


def test_in_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """doit runs a task's action in a thread of its own."""

    def work() -> None:
        with doing("asking", after=0):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == "fitasks: asking …\n"


def test_what_was_told_otherwise_is_heard_by_its_heartbeat_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FITASKS_HEARTBEAT", "0.1")
    with doing("compiling", after=0, quiet=True):
        time.sleep(0.15)
    assert capsys.readouterr().err.startswith("fitasks: still compiling (0 s)\n")


def test_on_a_terminal_a_line_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with doing("planning 7 kernels", after=0):
        until(lambda: "planning 7 kernels, 0 s" in terminal.getvalue())
        tell("a word between")
        until(lambda: terminal.lines[-1] != "")
    assert terminal.lines == ["fitasks: a word between", "fitasks: planning 7 kernels: 0 s", ""]


def test_on_a_narrow_terminal_the_seconds_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(streams, "_COLUMNS", 30)
    with doing("planning 7 kernels with FlashInfer 0.7.4", after=0):
        until(lambda: terminal.lines[-1] != "")
        assert terminal.lines == ["fitasks: planning 7 kern, 0 s"]


def test_a_line_of_the_output_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(module, "_REDRAWN", 60.0)
    with doing("planning", after=0):
        until(lambda: terminal.lines[-1] != "")
        streams.show("page")
        assert terminal.lines == [""]


def test_on_a_terminal_nothing_is_left_of_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)

    def plan() -> None:
        with doing("planning", after=0):
            until(lambda: "planning, 0 s" in terminal.getvalue())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan()
    time.sleep(2 * SOON)
    assert terminal.lines == [""]


def test_a_terminal_that_is_someone_elses_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board's: rich has put a stream of its own in its place."""
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(sys, "stderr", other := io.StringIO())
    with doing("planning", after=0):
        pass
    assert (terminal.getvalue(), other.getvalue()) == ("", "fitasks: planning …\n")
