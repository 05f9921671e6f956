"""What shortens the compile of one file without changing FlashInfer's commands: only the environment differs.

    python bench/shorten.py page [--file page.cu] [--rounds 3]      in the project's directory, after doit

Runs the file's own command from build.ninja, its output going elsewhere, in turn with each environment; prints medians
of wall and CPU seconds, as ratios to the plain one, and where the plain one's time goes (`nvcc --time`).
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fitasks.graph.session import Session

MALLOC = "glibc.malloc.trim_threshold=4294967296:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.top_pad=268435456"
MEMORY = "/dev/shm"  # noqa: S108 - where files are in memory # nosec B108
WAYS: dict[str, dict[str, str]] = {
    "as FlashInfer": {},
    "temporary files in memory": {"TMPDIR": MEMORY},
    "huge pages for malloc": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "malloc keeps its memory": {"GLIBC_TUNABLES": MALLOC},
    "--split-compile=2": {"NVCC_APPEND_FLAGS": "--split-compile=2"},
    "--split-compile=4": {"NVCC_APPEND_FLAGS": "--split-compile=4"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel")
    parser.add_argument("--file", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    wanted = parser.parse_args()
    session = Session.load(Path.cwd())
    (kernel,) = session.plan.chosen([wanted.kernel])
    source = wanted.file or max(kernel.sources, key=lambda path: path.stat().st_size).name
    listed = subprocess.run(
        [str(session.ninja.executable), "-f", str(kernel.ninja_file), "-t", "commands"],
        capture_output=True,
        text=True,
        check=True,
    )
    command = next(line for line in listed.stdout.splitlines() if re.search(rf"-c \S*{re.escape(source)}", line))
    env = session.plan.environment(kernel.target)
    ways = {name: WAYS[name] for name in wanted.ways.split(",")}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(wanted.rounds):
        for name, more in ways.items():
            times[name].append(_run(command, env | more))
            print(f"{name}: {times[name][-1][0]:.1f} s, {times[name][-1][1]:.1f} CPU s", file=sys.stderr, flush=True)
    print(
        f"{kernel.label}: {source}, medians of {wanted.rounds}\n\n| | wall s | CPU s | wall, ratio |\n|---|--:|--:|--:|"
    )
    base = statistics.median(wall for wall, _ in times["as FlashInfer"])
    for name, runs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {wall / base:.2f} |")
    print("\n" + _phases(command, env))


def _run(command: str, env: dict[str, str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as directory:
        words = _elsewhere(command, Path(directory))
        before, begin = os.times(), time.perf_counter()
        subprocess.run(words, env=env, cwd=directory, check=True, capture_output=True)
        wall, after = time.perf_counter() - begin, os.times()
    user = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, user


def _elsewhere(command: str, directory: Path) -> list[str]:
    """The command with another output and depfile."""
    words = shlex.split(command)
    for flag, name in (("-o", "out.o"), ("-MF", "out.d"), ("--dependency-output", "out.d")):
        if flag in words:
            words[words.index(flag) + 1] = str(directory / name)
    return words


def _phases(command: str, env: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as directory:
        table = Path(directory, "times.csv")
        subprocess.run(
            _elsewhere(command, Path(directory)),
            env=env | {"NVCC_APPEND_FLAGS": f"--time {table}"},
            cwd=directory,
            check=True,
            capture_output=True,
        )
        totals: dict[str, float] = {}
        for row in csv.reader(table.read_text().splitlines()):
            if len(row) > 6 and row[6].strip().replace(".", "").isdigit():
                phase = row[1].strip()
                totals[phase] = totals.get(phase, 0.0) + float(row[6]) / 1000
    parts = sorted(totals.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts if seconds > 0.05)


if __name__ == "__main__":
    main()
