"""Asking the serving interpreter: it is killed, hangs, writes half an answer, and every caller says so in its words."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pytest

from fitasks.base import temporary
from fitasks.base.doing import doing
from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda import cudart, loader
from fitasks.cuda.toolkit import Toolkit
from fitasks.doctor import trial
from fitasks.plan import offers, planner
from fitasks.plan.server import Server
from fitasks.processes import interpreter, process

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import json, os, pathlib, sys, time
answer = next(pathlib.Path(word) for word in sys.argv if word.endswith("response.json"))
"""
SAYING = {
    "is killed": 'print("half a word", file=sys.stderr, flush=True); os.kill(os.getpid(), 9)',
    "is killed while it writes": 'answer.write_text(\'{"kernels": [{"id"\'); os.kill(os.getpid(), 11)',
    "fails": 'sys.stderr.write("one\\ntw\\033[31mo\\033[0m\\u202e\\n"); raise SystemExit(3)',
    "writes half an answer": 'answer.write_text(\'{"kernels": [{"id"\')',
    "writes nothing": "",
    "writes something else": 'answer.write_text("[1]")',
    "can't go on": 'answer.write_text(json.dumps({"fatal": {"message": "no torch", "remedy": "pip"}})); sys.exit(3)',
    "sleeps": "time.sleep(60)",
    "is no program": None,
}
WHY = {
    "is killed": "it ended without an answer (killed by signal 9): half a word",
    "is killed while it writes": "it ended without an answer (killed by signal 11)",
    "fails": "it ended without an answer (exit status 3): two\\u202e",
    "writes half an answer": "its answer is no JSON: Expecting ':' delimiter (line 1, column 19)",
    "writes nothing": "it ended without an answer (exit status 0)",
    "writes something else": "it answered what no script of ours does: the answer is [1]",
    "can't go on": "no torch",
    "sleeps": "it doesn't answer within 1 s",
    "is no program": "{python} cannot be run in {cwd}: [Errno 2] No such file or directory: '{python}'",
}


def planning(server: Server, tmp_path: Path) -> str:
    return _told(lambda: planner.ask(server, tmp_path, ["9.0a"], (), sm90=True))


def offering(server: Server, tmp_path: Path) -> str:
    return _told(lambda: offers.offers(server, tmp_path, "9.0a", tmp_path / "state"))


def discovering(server: Server, tmp_path: Path) -> str:
    return _told(lambda: cudart.discover(server.python, server.env, (), tmp_path / "x.so", tmp_path / "x.json"))


def loading(server: Server, tmp_path: Path) -> str:
    asked = loader.Loader(server.python, server.env, tmp_path / "loader.json")
    return asked.answer(loader.Needs(("libc.so.6",)), lambda: ()).problem


def trying(server: Server, tmp_path: Path) -> str:
    toolkit = Toolkit(tmp_path, "none", tmp_path, "13.0", "V13.0.88", tmp_path / "libcudart.so")
    (found,) = trial.examine(server, toolkit, "9.0a")
    assert (found.state, found.remedy) == ("problem", "doit env")
    return found.value


def _told(call: Callable[[], object]) -> str:
    with pytest.raises(EnvironmentProblem) as caught:
        call()
    return caught.value.message


CALLERS: dict[Callable[[Server, Path], str], str] = {  # what comes before the reason
    planning: "{python} can't say how it builds kernels for 9.0a: ",
    offering: "{python} can't say which ops its FlashInfer has: ",
    discovering: "{python} can't say which libcudart it loads: ",
    loading: "",
    trying: "",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For temporary files; nothing may stay there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(interpreter, "TIMEOUT", 1.0)
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def interpreting(tmp_path: Path, script: str | None) -> Server:
    """A server whose interpreter runs this in place of any script."""
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!{sys.executable}\n{PREAMBLE}{script}\n")
        python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "FLASHINFER_WORKSPACE_BASE": str(tmp_path / "base")}
    return Server(python, "none", tmp_path, (), env, ())


@pytest.mark.parametrize("case", SAYING)
@pytest.mark.parametrize("caller", CALLERS)
def test_each_caller_says_why_there_is_no_answer(
    tmp_path: Path, place: Path, caller: Callable[[Server, Path], str], case: str
) -> None:
    server = interpreting(tmp_path, SAYING[case])
    names = {"python": server.python, "cwd": Path.cwd()}
    told = (CALLERS[caller] + WHY[case]).format(**names)
    shown = caller(server, tmp_path)
    if CALLERS[caller] and case == "is killed":  # an error of its own has room for more than one line
        told = told.replace(": half", ":\n  half")
    if CALLERS[caller] and case == "fails":
        told = told.replace(": two", ":\n  one\n  two")
    assert shown == told
    assert list(place.iterdir()) == []
    assert list(tmp_path.glob("**/*fitasks-*")) == []


