"""`doit verify` from end to end: the real doit and the real processes, over GPUs that NVML only pretends to have.

In place of fitasks/serving/verify/verify.py the serving interpreter runs a stand-in, which answers as FAKE_ANSWERS says.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.delivery import official
from tests.doit_project import Planned, Project

KERNELS = 'targets: ["9.0a"]\nkernels:\n  page:\n  quantization:\n'
WORKER = """
import json, os, sys, time
with open(os.environ["FAKE_PIDS"], "a") as pids:
    print(os.getpid(), file=pids)
print(json.dumps({"ready": {"gpu": "fake", "torch": "2", "flashinfer": "0.7"}}), flush=True)
answers = json.loads(os.environ.get("FAKE_ANSWERS", "{}"))
for line in sys.stdin:
    request = json.loads(line)
    outcome = answers.get(request["id"], "numerical")
    if outcome == "sleep":
        time.sleep(120)
    check = {"what": "all", "error": 0.0, "tolerance": 0.0, "milliseconds": None}
    record = {"id": request["id"], "outcome": outcome, "checks": [check], "message": "" if outcome == "numerical" else "said so"}
    print(json.dumps(record), flush=True)
"""
SERVING = """\
#!/bin/sh
case "$1" in
  */serving/verify/verify.py) shift; exec {python} {worker} "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def project(planned: Planned) -> Project:
    """Two kernels for Hopper, one such GPU."""
    return planned.project(KERNELS, with_worker)


