"""Ctrl-C and SIGTERM, whoever reads, whichever reporter, whatever is being done: real signals, real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.doit_project import Planned, Project
from tests.test_interruptions import stand_ins

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(scope="module")
def project(planned: Planned) -> Project:
    return planned.project()


@pytest.fixture(autouse=True)
def held(project: Project) -> None:
    """Everything is stale, and every compiler waits."""
    (project.tools / "header.h").write_text(f"// {time.time_ns()}\n")
    project.calls()
    project.hold()


def shell(project: Project, command: str) -> subprocess.Popen[str]:
    script = f"exec {sys.executable} -m doit {command}"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        ["sh", "-c", script], cwd=project.root, env=project.env, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.parametrize("words", ["", "-n 0"])
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_reader_that_has_gone_keeps_nothing_from_stopping(
    project: Project, number: signal.Signals, status: int, words: str
) -> None:
    """`doit 2>&1 | head -1`."""
    process = shell(project, f"{words} 2>&1")
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    project.wait_for_call()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == status
    assert stand_ins(project) == []


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_without_a_standard_error(project: Project, number: signal.Signals, status: int) -> None:
    process = shell(project, "2>&-")
    project.wait_for_call()
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == status, out
    assert stand_ins(project) == []


@pytest.mark.parametrize("reporter", ["json", "console", "zero", "error-only", "executed-only"])
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_every_reporter_can_be_stopped(project: Project, number: signal.Signals, status: int, reporter: str) -> None:
    process = project.start("--reporter", reporter)
    project.wait_for_call()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    assert "Traceback" not in out + err
    assert stand_ins(project) == []
    if reporter == "json":
        results = {task["result"] for task in json.loads(out)["tasks"]}
        assert results <= {"fail", "up-to-date", None}


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_stop_says_where_things_stand(project: Project, number: signal.Signals, status: int) -> None:
    (project.tools / "hold").unlink()
    project.doit("kernel:page")
    project.calls()
    project.hold()
    process = project.start(MAX_JOBS="1")
    project.wait_for_call()
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == status
    assert out.splitlines()[-1] == "stopped: 1 of 3 kernels done, 1 stopped"


def planners(project: Project) -> list[int]:
    """Pids of serving interpreters that plan for this project."""
    found = []
    for entry in filter(lambda entry: entry.name.isdigit(), Path("/proc").iterdir()):
        try:
            words, env = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"serving/plan/plan.py" in words and str(project.root.parent).encode() in env:
            found.append(int(entry.name))
    return found


def planning(project: Project) -> subprocess.Popen[str]:
    """A `doit list` whose planner has just been started."""
    process = project.start("list")
    deadline = time.monotonic() + 20
    while not planners(project):
        assert time.monotonic() < deadline, "no planner was started"
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_planning_can_be_stopped(tmp_path: Path, number: signal.Signals, status: int) -> None:
    project = Project.make(tmp_path)
    process = planning(project)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert "Traceback" not in err
    assert planners(project) == []


def test_a_planner_ends_with_a_killed_doit(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    process = planning(project)
    process.kill()
    process.communicate(timeout=20)
    deadline = time.monotonic() + 5
    while planners(project) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert planners(project) == []
