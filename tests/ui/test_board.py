"""What a user sees while kernels compile: on a terminal, in a log, through a pipe that closes, for a machine."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

import pytest
from filelock import FileLock
from rich.console import Console

from fitasks.compile.pool.usage import Usage, usage
from fitasks.ui.board import Board, LiveBoard, PlainBoard, bar_parts
from fitasks.ui.progress import Progress
from fitasks.ui.reporter import Reporter
from fitasks.ui.units import duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.doit_project import Planned, Project


@pytest.fixture
def project(planned: Planned) -> Project:
    return planned.project()


def running() -> Progress:
    """Of three kernels one is done, one runs since 70 s with 4 of 10 files, one waits."""
    progress = Progress(lambda label: {"fa3": 4}.get(label, 0), lambda: Usage(2, 4_100_000_000))
    kernels = [("page", 2, 20.0), ("fa3", 10, 800.0), ("rope", 4, 120.0)]
    now = time.time()
    works = [{"label": label, "files": files, "cpu_seconds": cpu, "learnt": True} for label, files, cpu in kernels]
    progress.observe({"event": "run", "t": now - 130, "slots": 2, "kernels": works})
    progress.observe({"event": "begin", "t": now - 130, "label": "page", "files": 2})
    progress.observe({"event": "end", "t": now - 110, "label": "page", "outcome": "compiled"})
    progress.observe({"event": "begin", "t": now - 70, "label": "fa3", "files": 10})
    progress.observe({"event": "file", "label": "fa3", "begin": 1, "end": 2, "output": "x.o"})
    return progress


def test_where_a_run_stands() -> None:
    expected = "1 of 3 kernels, 6 of 16 files, 2 of 2 compilers, 4.1 GB, 2 m 10 s, about 5 m 0 s left"
    assert running().summary() == expected
    assert running().heartbeat() == f"still compiling: fa3 4/10 (1 m 10 s); {expected}"


def test_an_end_that_one_kernel_alone_decides_is_foretold() -> None:
    """130 s of the 700 s are over, although the slots, evenly busy, would need only 300 s more."""
    progress = running()
    progress.foretold = 700.0
    assert progress.summary().endswith("about 9 m 30 s left")


@pytest.mark.parametrize(
    ("outcome", "summary"),
    [
        ("compiled", "2 of 3 kernels, 12 of 16 files, 2 of 2 compilers"),
        ("failed", "1 of 3 kernels, 1 failed, 6 of 16 files, 2 of 2 compilers"),
        ("stopped", "1 of 3 kernels, 6 of 16 files, 2 of 2 compilers"),
    ],
)
def test_only_what_is_right_is_done(outcome: str, summary: str) -> None:
    progress = running()
    progress.observe({"event": "end", "t": time.time(), "label": "fa3", "outcome": outcome})
    assert progress.summary().startswith(summary)


def test_where_a_stopped_run_stands() -> None:
    progress = running()
    assert progress.status() == "1 of 3 kernels done, 1 stopped"
    progress.observe({"event": "end", "t": time.time(), "label": "rope", "outcome": "stopped"})  # while it waited
    assert progress.status() == "1 of 3 kernels done, 1 stopped"
    progress.untouched = 2
    progress.observe({"event": "end", "t": time.time(), "label": "fa3", "outcome": "failed"})
    progress.observe({"event": "end", "t": time.time(), "label": "healed", "outcome": "healed"})
    assert progress.status() == "4 of 6 kernels done, 1 failed"


def test_no_guess_where_a_kernel_was_never_built() -> None:
    progress = running()
    progress.works["rope"].learnt = False
    assert progress.summary().endswith("2 m 10 s")


def test_nothing_runs_nothing_is_said() -> None:
    assert Progress(lambda _: 0, Usage).heartbeat() == ""


def test_a_heartbeat_comes_after_silence_and_not_before() -> None:
    stream = io.StringIO()
    board = PlainBoard(stream, running(), every=0.4)
    board.start()
    for _ in range(4):  # lines of the run are no silence
        board.line("something")
        time.sleep(0.15)
    time.sleep(0.5)
    board.stop()
    lines = stream.getvalue().splitlines()
    assert lines[:4] == ["something"] * 4
    assert [line[:16] for line in lines[4:]] == ["still compiling:"] * len(lines[4:])
    assert 1 <= len(lines) - 4 <= 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 m 0 s"), (130, "2 m 10 s"), (3600, "1 h 0 m"), (-3, "0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_usage_counts_what_a_session_leader_runs() -> None:
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 30 & sh -c 'sleep 30; true' & wait"], start_new_session=True, stdin=subprocess.DEVNULL
    )
    try:
        time.sleep(0.3)
        assert usage({leader.pid}).compilers == 2
        assert usage({leader.pid}).memory > 1 << 20
        assert usage(set()) == Usage(0, 0)
    finally:
        os.killpg(leader.pid, 9)
        leader.wait()


def test_a_log_is_never_silent(project: Project) -> None:
    hold = project.hold()
    process = project.start(FITASKS_HEARTBEAT="0.3")
    project.wait_for_call()
    time.sleep(1.2)
    hold.unlink()
    out, _ = process.communicate(timeout=60)
    beats = [line for line in out.splitlines() if line.startswith("still compiling: ")]
    assert len(beats) >= 2
    assert re.fullmatch(
        r"still compiling: \S+ 0/\d \(\d s\)(, \S+ 0/\d \(\d s\))*; 0 of 3 kernels, 0 of \d files, \d of 2 compilers, "
        r"[\d.]+ [kM]B, \d s",
        beats[0],
    )
    assert out.endswith("3 kernels: 3 compiled\n")


def test_a_machine_is_told_on_standard_error_that_it_goes_on(project: Project) -> None:
    hold = project.hold()
    process = project.start("--reporter", "json", FITASKS_HEARTBEAT="0.3")
    project.wait_for_call()
    time.sleep(1.2)
    hold.unlink()
    out, err = process.communicate(timeout=60)
    assert "kernel:page: compiling 2 files" in json.loads(out)["out"]
    assert len([line for line in err.splitlines() if line.startswith("still compiling: ")]) >= 2


def test_a_machine_is_told_at_once_what_is_waited_for(project: Project) -> None:
    with held_lock(project, "page"):
        process = project.start("--reporter", "json", "kernel:page")
        assert process.stderr
        assert select.select([process.stderr], [], [], 20)[0]
        said = process.stderr.readline()
        assert said.startswith(f"waiting for page.lock, held by pid {os.getpid()}")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said in json.loads(out)["out"]


@pytest.mark.parametrize("reporter", ["console", "executed-only", "error-only", "zero"])
def test_no_reporter_is_silent_or_plans_what_was_not_asked_for(project: Project, reporter: str) -> None:
    hold = project.hold()
    process = project.start("-r", reporter, "kernel:page", FITASKS_HEARTBEAT="0.3")
    project.wait_for_call()
    time.sleep(1.2)
    hold.unlink()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    beats = [line for line in err.splitlines() if line.startswith("still compiling: page")]
    assert len(beats) >= 2
    assert "; 0 of 1 kernel, 0 of 2 files, " in beats[0]
    assert "compiling" not in out
    assert out == "" or reporter not in {"error-only", "zero"}
    assert "cascade" not in (project.root / ".fitasks" / "journal.jsonl").read_text()


@pytest.mark.parametrize("reporter", [[], ["-r", "zero"]])
def test_what_is_ignored_is_not_counted(project: Project, reporter: list[str]) -> None:
    project.doit("ignore", "kernel:page")
    project.doit(*reporter)
    journal = (project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()
    planned = {kernel["label"] for kernel in json.loads(journal[0])["kernels"]}
    assert planned == {"cascade", "quantization"}


@contextlib.contextmanager
def held_lock(project: Project, name: str) -> Iterator[None]:
    """As a server that builds this module holds it."""
    project.doit("list")
    (workspace,) = (project.root.parent / "base" / ".cache" / "flashinfer").glob("*/*")
    lock = workspace / "cached_ops" / "tmp" / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


@pytest.mark.parametrize(
    ("text", "beats", "said"),
    [
        ("0", 0, ""),
        ("inf", 0, ""),
        ("1e300", 0, ""),
        ("0.1", 3, ""),
        (
            "often",
            0,
            "fitasks: FITASKS_HEARTBEAT='often' is no number of seconds (0 for none); a line every 30 s, as ever",
        ),
        ("nan", 0, "fitasks: FITASKS_HEARTBEAT='nan' is no number of seconds (0 for none); a line every 30 s, as ever"),
        ("-1", 0, "fitasks: FITASKS_HEARTBEAT='-1' is no number of seconds (0 for none); a line every 30 s, as ever"),
    ],
)
def test_how_often_is_for_the_user_to_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, beats: int, said: str
) -> None:
    monkeypatch.setenv("FITASKS_HEARTBEAT", text)
    stream = io.StringIO()
    board = PlainBoard(stream, running())
    board.start()
    time.sleep(0.5)
    board.stop()
    assert beats <= len(stream.getvalue().splitlines()) <= 2 * beats
    assert capsys.readouterr().err.strip() == said


def test_kernels_that_begin_at_once_share_one_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boards draw over each other, and the one that nobody stops hides the summary."""

    def slow(stream: IO[str], progress: Progress) -> Board:
        time.sleep(0.1)
        return PlainBoard(stream, progress)

    monkeypatch.setattr("fitasks.ui.reporter.board_for", slow)
    reporter = Reporter(io.StringIO(), {})
    with ThreadPoolExecutor(4) as threads:
        boards = list(threads.map(lambda _: reporter.board, range(4)))
    assert len(set(map(id, boards))) == 1


