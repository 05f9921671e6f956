"""What the launcher's watcher notes of compilers below a server, whoever started them: programs that only sleep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from fitasks.trace.coverage import coverage
from fitasks.trace.sources import read_sources
from fitasks.ui.trace_table import covered

ROOT = Path(__file__).parents[2]
# Started as DeepGEMM does, by a shell of popen(3) (deep_jit/utils/command.hpp: `popen(command.c_str(), "r")`), of which
# Python hears nothing; nvcc starts cicc.
SERVER = """
import os, subprocess, threading
threads = [threading.Thread(target=os.system, args=(f"cd {os.getcwd()} && bin/nvcc x.cu 2>&1",)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
os.system("bin/nvcc --version")
subprocess.run(["bin/ninja", "-C", "page"])
"""

STAYS = """
import subprocess, time
subprocess.Popen(["sh", "-c", "bin/nvcc x.cu; true"])
print("up", flush=True)
time.sleep(60)
"""


def sleeper(path: Path, *lines: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, "sleep 0.3", ""]))
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    sleeper(tmp_path / "bin" / "cicc")
    sleeper(tmp_path / "bin" / "nvcc", 'test "$1" = --version && exec sleep 0.2', "bin/cicc x.ii")
    sleeper(tmp_path / "bin" / "ninja")
    (tmp_path / "x.cu").touch()
    (tmp_path / "x.ii").touch()
    return tmp_path


def launched(place: Path, script: str) -> subprocess.Popen[bytes]:
    (place / "server.py").write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "fitasks.record", "-o", "trace.jsonl", "--", sys.executable, "server.py"]
    return subprocess.Popen(command, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)


def lines(place: Path, least: int = 1) -> list[dict[str, Any]]:
    """Of what ran; the watcher ends after the server."""
    for _ in range(100):
        said = [json.loads(line) for line in (place / "trace.jsonl").read_text().splitlines()]
        if len(ran := [line for line in said if line["how"] == "ran"]) >= least:
            return ran
        time.sleep(0.05)
    raise AssertionError(said)


def test_each_process_with_its_seconds_whoever_started_it(place: Path) -> None:
    server = launched(place, SERVER)
    server.communicate(timeout=30)
    assert server.returncode == 0
    ran = lines(place, 5)
    assert sorted(line["name"] for line in ran) == ["cicc x.ii"] * 2 + ["ninja page"] + ["nvcc x.cu"] * 2
    assert len({line["pid"] for line in ran}) == 5
    for line in ran:
        low, high = (0.55, 2.5) if line["name"].startswith("nvcc") else (0.25, 2.0)
        assert low < line["seconds"] < high, line
    table = list(covered(coverage(read_sources([place / "trace.jsonl"]).requested, {}, None), "kernels.yaml"))
    begin = table.index("  compilers' processes, each with the seconds of those that it started:")
    assert table[begin - 1] == "this server started compilers, for whichever toolchain:"
    assert [line.partition(" in ")[0] for line in table[begin + 1 :]] == ["    nvcc: 2", "    cicc: 2", "    ninja: 1"]


def test_a_server_that_is_killed_leaves_no_watcher(place: Path) -> None:
    server = launched(place, STAYS)
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    time.sleep(0.2)
    server.kill()
    server.communicate()
    assert {line["name"] for line in lines(place)} >= {"nvcc x.cu"}, "what still ran is told as well"
    for _ in range(100):
        if not watchers(place):
            break
        time.sleep(0.05)
    assert watchers(place) == []
    last = json.loads((place / "trace.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["how"], last["pid"]) == ("server", "ended", server.pid)


def watchers(place: Path) -> list[str]:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "fitasks_watch" in line and str(place) in line]


def test_whoever_reads_the_servers_output_sees_its_end(place: Path) -> None:
    """And the watcher is no child of the server, which may wait for all of its own."""
    server = launched(place, 'import os\ntry: os.wait()\nexcept ChildProcessError: print("no child")')
    begin = time.monotonic()
    assert server.communicate(timeout=30)[0] == b"no child\n"
    assert time.monotonic() - begin < 10
