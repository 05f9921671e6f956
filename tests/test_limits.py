"""A shell that allows too little: what is short and what raises it, and never a traceback."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fitasks.base.limits import in_force, met

ROOT = Path(__file__).parents[1]
KERNELS = "targets: ['9.0a']\nserving: {python: /nowhere/python}\nkernels: {page: }\n"


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Limits in force: none but those that the test writes down."""
    soft: dict[int, int] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft.get(which, resource.RLIM_INFINITY), -1))
    return soft


@pytest.mark.parametrize(
    ("error", "which", "value", "told"),
    [
        (MemoryError(), resource.RLIMIT_AS, 400 << 20, "no memory is left; this process may have 409600 kB of virtual"),
        (
            OSError(errno.EFBIG, "File too large", "/x/plan.json"),
            resource.RLIMIT_FSIZE,
            4096,
            "/x/plan.json: File too large; this process may have 4 kB in a file (ulimit -f)",
        ),
        (
            OSError(errno.EMFILE, "Too many"),
            resource.RLIMIT_NOFILE,
            12,
            "Too many; this process may have 12 open files",
        ),
        (
            RuntimeError("can't start new thread"),
            resource.RLIMIT_NPROC,
            5,
            "no thread can be started; this process may have 5 processes and threads of this user (ulimit -u)",
        ),
        (BlockingIOError(errno.EAGAIN, "fork"), resource.RLIMIT_NPROC, 5, "fork; this process may have 5 processes"),
    ],
)
def test_what_is_short(limited: dict[int, int], error: Exception, which: int, value: int, told: str) -> None:
    assert met(error)
    assert str(met(error)).endswith("remedy: make room, and run doit again"), "a full machine, and no limit"
    limited[which] = value
    problem = met(error)
    assert problem
    assert problem.message.startswith(told)
    assert problem.remedy.startswith("raise it in this shell (ulimit -")
    assert problem.exit_status == 2


def test_what_is_no_limit(limited: dict[int, int]) -> None:
    errors = [ValueError(), RuntimeError("x"), FileNotFoundError(2, "No such file", "x"), OSError(errno.ENOSPC, "full")]
    assert [met(error) for error in errors] == [None] * 4
    assert in_force() == ""
    limited[resource.RLIMIT_FSIZE] = 4096
    assert in_force() == "this process may have 4 kB in a file (ulimit -f)"


@pytest.mark.parametrize(
    ("limit", "command"), [("-f 0", "list"), ("-f 0", "check"), ("-f 4", ""), ("-n 8", "check"), ("-v 150000", "")]
)
def test_no_command_ends_in_a_traceback(tmp_path: Path, limit: str, command: str) -> None:
    """Nothing is planned: each command gets as far as an interpreter that isn't there."""
    (tmp_path / "dodo.py").write_text((ROOT / "dodo.py").read_text())
    (tmp_path / "kernels.yaml").write_text(KERNELS)
    script = f"ulimit {limit}; exec {sys.executable} -m doit {command}"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # doit is imported before we are: cut short, its byte code would stay so
    done = subprocess.run(
        ["/bin/bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr[-3000:]
    assert done.returncode in {0, 2}
