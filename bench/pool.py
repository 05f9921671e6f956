"""The same kernels cold, three ways: `spec.build()` one after another, FlashInfer's `build_jit_specs`, fitasks.

    python bench/pool.py [--ways sequential,specs,unsplit,fitasks] [--modules page,cascade,…] [--fitasks-options "-n 8"]

Real FlashInfer and nvcc; each way has an empty cache of its own, in one run, one after the other. Prints wall seconds
of the process (FlashInfer's own ways import torch and FlashInfer in it), those of building alone, CPU seconds, the peak
memory of the whole process tree, how many compilers ran at once, and the two bounds that no schedule can beat: CPU
seconds / cores, and the longest file. `unsplit` is fitasks with `split_compile: false`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.environment import exports  # noqa: E402

ATTENTION = "dtype_q: bfloat16, head_dim: 128"
ENTRIES = {
    "page": "{}",
    "cascade": "{}",
    "quantization": "{}",
    "sampling": "{}",
    "rope": "{}",
    "decode": f"{{op: batch_decode, {ATTENTION}}}",
    "fa2": f"{{op: batch_prefill, backend: fa2, {ATTENTION}}}",
    "fa3": f"{{op: batch_prefill, backend: fa3, {ATTENTION}}}",
}
_SPECS = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from load_flashinfer import load
from plan_generators import find_generator, runtime_generator
from plan_parameters import arguments_for
load()
from flashinfer.jit.core import build_jit_specs
specs = []
for op, params in json.load(open(sys.argv[3])):
    generator = find_generator(op)
    arguments = arguments_for(generator, params)
    specs.append(runtime_generator(generator, arguments)(**arguments))
begin = time.time()
if sys.argv[2] == "sequential":
    for spec in specs:
        spec.build(verbose=False, need_lock=True)
else:
    build_jit_specs(specs, verbose=False)
print("BUILT", time.time() - begin)
"""


@dataclass
class Watch:
    """Samples a process tree five times a second: how many compilers, how much memory."""

    root: int
    compilers: list[int] = field(default_factory=list)
    peak: int = 0

    def follow(self, ended: threading.Event) -> None:
        while not ended.wait(0.2):
            names = _tree(self.root)
            self.compilers.append(sum(name in {"cicc", "ptxas", "cc1plus", "cudafe++"} for name, _ in names))
            self.peak = max(self.peak, sum(rss for _, rss in names))


