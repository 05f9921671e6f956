"""Workers against one pool: at least 40 real modules, a stand-in for nvcc that sleeps, 4 workers in 4 absolute paths.

    python bench/fleet.py [--workers 4] [--slots 1] [--seconds 1.0]

Scheduler, workers and the doit that asks are processes of their own, each with a directory, a HOME and caches of its
own; all are planned before by the real FlashInfer. A file takes about so many seconds as are asked for, by its name, so
that the number of cores here limits nothing. Then the same plan with one pool of as many compilers. Needs FlashInfer,
a toolkit, and distributed; no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.doit_project import NVCC, Project  # noqa: E402

KERNELS = """\
targets: ["9.0a"]
split_compile: false
kernels:
  decode:
    op: batch_decode
    dtype_q: [bfloat16, float16]
    dtype_kv: [bfloat16, float16, float8_e4m3fn]
    dtype_idx: int32
    head_dim: [64, 128, 256]
    use_sliding_window: [true, false]
    use_logits_soft_cap: false
  page:
  cascade:
  quantization:
  rope:
  norm:
"""
_READY = ("Registered to", "this worker is ready")
_SLEEP = 'time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))'
_BY_NAME = f"{_SLEEP[:-1]} * (0.5 + sum(map(ord, os.path.basename(source))) % 11 / 10))"


@dataclass(frozen=True)
class Took:
    """One way: seconds of doit, and the compilers' spans."""

    wall: float
    spans: dict[str, list[float]]  # by source

    @property
    def compiling(self) -> float:
        """Seconds of all compilers."""
        return sum(map(sum, self.spans.values()))

    @property
    def longest(self) -> float:
        """Of one file."""
        return max(max(one) for one in self.spans.values())


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        root = Path(options.place or stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        tools = _tools(root)
        asker, *workers = (_project(root / name, tools) for name in ("asker", *_names(options.workers)))
        for project in (asker, *workers):
            begin = time.monotonic()
            project.doit("list")
            print(f"{project.root}: planned in {time.monotonic() - begin:.1f} s", flush=True)
            _forget(project)
        one_pool = _timed(asker, tools, options, MAX_JOBS=str(options.workers * options.slots))
        _forget(asker)
        address = _cluster(stack, root, workers, options)
        fleet = _timed(asker, tools, options, "--workers", address)
        _report(options, one_pool, fleet, len(list(asker.cached_ops.glob("*/fitasks-receipt.json"))))
        again = _timed(asker, tools, options, "--workers", address)
        print(f"once more, all fresh: {again.wall:.1f} s, {len(again.spans)} files compiled")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--slots", type=int, default=1, help="compilers of each worker")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a file takes, about")
    parser.add_argument("--place", default="", help="a directory to keep: planned once for many runs")
    return parser.parse_args()


def _names(count: int) -> list[str]:
    return [f"worker-{index}" for index in range(count)]


def _tools(root: Path) -> Path:
    """The stand-in, at one path for all: a toolkit's path is part of the commands."""
    tools = root / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "header.h").write_text("// read by every kernel\n")
    (tools / "nvcc").write_text(NVCC.format(python=sys.executable).replace(_SLEEP, _BY_NAME))
    (tools / "nvcc").chmod(0o755)
    return tools


def _project(place: Path, tools: Path) -> Project:
    project = Project(place / "project", json.loads((place / "env").read_text())) if (place / "env").exists() else None
    project = project or Project.make(place, KERNELS)
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    project.env |= {"FLASHINFER_NVCC": str(tools / "nvcc"), "PYTHONPATH": path}
    (place / "env").write_text(json.dumps(project.env))
    return project


def _forget(project: Project) -> None:
    """Everything that was compiled, and all that was learnt; the plan stays."""
    for directory in (
        *project.place.glob("base/.cache/flashinfer/*/*/cached_ops"),
        Path(project.env["XDG_CACHE_HOME"]),
    ):
        shutil.rmtree(directory, ignore_errors=True)


def _cluster(stack: ExitStack, root: Path, workers: list[Project], options: argparse.Namespace) -> str:
    file = root / "scheduler.json"
    start = ["-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    _started(stack, root / "scheduler.log", start, root, workers[0].env)
    while not file.exists():
        time.sleep(0.1)
    for project in workers:
        words = ["-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-nanny", "--no-dashboard"]
        words += ["--preload", "fitasks.worker"]
        env = project.env | {"MAX_JOBS": str(options.slots), "STAND_IN_SECONDS": str(options.seconds)}
        log = root / f"{project.place.name}.log"
        _started(stack, log, [*words, "--nthreads", str(options.slots + 1)], project.root, env)
        while not all(one in log.read_text() for one in _READY):
            time.sleep(0.1)
    address: str = json.loads(file.read_text())["address"]
    return address


def _started(stack: ExitStack, log: Path, words: list[str], place: Path, env: dict[str, str]) -> None:
    stream = stack.enter_context(log.open("w"))
    process = subprocess.Popen([sys.executable, *words], cwd=place, env=env, stdout=stream, stderr=stream)
    stack.callback(process.wait)
    stack.callback(process.kill)


def _timed(project: Project, tools: Path, options: argparse.Namespace, *words: str, **env: str) -> Took:
    (tools / "calls").unlink(missing_ok=True)
    begin = time.time()
    out = project.doit(*words, STAND_IN_SECONDS=str(options.seconds), FITASKS_HEARTBEAT="0", given=env)
    wall, times = time.time() - begin, _times(tools / "calls") or [begin]
    print(f"doit {' '.join(words)}: {wall:.1f} s; {out.splitlines()[-1]}", flush=True)
    print(project.stderr, end="", flush=True)
    print(f"first compiler after {times[0] - begin:.1f} s; after the last {begin + wall - times[-1]:.1f} s", flush=True)
    return Took(wall, _spans(tools / "calls"))


def _times(log: Path) -> list[float]:
    return sorted(float(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else []


def _spans(log: Path) -> dict[str, list[float]]:
    begun: dict[str, float] = {}
    spans: dict[str, list[float]] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        when, kind, pid, source, *_ = line.split()
        if kind == "start":
            begun[pid] = float(when)
        else:
            spans.setdefault(source, []).append(float(when) - begun[pid])
    return spans


def _report(options: argparse.Namespace, one_pool: Took, fleet: Took, kernels: int) -> None:
    cores = options.workers * options.slots
    counts = [sum(map(len, took.spans.values())) for took in (one_pool, fleet)]
    bound = fleet.compiling / cores + fleet.longest
    print(f"{kernels} kernels; compilers started: one pool {counts[0]}, workers {counts[1]}")
    print(f"workers: {fleet.compiling:.1f} s of compilers / {cores} + longest {fleet.longest:.1f} s = {bound:.1f} s")
    print(f"took {fleet.wall:.1f} s, {fleet.wall / bound:.2f} of that; one pool {one_pool.wall:.1f} s")
    _judge(counts, bound, fleet)


def _judge(counts: list[int], bound: float, fleet: Took) -> None:
    if counts[0] != counts[1]:
        sys.exit("a file was compiled twice, or not at all")
    if fleet.wall > 1.1 * bound:
        sys.exit("workers took more than 1.10 of what is possible")


if __name__ == "__main__":
    main()