def on_terminal(project: Project, columns: int, *, stopped: Path | None = None, **env: str) -> str:
    """Everything a terminal of that width receives of a `doit` whose compilers take a while.

    With `stopped`, which holds them, it gets a Ctrl-C once its board has been drawn.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = project.env | {"TERM": "xterm-256color", "STAND_IN_SECONDS": "0.7"} | env
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "doit"],
        cwd=project.root,
        env=environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    received = b""
    asked = False
    while True:  # with our end of the terminal open, so that its last words aren't lost when the process has gone
        ended = process.poll() is not None
        if select.select([leader], [], [], 0.2)[0]:
            received += os.read(leader, 65536)
        elif ended:
            break
        drawn = "─" in received.decode(errors="replace")
        if stopped and not asked and drawn and stopped.with_name("calls").exists():  # a compiler runs
            asked = True
            process.send_signal(signal.SIGINT)
            stopped.unlink()
    os.close(leader)
    os.close(follower)
    assert process.returncode == (130 if stopped else 0), received.decode()
    return received.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def test_a_terminal_shows_a_board_that_goes_away(project: Project) -> None:
    received = on_terminal(project, 100)
    text = plain(received)
    assert "━" in text
    assert re.search(r"page +\S* +[01]/2 +\d s", text)
    assert re.search(r"0 of 3 kernels, \d of \d files, [12] of 2 compilers", text)
    assert "kernel:page: compiling 2 files; new: never built" in text
    assert received.rstrip().endswith("3 kernels: 3 compiled")
    assert received.count("\x1b[?25l") == received.count("\x1b[?25h")  # the cursor is back


def test_after_ctrl_c_the_board_goes_first(project: Project) -> None:
    """And isn't drawn again, below what is said then or over it."""
    received = on_terminal(project, 100, stopped=project.hold())
    board, words = received.split("fitasks: stopping; finished kernels stay")
    assert "─" in board
    assert board.endswith("\x1b[2K"), "the last that is done to its lines is to erase them"
    assert "─" not in words
    assert " compilers" not in words


