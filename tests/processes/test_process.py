"""Runs, time limits and stops, with real processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.processes import process, sessions, watchdog

ROOT = Path(process.__file__).parents[2]


def run(script: str, tmp_path: Path, **options: Any) -> process.Finished:
    return process.run(["sh", "-c", script], cwd=tmp_path, env=os.environ, log=tmp_path / "log", **options)


def is_gone(pid: str) -> bool:
    """Ended, or a zombie that the machine's init hasn't reaped."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or " Z " in stat.read_text()


def test_status_output_and_costs(tmp_path: Path) -> None:
    burn = "import time\nblob = bytearray(80 << 20)\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    done = run(f"echo out; echo err >&2; {sys.executable} -c '{burn}'; exit 3", tmp_path)
    assert done.status == 3
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert done.cpu_seconds > 0.2
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # see Finished
    assert 80 << 20 < done.peak_rss < max(300 << 20, inherited + 1), "the largest descendant's, not the shell's"
    assert not done.timed_out
    assert not done.stopped


def test_a_time_limit_ends_the_whole_session(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run("sleep 60 & echo $! > child; sleep 60", tmp_path, timeout=0.3)
    assert done.timed_out
    assert done.status < 0
    assert time.monotonic() - begin < 3
    assert is_gone((tmp_path / "child").read_text().strip())


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run("trap '' TERM; while :; do sleep 0.1; done", tmp_path, timeout=0.2)
    assert done.status == -9
    assert time.monotonic() - begin < 5


def test_orphans_of_a_killed_leader_go_with_it(tmp_path: Path) -> None:
    """As nvcc after `kill -9 ninja`, in another process group like ninja's."""
    script = "import os, subprocess, time\np = subprocess.Popen(['sleep', '60'], process_group=0)\n"
    script += "open('child', 'w').write(str(p.pid))\nos.kill(os.getpid(), 9)"
    (tmp_path / "leader.py").write_text(script)
    done = process.run([sys.executable, "leader.py"], cwd=tmp_path, env=os.environ, log=tmp_path / "log")
    assert done.status == -9
    assert is_gone((tmp_path / "child").read_text())


def test_stop_all_ends_every_run_and_refuses_new_ones(tmp_path: Path) -> None:
    """In a process of its own, because a stop is for good."""
    script = textwrap.dedent("""
        import os, sys, threading, time
        from pathlib import Path
        from fitasks.processes import process, sessions
        results = []
        def one(number):
            done = process.run(["sleep", "60"], cwd=Path.cwd(), env=os.environ, log=Path(f"log{number}"))
            results.append((done.status, done.stopped))
        threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads]
        time.sleep(0.3)
        sessions.stop_all()
        [thread.join(5) for thread in threads]
        one(9)
        print(results)
    """)
    root = Path(process.__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{[(-15, True)] * 5}\n"


def test_members_of_a_session_are_seen_across_process_groups() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as leader:
        deadline = time.monotonic() + 5
        while len(watchdog.members(leader.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(watchdog.members(leader.pid)) == 2
        assert watchdog.signal_session(leader.pid, signal.SIGKILL)
    while watchdog.members(leader.pid):
        assert time.monotonic() < deadline


def python(script: str, cwd: Path) -> subprocess.Popen[str]:
    """A doit of its own, because a stop is for good and a kill too."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(condition: object, seconds: float = 5.0) -> bool:
    """Whether it comes true in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def pids(directory: Path, count: int) -> list[int]:
    """Of the compilers, once all of them run."""
    assert soon(lambda: len(list(directory.glob("pid*"))) == count, 10)
    time.sleep(0.05)
    return [int(path.read_text()) for path in directory.glob("pid*")]


# Like ninja, puts its compiler into a process group of its own; the compiler ignores nothing.
FAKE_NINJA = """\
import os, subprocess, sys
compiler = subprocess.Popen(["sh", "-c", "sleep 60; :"], process_group=0)
for pid in (os.getpid(), compiler.pid):
    open(f"pid{pid}", "w").write(str(pid))
compiler.wait()
"""
THREADS = """
import os, sys, threading, time
from pathlib import Path
from fitasks.processes import process, sessions
def one(number):
    process.run([sys.executable, "ninja.py"], cwd=Path.cwd(), env=os.environ, log=Path(f"log{number}"))
threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
[thread.start() for thread in threads]
"""


def test_a_killed_doit_leaves_no_compiler_running(tmp_path: Path) -> None:
    (tmp_path / "ninja.py").write_text(FAKE_NINJA)
    with python(THREADS, tmp_path) as doit:
        tree = pids(tmp_path, 4)
        doit.kill()
        assert soon(lambda: not any(map(alive, tree)), 3)


def test_a_doit_killed_before_the_watchdog_was_told(tmp_path: Path) -> None:
    """The moment between ninja's start and the message, made to last for ever."""
    (tmp_path / "ninja.py").write_text(FAKE_NINJA)
    silent = "sessions.OWN._tell = lambda line: None\nthreads ="
    with python(THREADS.replace("threads =", silent, 1), tmp_path) as doit:
        tree = pids(tmp_path, 4)
        doit.kill()
        assert soon(lambda: not any(map(alive, tree)), 3)


def test_a_watchdog_that_was_killed_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "ninja.py").write_text(FAKE_NINJA)
    kill_it = "\nsessions.OWN._watchdog.kill(); sessions.OWN._watchdog.wait()\none(7)\n"
    with python(THREADS.replace("range(2)", "range(1)") + "time.sleep(0.5)" + kill_it, tmp_path) as doit:
        tree = pids(tmp_path, 4)
        doit.kill()
        assert soon(lambda: not any(map(alive, tree)), 3), "the run begun before is known to the new one as well"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_thread_that_waits_ends_its_run_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """doit -n 0 runs in the main thread, where the handler interrupts `run` itself."""
    (tmp_path / "ninja.py").write_text(FAKE_NINJA)
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from fitasks.processes import process, sessions
        def stop(number, frame):
            sessions.stop_all()
            raise SystemExit(128 + number)
        signal.signal({int(number)}, stop)
        process.run([sys.executable, "ninja.py"], cwd=Path.cwd(), env=os.environ, log=Path("log"))
    """
    with python(script, tmp_path) as doit:
        tree = pids(tmp_path, 2)
        begin = time.monotonic()
        doit.send_signal(number)
        assert doit.wait(5) == 128 + number
        assert time.monotonic() - begin < 1.5
        assert not any(map(alive, tree))


def test_stop_all_kills_what_ignores_sigterm_within_five_seconds(tmp_path: Path) -> None:
    script = """
        import os, threading, time
        from pathlib import Path
        from fitasks.processes import process, sessions
        results = []
        def one():
            stubborn = ["sh", "-c", "trap '' TERM; touch ready; while :; do sleep 0.05; done"]
            results.append(process.run(stubborn, cwd=Path.cwd(), env=os.environ, log=Path("log")))
        thread = threading.Thread(target=one)
        thread.start()
        while not Path("ready").exists(): time.sleep(0.01)
        begin = time.monotonic()
        sessions.stop_all(grace=0.5)
        took = time.monotonic() - begin
        thread.join()
        print(0.5 <= took < 2, results[0].status, results[0].stopped, results[0].timed_out)
    """
    with python(script, tmp_path) as doit:
        assert doit.communicate()[0] == "True -9 True False\n"


def test_an_exception_while_waiting_ends_the_run(tmp_path: Path) -> None:
    seen = []

    def on_start(pid: int) -> None:
        seen.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run(["sleep", "60"], cwd=tmp_path, env=os.environ, log=tmp_path / "log", on_start=on_start)
    assert not alive(seen[0])
    assert not sessions.OWN.live


def test_what_is_done_within_the_grace_counts_as_done(tmp_path: Path) -> None:
    done = run("trap 'exit 0' TERM; while :; do sleep 0.05; done", tmp_path, timeout=0.2)
    assert (done.status, done.timed_out) == (0, False)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        process.run(["/gone/ninja"], cwd=tmp_path, env={}, log=tmp_path / "log")
    assert (
        str(caught.value)
        == f"/gone/ninja cannot be run in {tmp_path}: [Errno 2] No such file or directory: '/gone/ninja'"
    )


def test_many_threads_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> int:
        command = ["sh", "-c", f"exit {number}"]
        return process.run(command, cwd=tmp_path, env=os.environ, log=tmp_path / f"log{number}").status

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(one, range(100))) == list(range(100))
    assert not sessions.OWN.live
