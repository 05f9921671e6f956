"""`doit --workers` through the real doit and FlashInfer's plan, with a worker that shares the project and its cache."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.doit_project import Planned, Project
from tests.fleet.conftest import Cluster
from tests.test_interruptions import stand_ins


@pytest.fixture(scope="module")
def project(planned: Planned, shared: Cluster) -> Project:
    made = planned.project()
    made.env["PYTHONPATH"] = shared.env(shared.root, 0)["PYTHONPATH"]
    words = [
        "--preload",
        "fitasks.worker",
        "--no-nanny",
        "--no-dashboard",
        "--scheduler-file",
        str(shared.root / "scheduler.json"),
    ]
    log = shared.root / "doit.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", *words]
        env = made.env | {"PYTHONUNBUFFERED": "1"}
        worker = subprocess.Popen(command, cwd=made.root, env=env, stdout=stream, stderr=stream)
    shared.processes["doit"] = worker
    shared.wait(lambda: "Registered to" in log.read_text())
    return made


def test_doit_has_its_kernels_compiled_by_workers(project: Project, shared: Cluster) -> None:
    (project.tools / "fail").write_text("page.cu")
    out = project.doit("--workers", shared.address, status=1)
    assert re.search(r"^kernel:cascade: compiling \d files on tcp://\S+; new: never built$", out, re.MULTILINE)
    assert 'error: identifier "nonsense" is undefined' in out
    assert "(on tcp://" in out
    assert re.search(r"^3 kernels: (1 failed, 2 compiled|2 compiled, 1 failed)", out, re.MULTILINE)
    (project.tools / "fail").unlink()
    assert project.doit("page", "--workers", shared.address).splitlines()[-1] == "1 kernel: 1 compiled"
    assert project.doit() == "3 kernels: 3 fresh\n"
    (project.tools / "header.h").write_text("// stale again\n")
    project.calls()


def test_a_stop_ends_the_one_who_asked_at_once(project: Project, shared: Cluster) -> None:
    hold = project.hold()
    process = project.start("page", "--workers", shared.address)
    project.wait_for_call()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    hold.unlink()
    out = project.doit("page", "--workers", shared.address).splitlines()[-1]
    assert out in {"1 kernel: 1 compiled", "1 kernel: 1 fresh"}, "the worker was at it all the while"
    assert project.calls() == 2, "what was begun isn't begun again"
    assert stand_ins(project) == []