class Answer(TypedDict):
    user: int


SEEN = """
asked = answer.with_name("request.json")
answer.write_text(json.dumps({
    "pid": os.getpid(), "session": os.getsid(0), "user": os.getuid(), "words": sys.argv, "stdin": sys.stdin.read(),
    "asked": json.loads(asked.read_text()) if asked.exists() else None,
    "place": os.environ["TMPDIR"], "set": os.environ.get("A"),
}))
"""


def test_what_the_script_is_given(tmp_path: Path, place: Path) -> None:
    python, script, env = interpreting(tmp_path, SEEN).python, Path("/x.py"), {"A": "1", "TMPDIR": "/gone"}
    said = interpreter.ask(python, script, Answer, env, "it", request={"a": "\udc80"}, words=[Path("/lib"), "b"])
    made = Path(said["place"])
    assert made.parent == place
    assert made.name.endswith("-locked")
    assert said["words"] == [*map(str, [python, script, made / "request.json", made / "response.json"]), "/lib", "b"]
    assert (said["asked"], said["stdin"], said["set"]) == ({"a": "\udc80"}, "", "1")
    assert said["session"] == said["pid"]
    said = interpreter.ask(python, script, Answer, env, "it")
    assert said["words"][1:] == ["/x.py", f"{said['place']}/response.json"]
    assert said["asked"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_another_user_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", made)
        python = Path(made, "python")
        python.write_text("#!/bin/sh\necho '{\"user\": '$(id -u)'}' > \"$2\"\n")
        python.chmod(0o755)
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        assert interpreter.ask(python, Path("/x.py"), Answer, {}, "it", identity=nobody) == {"user": 65534}
        assert list(Path(made).iterdir()) == [python]


ASKING = """
import os, sys
from pathlib import Path
from fitasks.base import answers
from fitasks.processes import interpreter, signals
signals.install()
interpreter.ask(Path(sys.argv[1]), Path("/x.py"), answers.Trial, os.environ, "it")
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stop_ends_what_is_asked(tmp_path: Path, place: Path, number: signal.Signals, status: int) -> None:
    server = interpreting(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
    command = [sys.executable, "-c", ASKING, str(server.python)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as asking:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        asking.send_signal(number)
        _, said = asking.communicate(timeout=10)
    assert asking.returncode == status
    assert "Traceback" not in said
    until(lambda: ended(int((tmp_path / "pid").read_text())))
    temporary.sweep(place)
    assert list(place.iterdir()) == []


STOPPING = """
import os, sys, threading
from pathlib import Path
from fitasks.base import answers
from fitasks.processes import interpreter, sessions
threading.Timer(0.5, sessions.stop_all).start()
for _ in range(2):
    try:
        interpreter.ask(Path(sys.argv[1]), Path("/x.py"), answers.Trial, os.environ, "it")
    except interpreter.NoAnswer as error:
        print(error.why, error.remedy, sep=", ")
"""


def test_a_stop_is_the_reason_also_of_what_has_not_begun(tmp_path: Path, place: Path) -> None:
    command = [sys.executable, "-c", STOPPING, str(interpreting(tmp_path, "time.sleep(60)").python)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert said == "it was stopped, run doit again\n" * 2


def until(true: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(("heartbeat", "counts"), [("0.1", range(1, 9)), ("0", [0]), ("nonsense", [0]), ("", [0])])
def test_it_is_not_silent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    heartbeat: str,
    counts: Collection[int],
) -> None:
    monkeypatch.setenv("FITASKS_HEARTBEAT", heartbeat)
    monkeypatch.setattr("fitasks.processes.interpreter.doing", functools.partial(doing, after=0.1))
    python = interpreting(tmp_path, "time.sleep(0.4)" + SEEN).python
    interpreter.ask(python, Path("/x.py"), Answer, {}, "which libcudart it loads")
    first, *further = capsys.readouterr().err.splitlines()
    assert first == f"fitasks: asking {python} which libcudart it loads …"
    assert len(further) in counts
    assert all(one.startswith(f"fitasks: still asking {python} which libcudart it loads (") for one in further)


def test_of_a_long_log_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 200_000 + b"\nlast but one\r\n\x1b[1mlast\xff\x1b[0m\n\n")
    assert process.last_lines(log, 2) == ["last but one", "last\ufffd"]
    assert len(process.last_lines(log, 9)[0]) < 1 << 16
    assert process.last_lines(tmp_path / "none", 2) == []