@pytest.mark.parametrize("shared", [True, False])
def test_a_terminal_that_goes_away_fails_no_kernel(project: Project, shared: bool) -> None:
    """A lost ssh connection under nohup; standard error is on the same terminal, or a log."""
    hold = project.hold()
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; exec {sys.executable} -m doit -n 1"],
        cwd=project.root,
        env=project.env | {"TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower if shared else subprocess.PIPE,
        text=True,
    )
    os.close(follower)
    project.wait_for_call()
    time.sleep(0.5)  # the board has been drawn
    os.close(leader)
    time.sleep(0.5)  # and is drawn again
    hold.unlink()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert shared or error.splitlines()[-1:] == [
        "fitasks: what is said can't be written (Input/output error); the build goes on in silence"
    ]
    assert "Traceback" not in (error or "")
    assert project.doit() == "3 kernels: 3 fresh\n"


def test_the_board_is_not_drawn_while_a_line_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be drawn over the line, and leave a row of its own behind."""
    board, drawn = LiveBoard(io.StringIO(), running()), []

    def refresh() -> bool:
        got = board._live._lock.acquire(blocking=False)
        if got:
            board._live._lock.release()
        return got

    def write(*_: object, **__: object) -> None:
        with ThreadPoolExecutor(1) as other:
            drawn.append(other.submit(refresh).result())

    monkeypatch.setattr(board._console, "print", write)
    board.line("kernel:page: compiled")
    assert drawn == [False]


def test_a_closed_stream_raises_nothing() -> None:
    stream = io.StringIO()
    board = PlainBoard(stream, running())
    stream.close()
    board.line("into the void")


def test_no_colour_where_none_is_wanted(project: Project) -> None:
    received = on_terminal(project, 100, NO_COLOR="1")
    assert not re.findall(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", received)
    assert "of 3 kernels" in plain(received)


@pytest.mark.parametrize(
    ("done", "shown", "ascii_only"),
    [(0, "──────", "......"), (1, "━━────", "##...."), (3, "━━━━━━", "######")],
)
def test_what_is_done_is_seen_without_colours(done: int, shown: str, ascii_only: str) -> None:
    for only, expected in ((False, shown), (True, ascii_only)):
        assert "".join(text for text, _ in bar_parts(done, 3, 6, only)) == expected


def test_a_narrow_terminal(project: Project) -> None:
    """Names rather than bars, and a summary over as many lines as it takes."""
    received = plain(on_terminal(project, 30))
    board = [line for line in received.splitlines() if re.search(r"\d/\d +\d s", line)]
    assert board
    assert max(map(len, board)) <= 30
    assert re.search(r"(?m)^page +\d/2 +\d s", received)
    assert not re.search(r"(?m)^\S*…", received)
    assert not set("━─") & set(received)
    assert re.search(r"0 of 3 kernels, \d of \d files,? *\n+[12] of 2", received)


def test_an_ascii_terminal(project: Project) -> None:
    text = plain(on_terminal(project, 80, PYTHONIOENCODING="ascii"))
    assert text.isascii()
    assert "3 kernels: 3 compiled" in text


def test_an_ascii_log_gets_question_marks_and_no_traceback(project: Project) -> None:
    project.doit()
    (project.tools / "header.h").write_text("// another\n")
    assert " ? " in project.doit("why", PYTHONIOENCODING="ascii")


@pytest.mark.parametrize("task", ["", "check", "why", "list"])
def test_a_reader_that_goes_away_is_no_error(project: Project, task: str) -> None:
    """`doit | head -0`: the kernels are built all the same."""
    process = project.start(*task.split())
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    assert "BrokenPipe" not in error
    if not task:
        assert project.library("page").exists()


def test_a_full_disk_behind_standard_output_is_no_reason_to_stop(project: Project) -> None:
    command = ["sh", "-c", f"exec {sys.executable} -m doit > /dev/full"]
    done = subprocess.run(command, cwd=project.root, env=project.env, stderr=subprocess.PIPE, text=True, check=True)
    said = "fitasks: what is said can't be written (No space left on device); the build goes on in silence\n"
    assert done.stderr.endswith(said)
    assert "Traceback" not in done.stderr
    assert project.doit() == "3 kernels: 3 fresh\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("words", ["", "--reporter json", "check"])
def test_a_closed_stream_is_no_reason_to_stop(project: Project, words: str, closed: str) -> None:
    with_closed(project, words, closed)


@pytest.mark.parametrize(("words", "closed"), [("-r zero", ">&-"), ("list", "2>&-"), ("list", ">&- 2>&-")])
def test_nor_is_one_for_other_commands(project: Project, words: str, closed: str) -> None:
    with_closed(project, words, closed)


def with_closed(project: Project, words: str, closed: str) -> None:
    project.doit()
    (project.tools / "header.h").write_text("// another\n")
    command = ["sh", "-c", f"exec {sys.executable} -m doit {words} {closed}"]
    done = subprocess.run(command, cwd=project.root, env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == (words == "check"), done.stderr
    assert "Traceback" not in done.stderr
    if words not in {"check", "list"}:
        assert project.doit() == "3 kernels: 3 fresh\n"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("> /dev/full", "fitasks: what is said can't be written (No space left on device); the object isn't whole\n"),
        ("| head -c 300 > part", ""),
    ],
)
def test_an_object_that_cannot_be_written_ends_without_a_traceback(project: Project, where: str, said: str) -> None:
    project.doit("list")
    script = f"set -o pipefail; {sys.executable} -m doit --reporter json {where}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=project.root, env=project.env, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "".join(line for line in done.stderr.splitlines(True) if not line.startswith("kernel:")) == said
    assert project.doit() == "3 kernels: 3 fresh\n"


@pytest.mark.parametrize(("width", "height", "shown"), [(80, 3, 1), (80, 10, 7), (30, 10, 5), (80, 50, 12)])
def test_the_summary_is_on_a_low_terminal_too(width: int, height: int, shown: int) -> None:
    progress = running()
    for number in range(20):
        progress.observe({"event": "begin", "t": time.time(), "label": f"kernel-{number}", "files": 2})
    board = LiveBoard(io.StringIO(), progress)
    board._console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    lines = ["".join(segment.text for segment in line) for line in board._console.render_lines(board._render())]
    assert sum(bool(re.search(r" (0/2|4/10) ", line)) for line in lines) == shown
    assert f"and {21 - shown} more" in lines[shown]
    assert lines[shown + 1].startswith("1 of 23 kernels, 6 of 56 ")
    assert len(lines) <= max(height, 4)


def test_the_json_reporter_stays_machine_readable(project: Project) -> None:
    data = json.loads(project.doit("--reporter", "json"))
    results = {task["name"]: task["result"] for task in data["tasks"] if task["name"].startswith("kernel:")}
    assert results == {f"kernel:{name}": "success" for name in ("cascade", "page", "quantization")}
