"""A dozen kills at random moments, of which bench/kills.py has the long run: nothing false is trusted or lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.doit_project import Planned, Project

KILLS = 12
SEED = 20260  # fixed, so that a failure can be looked at again

KERNELS = """\
targets: ["9.0a"]
kernels:
  cascade:
  quantization:
  page:
  decode: {op: batch_decode, dtype_q: bfloat16, head_dim: 128}
"""


@pytest.fixture(scope="module")
def project(planned: Planned) -> Project:
    return planned.project(KERNELS)


def descendants(root: int) -> list[int]:
    """Pids below a process, itself included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def receipts(project: Project) -> dict[str, dict[str, object]]:
    found = {}
    for path in (project.root.parent / "base").glob(".cache/flashinfer/*/*/cached_ops/*/fitasks-receipt.json"):
        found[path.parent.name] = json.loads(path.read_text()) | {"place": str(path.parent)}
    return found


def check_receipts(project: Project) -> None:
    """Each receipt vouches for a whole library with exactly its contents."""
    import hashlib

    for name, receipt in receipts(project).items():
        library = Path(str(receipt["place"])) / f"{name}.so"
        recorded = receipt["outputs"][f"{name}.so"]  # type: ignore[index]
        assert hashlib.sha256(library.read_bytes()).hexdigest() == recorded["sha256"], name


def test_a_dozen_kills(project: Project) -> None:
    rng = random.Random(SEED)
    header = project.tools / "header.h"
    store = project.root.parent / "xdg" / "fitasks" / "store"
    finished: set[str] = set()
    kills = {"doit": 0, "ninja or below": 0}
    while sum(kills.values()) < KILLS:
        stale = sum(kills.values()) % 5 == 0
        if stale:
            header.write_text(f"// {rng.random()}\n")  # everything is stale again, and can't be adopted
            shutil.rmtree(store, ignore_errors=True)
        process = project.start()
        time.sleep(rng.uniform(0.05, 0.9))
        tree = descendants(process.pid)
        victim = process.pid if rng.random() < 0.6 or len(tree) == 1 else rng.choice(tree[1:])
        kills["doit" if victim == process.pid else "ninja or below"] += 1
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=60)
        check_receipts(project)
        fresh = {name for name, status in project.statuses().items() if status == "U"}
        assert len(fresh) <= len(receipts(project)), "fresh without a receipt"
        assert stale or finished <= fresh, "a finished kernel was lost"
        finished = fresh
    out = project.doit()
    assert out.splitlines()[-1].startswith("4 kernels: ")
    assert project.doit() == "4 kernels: 4 fresh\n"
    check_receipts(project)
    project.calls()
    for path in (project.root / ".fitasks").glob("doit.*"):
        path.unlink()
    assert project.doit() == "4 kernels: 4 fresh\n"
    assert project.calls() == 0


def test_finished_kernels_survive_every_later_kill(project: Project) -> None:
    """One kernel is finished, the others held: kills must not take it away, nor may it be compiled again."""
    project.doit()
    (project.tools / "header.h").write_text("// anew\n")
    shutil.rmtree(project.root.parent / "xdg" / "fitasks" / "store", ignore_errors=True)
    project.doit("kernel:page")
    project.calls()
    hold = project.hold()
    for number in range(5):
        process = project.start()
        project.wait_for_call()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        assert project.statuses()["kernel:page"] == "U", number
        project.calls()
    hold.unlink()
    out = project.doit()
    assert "kernel:page:" not in out
    assert out.splitlines()[-1].startswith("4 kernels: 1 fresh, ")


def test_a_full_disk_fails_cleanly_and_the_next_run_converges(project: Project) -> None:
    """On a real file system of 64 kB, in a mount namespace of its own."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no mount namespaces here")
    project.doit()
    shutil.rmtree(project.root.parent / "xdg" / "fitasks" / "store", ignore_errors=True)
    for built in project.cached_ops.iterdir():
        shutil.rmtree(built)
    script = f"mount -t tmpfs -o size=64k none {project.cached_ops} && cd {project.root} && {sys.executable} -m doit"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=project.env, capture_output=True, text=True, check=False
    )
    assert done.returncode in {1, 2}, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "failed" in done.stdout.splitlines()[-1]
    assert project.doit().splitlines()[-1].startswith("4 kernels: ")
    assert project.doit() == "4 kernels: 4 fresh\n"


def test_something_in_the_way_is_named(project: Project) -> None:
    project.doit()
    directory = project.cached_ops / "page"
    shutil.rmtree(directory)
    directory.write_text("not a directory")
    out = project.doit(status=1)
    assert f"page: {directory}" in out
    assert f"remedy: mv {directory} {directory}.old" in out
    directory.unlink()
    assert project.doit().splitlines()[-1].startswith("4 kernels: 3 fresh, 1 ")


def test_a_read_only_cache_is_only_read(project: Project) -> None:
    """Mounted read-only in a namespace of its own: judged and listed all the same; a server would fail there."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no mount namespaces here")
    project.doit()
    base = project.root.parent / "base"
    run = f"{sys.executable} -m doit"
    script = (
        f"mount --bind {base} {base} && mount -o remount,bind,ro {base} && cd {project.root} && {run} && {run} check"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=project.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "4 kernels: 4 fresh\n" in done.stdout
    assert done.stdout.count("would fail") == 4
    assert "Traceback" not in done.stderr
