"""What stands in for fresh Pythons in other tests ends as they would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import warm, warm_client

PLAN = f"{warm.ROOT}/fitasks/serving/plan/plan.py"


def client(*words: str) -> list[str]:
    return [sys.executable, "-I", "-S", warm_client.__file__, warm.name_of("pass"), *words]


@pytest.mark.parametrize(
    ("text", "status"), [("print(3)", 0), ("raise SystemExit(3)", 3), ("import os; os.abort()", -6)]
)
def test_a_client_ends_as_its_script(text: str, status: int) -> None:
    done = subprocess.run(client("-c", text), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (status, "" if status else "3\n")


def test_a_script_ends_with_its_client(tmp_path: Path) -> None:
    script = f"import os, time, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    process = subprocess.Popen(client("-c", script))
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while Path("/proc", pid).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path("/proc", pid).exists()


@pytest.mark.parametrize(
    ("command", "env", "is_forked"),
    [
        ([sys.executable, PLAN, "x"], {}, True),
        (["/usr/bin/python3", PLAN, "x"], {}, False),
        ([sys.executable, PLAN.replace("plan.py", "describe.py"), "x"], {}, False),
        ([sys.executable, "-c", "pass"], {}, False),
        ([sys.executable, PLAN, "x"], {"LD_PRELOAD": "libfaketime.so"}, False),
        ([sys.executable, PLAN, "x"], {"PYTHONPATH": "/opt/torch"}, False),
        ([sys.executable, PLAN, "x"], {"HOME": ""}, False),
    ],
)
def test_only_what_starts_alike_is_forked(command: list[str], env: dict[str, str], *, is_forked: bool) -> None:
    said = warm_client.instead(command, {**os.environ, "PYTHONPATH": "", **env}, lambda env: env.get("HOME", ""))
    assert said == (
        [sys.executable, "-I", "-S", warm_client.__file__, os.environ["HOME"], *command[1:]] if is_forked else command
    )
