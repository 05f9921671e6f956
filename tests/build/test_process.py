"""Runs, time limits and stops, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from fitasks.build import process, watchdog


def run(script: str, tmp_path: Path, **options: float) -> process.Finished:
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
    assert 80 << 20 < done.peak_rss < 300 << 20, "the largest descendant's, not the shell's"
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
        from fitasks.build import process
        results = []
        def one(number):
            done = process.run(["sleep", "60"], cwd=Path.cwd(), env=os.environ, log=Path(f"log{number}"))
            results.append((done.status, done.stopped))
        threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads]
        time.sleep(0.3)
        process.stop_all()
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