def _tree(root: int) -> list[tuple[str, int]]:
    """(name, resident bytes) of every process below `root`."""
    parents: dict[int, tuple[int, str, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            fields = tail.split()
            parents[int(entry.name)] = (int(fields[1]), head.partition("(")[2], int(fields[21]) * 4096)
    below = {root}
    grown = True
    while grown:
        found = {pid for pid, (parent, _, _) in parents.items() if parent in below} - below
        below |= found
        grown = bool(found)
    return [(parents[pid][1], parents[pid][2]) for pid in below if pid in parents]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", default="sequential,specs,fitasks")
    parser.add_argument("--modules", default=",".join(ENTRIES))
    parser.add_argument("--fitasks-options", default="", help="for doit, e.g. '-n 8'")
    parser.add_argument("--learn", action="store_true", help="fitasks knows the costs from an earlier build")
    parser.add_argument("--keep", default="", help="a new directory for the caches, which are kept")
    wanted = parser.parse_args()
    modules = wanted.modules.split(",")
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {', '.join(modules)}\n")
    print("| way | wall s | building s | CPU s | CPU s / cores | peak memory | compilers at once: median, most |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    with contextlib.nullcontext(wanted.keep) if wanted.keep else tempfile.TemporaryDirectory() as name:
        for way in wanted.ways.split(","):
            _one(way, Path(name), modules, shlex.split(wanted.fitasks_options), cores, learn=wanted.learn)


def _one(way: str, root: Path, modules: list[str], options: list[str], cores: int, *, learn: bool) -> None:
    project = _project(root / way, modules, split=way != "unsplit")
    ours = way in {"unsplit", "fitasks"}
    env = os.environ | {
        "FLASHINFER_WORKSPACE_BASE": str(root / way / "base"),
        "XDG_CACHE_HOME": str(root / way / "xdg"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if learn and ours:
        _remember(root / way / "xdg")
    # The plan, and the assembled toolkit, are made first for every way: they aren't what is measured.
    _doit("list", project, env)
    if ours:
        command = [sys.executable, "-m", "doit", *options]
    else:
        env |= exports(_doit("env", project, env), env) | {"FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
        command = [
            sys.executable,
            "-c",
            _SPECS,
            str(ROOT / "fitasks" / "serving" / "plan"),
            way,
            str(project / "modules.json"),
        ]
    run = _measured(command, project, env)
    print(run.row(way, _building(run.output, project), cores), flush=True)
    if run.returncode:
        print(run.output[-3000:])
    elif ours:
        longest = json.loads((root / way / "xdg" / "fitasks" / "costs.json").read_text())["modules"]
        worst = max(longest.values(), key=lambda cost: cost["longest"])
        print(f"\nlongest file: {worst['longest_file']} {worst['longest']:.1f} s\n\n{run.output}")


def _building(output: str, project: Path) -> float:
    """Seconds from the first kernel's begin to the last one's end."""
    if built := re.search(r"^BUILT (\S+)$", output, re.MULTILINE):
        return float(built[1])
    with contextlib.suppress(OSError):
        times = [json.loads(line)["t"] for line in (project / ".fitasks" / "journal.jsonl").read_text().splitlines()]
        return float(times[-1] - times[0])
    return math.nan


def _doit(task: str, project: Path, env: dict[str, str]) -> str:
    command = [sys.executable, "-m", "doit", task]
    return subprocess.run(command, cwd=project, env=env, check=True, capture_output=True, text=True).stdout


@dataclass
class Run:
    """What one way took."""

    wall: float
    cpu: float
    watch: Watch
    returncode: int
    output: str

    def row(self, way: str, building: float, cores: int) -> str:
        """Of the table."""
        busy = sorted(count for count in self.watch.compilers if count) or [0]
        return (
            f"| {way} | {self.wall:.1f} | {building:.1f} | {self.cpu:.0f} | {self.cpu / cores:.1f} "
            f"| {self.watch.peak / 1e9:.1f} GB | {busy[len(busy) // 2]}, {busy[-1]} |"
        )


def _measured(command: list[str], project: Path, env: dict[str, str]) -> Run:
    begin, before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ended, watch = threading.Event(), Watch(process.pid)
    thread = threading.Thread(target=watch.follow, args=(ended,))
    thread.start()
    output, _ = process.communicate()
    ended.set()
    thread.join()
    wall, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(wall, cpu, watch, process.returncode, output)


def _project(directory: Path, modules: list[str], *, split: bool) -> Path:
    project = directory / "project"
    project.mkdir(parents=True)
    shutil.copy(ROOT / "dodo.py", project)
    lines = "".join(f"  {module}: {ENTRIES[module]}\n" for module in modules)
    (project / "kernels.yaml").write_text(f'targets: ["9.0a"]\nsplit_compile: {str(split).lower()}\nkernels:\n{lines}')
    import yaml

    entries = yaml.safe_load(lines)
    calls = [(entry.pop("op", name), entry) for name, entry in entries.items()]
    (project / "modules.json").write_text(json.dumps(calls))
    return project


def _remember(cache: Path) -> None:
    """What an earlier build on this machine has learnt."""
    known = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fitasks" / "costs.json"
    if known.exists():
        (cache / "fitasks").mkdir(parents=True)
        shutil.copy(known, cache / "fitasks")


if __name__ == "__main__":
    main()