def with_worker(made: Project) -> None:
    python, worker = made.place / "serving-python", made.place / "worker.py"
    (made.root / "kernels.yaml").write_text(f"serving: {{python: {python}}}\n{KERNELS}")
    worker.write_text(WORKER)
    python.write_text(SERVING.format(python=shlex.quote(sys.executable), worker=shlex.quote(str(worker))))
    python.chmod(0o755)
    made.env["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parents[1] / 'fake_nvml'}"
    made.env |= {"FAKE_GPUS": '[{"capability": "9.0"}]', "FAKE_PIDS": str(made.place / "pids")}


def worker_pids(project: Project) -> list[int]:
    file = Path(project.env["FAKE_PIDS"])
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def proofs_of(project: Project, name: str) -> list[str]:
    file = project.library(name).parent / "fitasks-proof.json"
    return [proof["capability"] for proof in json.loads(file.read_text())["proofs"]]


def test_what_is_not_there_is_compiled_first(project: Project) -> None:
    out = project.doit("verify", "page")
    assert project.calls() == 2, "of the named kernel alone"
    assert out.splitlines()[-2] == "1 proven numerically"
    assert "page (9.0): numerical on GPU 0" in out
    assert proofs_of(project, "page") == ["9.0"]


def test_a_refuted_kernel_is_no_longer_proven(project: Project) -> None:
    project.doit("verify")
    out = project.doit("verify", "--force", status=1, FAKE_ANSWERS='{"page": "failed"}')
    assert "page (9.0): failed on GPU 0: said so" in out
    assert "1 proven numerically, 1 failed (page)" in out
    assert (proofs_of(project, "page"), proofs_of(project, "quantization")) == ([], ["9.0"])
    again = project.doit("verify")
    assert "page (9.0): numerical on GPU 0" in again
    assert "quantization (9.0): numerical before" in again


def test_trouble_wherever_it_is_tried_is_not_forgotten(project: Project) -> None:
    project.doit("verify")
    out = project.doit("verify", "page", "--force", status=1, FAKE_ANSWERS='{"page": "gpu"}')  # behind the name, too
    assert "1 undecided, for trouble with GPUs (page)" in out
    assert proofs_of(project, "page") == []


def test_what_somebody_is_building_is_undecided_and_its_proof_stays(project: Project) -> None:
    project.doit("verify")
    out = project.doit("verify", "--force", "page", status=1, FAKE_ANSWERS='{"page": "busy"}')
    assert "1 undecided, while somebody builds them (page)" in out
    assert proofs_of(project, "page") == ["9.0"]


def test_unknown_options_are_refused(project: Project) -> None:
    out = project.doit("verify", "page", "--farce", status=2)
    assert "verify: option --farce not recognized" in out


def test_a_kernel_that_does_not_compile_does_not_keep_others_from_being_proven(project: Project) -> None:
    (project.tools / "fail").write_text("page.cu")
    out = project.doit("verify", status=1)
    assert "verify: not done, because a kernel failed; `doit -s verify` goes on without it" in out
    assert "quantization (9.0): numerical on GPU 0" in project.doit("verify", "quantization")
    out = project.doit("-s", "verify", status=1)
    assert "1 proven numerically, 1 missing (page)" in out


def test_a_kernel_that_cannot_be_planned_is_not_forgotten(project: Project) -> None:
    file = project.root / "kernels.yaml"
    file.write_text(file.read_text() + "  wrong: {op: batch_prefill, backend: fa9, dtype_q: bfloat16, head_dim: 128}\n")
    out = project.doit("-s", "verify", status=1)
    assert "1 unplanned (wrong" in out


def test_where_no_gpu_fits_nothing_is_proven(project: Project) -> None:
    out = project.doit("verify", "page", status=2, FAKE_GPUS='[{"capability": "8.0"}]')
    assert "page (9.0): no GPU : no GPU of 9.0 here" in out
    assert "none of these GPUs is of an architecture that kernels.yaml names" in out


def test_a_proof_that_cannot_be_kept_is_told(project: Project) -> None:
    project.doit()
    (project.library("page").parent / "fitasks-proof.json").mkdir()
    out = project.doit("verify")
    assert "page (9.0): numerical on GPU 0" in out
    assert "the proof can't be kept: " in out
    assert "2 proven numerically" in out


def test_a_damaged_library_is_one_verdict(project: Project) -> None:
    project.doit()
    project.library("page").write_bytes(b"no ELF")
    out = project.doit("-s", "verify", status=1)
    assert "1 proven numerically, 1 failed (page)" in out
    assert "is no shared object" in out


def test_only_loaded_must_be_the_file_that_was_compiled(project: Project) -> None:
    project.doit()
    page = project.library("page")
    page.write_bytes(project.library("quantization").read_bytes())
    out = project.doit("-s", "verify", status=1, FAKE_ANSWERS='{"page": "loaded", "quantization": "loaded"}')
    assert "page.so isn't the file that was compiled; doit builds it again" in out
    assert "1 only loaded (quantization), 1 failed (page)" in out


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_is_left_on_a_gpu(project: Project, number: signal.Signals) -> None:
    project.doit()
    process = project.start("verify", FAKE_ANSWERS='{"page": "sleep", "quantization": "sleep"}')
    deadline = time.monotonic() + 60
    while not worker_pids(project):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10  # after kill -9 it is the watchdog's work
    while any(map(is_running, worker_pids(project))):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_whoever_reads_may_have_seen_enough(project: Project) -> None:
    """`doit verify | true`: no traceback, no hang."""
    project.doit()
    command = f"{shlex.quote(sys.executable)} -m doit verify | true; exit ${{PIPESTATUS[0]}}"
    env = project.env | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=project.root, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_without_a_gpu_it_says_what_check_can_tell(project: Project) -> None:
    out = project.doit("verify", status=2, FAKE_GPUS="[]")
    assert project.calls() == 0, "at once: nothing is compiled for nothing"
    assert "no usable GPU here" in out
    assert "`doit check` needs none" in out


def test_what_a_server_loads_ahead_of_time_is_not_compiled(project: Project, tmp_path: Path) -> None:
    version = importlib.metadata.version("flashinfer-python")
    site = official.shim(tmp_path / "site", version)
    official.provider(site, version, "page")
    project.env["PYTHONPATH"] += f"{os.pathsep}{tmp_path / 'site'}"
    project.doit("verify", "page", status=1)
    assert project.calls() == 0
