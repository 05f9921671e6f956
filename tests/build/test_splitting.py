"""Splitting files: what nvcc is told, what the receipt says of it, and that the real nvcc is a client of the pool."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
import termios
import time
from pathlib import Path

import pytest

from fitasks.build.jobserver import Jobserver
from fitasks.build.usage import usage
from tests.doit_project import Project

KERNELS = 'targets: ["9.0a"]\nkernels:\n  page:\n'


def told(tmp_path: Path, kernels: str = KERNELS, **env: str) -> tuple[set[str], object]:
    """The flags of every call of nvcc, and the threads of which the receipt tells."""
    project = Project.make(tmp_path, kernels)
    project.doit(**{"MAX_JOBS": "3"} | env)
    lines = (project.tools / "calls").read_text().splitlines()
    receipt = json.loads((project.library("page").parent / "fitasks-receipt.json").read_text())
    return {" ".join(line.split()[4:]) for line in lines if " start " in line}, receipt["notes"].get("split_compile")


@pytest.mark.parametrize(("jobs", "flags"), [("3", "--split-compile=3"), ("2", "--split-compile=2 --jobserver")])
def test_one_kernel_alone_is_split_and_the_receipt_says_so(tmp_path: Path, jobs: str, flags: str) -> None:
    assert told(tmp_path, MAX_JOBS=jobs, NVCC_APPEND_FLAGS="") == ({flags}, int(jobs))


def test_what_the_user_appends_stays(tmp_path: Path) -> None:
    assert told(tmp_path, NVCC_APPEND_FLAGS="-lineinfo")[0] == {"-lineinfo --split-compile=3"}


def test_a_user_who_splits_is_left_alone(tmp_path: Path) -> None:
    assert told(tmp_path, NVCC_APPEND_FLAGS="-split-compile 2") == ({"-split-compile 2"}, None)


def test_split_compile_false(tmp_path: Path) -> None:
    assert told(tmp_path, f"split_compile: false\n{KERNELS}", NVCC_APPEND_FLAGS="") == ({""}, None)


def test_an_nvcc_that_does_not_list_the_option_is_not_given_it(tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.write_text(f'#!/bin/sh\n[ "$1" = --help ] && exit 1\nexec {tmp_path}/tools/nvcc "$@"\n')
    older.chmod(0o755)
    assert told(tmp_path, NVCC_APPEND_FLAGS="", FLASHINFER_NVCC=str(older)) == ({""}, None)


@pytest.mark.real
def test_nvcc_takes_tokens_and_gives_them_back(tmp_path: Path) -> None:
    nvcc = Path(sysconfig.get_paths()["purelib"], "nvidia/cu13/bin/nvcc")
    if not nvcc.exists():
        pytest.skip("no pip toolkit in this environment")
    loop = "for (int j = 0; j < {0}; ++j) x[threadIdx.x + j] = x[j] * x[threadIdx.x] + __expf(x[j + {0}]);"
    kernels = (f"__global__ void k{index}(float* x) {{ {loop.format(index + 3)} }}" for index in range(40))
    (tmp_path / "many.cu").write_text("\n".join(kernels))
    with Jobserver(3) as pool:
        flags = {"MAKEFLAGS": pool.makeflags, "NVCC_APPEND_FLAGS": "--split-compile=4 --jobserver"}
        command = [nvcc, "-arch=sm_90a", "-c", "many.cu", "-o", "many.o"]
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | flags)
        fewest = 3
        while process.poll() is None:
            fewest = min(fewest, free(pool))
            time.sleep(0.001)
        assert process.returncode == 0
        assert (fewest, free(pool)) == (0, 3)


def free(pool: Jobserver) -> int:
    return int.from_bytes(fcntl.ioctl(pool._descriptor, termios.FIONREAD, b"\0" * 4), sys.byteorder)


THREADS = """
import hashlib, threading, time
def work():
    end = time.monotonic() + 20
    while time.monotonic() < end:
        hashlib.sha256(b"x" * 10_000_000)  # without the interpreter's lock
threads = [threading.Thread(target=work, daemon=True) for _ in range({})]
[thread.start() for thread in threads]
print("ready", flush=True)
time.sleep(20)
"""


@pytest.mark.parametrize(("threads", "slots"), [(0, 1), (1, 1), (3, 3)])
def test_threads_that_run_are_slots_in_use(threads: int, slots: int) -> None:
    """A session whose leader is a shell, for ninja, with one command below it."""
    command = ["sh", "-c", '"$0" -c "$1" & wait', sys.executable, THREADS.format(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        leader.stdout.readline()
        try:
            found = [usage({leader.pid}).busy for _ in range(20) if not time.sleep(0.02)]
            assert sorted(found)[len(found) // 2] == slots
        finally:
            os.killpg(leader.pid, 9)
