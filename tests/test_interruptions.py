"""Crashes, signals and neighbours: real processes, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.doit_project import Planned, Project


@pytest.fixture(scope="module")
def project(planned: Planned) -> Project:
    return planned.project()


@pytest.fixture(autouse=True)
def nothing_built(project: Project) -> None:
    (project.tools / "hold").unlink(missing_ok=True)
    if list((project.root.parent / "base").glob(".cache/flashinfer/*/*/cached_ops")):
        project.doit("reset", "--yes")
    header = project.tools / "header.h"  # so that nothing can be adopted
    header.write_text(f"// {time.time_ns()}\n")
    project.calls()


def stand_ins(project: Project) -> list[int]:
    """Pids of compilers that are running for this project."""
    needle = str(project.tools / "nvcc").encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if needle in words:
                found.append(int(entry.name))
    return found


def until_none(project: Project, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while stand_ins(project) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not stand_ins(project)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_every_compiler_and_the_next_run_goes_on(
    project: Project, number: signal.Signals, status: int
) -> None:
    hold = project.hold()
    process = project.start()
    project.wait_for_call()
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert time.monotonic() - begin < 6
    assert "stopping; finished kernels stay" in err
    assert "Traceback" not in err
    assert stand_ins(project) == []
    hold.unlink()
    assert project.doit().splitlines()[-1] == "3 kernels: 3 compiled"


def test_kill_9_of_doit_leaves_no_compiler(project: Project) -> None:
    hold = project.hold()
    process = project.start()
    project.wait_for_call()
    process.kill()
    process.communicate(timeout=20)
    assert until_none(project, 5)
    hold.unlink()
    assert project.doit().splitlines()[-1] == "3 kernels: 3 compiled"


def test_kill_9_of_a_compiler_looks_like_the_oom_killer_and_is_tried_again(project: Project) -> None:
    hold = project.hold()
    process = project.start()
    project.wait_for_call()
    os.kill(stand_ins(project)[0], signal.SIGKILL)
    hold.unlink()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.count("once more, alone") == 1
    assert out.splitlines()[-1] == "3 kernels: 3 compiled"


def test_two_runs_at_once_compile_each_kernel_once(project: Project) -> None:
    first, second = project.start(), project.start()
    outs = [first.communicate(timeout=60), second.communicate(timeout=60)]
    assert [first.returncode, second.returncode] == [0, 0], outs
    assert project.calls() == project.files()
    assert project.doit() == "3 kernels: 3 fresh\n"


def test_a_server_building_the_same_module_is_waited_for(project: Project) -> None:
    base = project.root.parent / "base" / ".cache" / "flashinfer"
    (workspace,) = base.glob("*/*")
    lock = workspace / "cached_ops" / "tmp" / "page.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    script = (
        "import sys, time; from filelock import FileLock\n"
        f"with FileLock({str(lock)!r}): print('held', flush=True); time.sleep(3)"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    server.stdout.readline()
    out = project.doit("kernel:page")
    assert f"waiting for page.lock, held by pid {server.pid}" in out
    assert out.splitlines()[-1] == "1 kernel: 1 compiled"
    server.communicate()
