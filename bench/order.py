"""Does the pool take as long as fitasks foretells? Real doit, planner and ninjas, and a compiler that only sleeps.

    python bench/order.py [--slots 4,8,12,16] [--scale 20] [--first [--noise 0.1 --runs 3]]

Eight modules of FlashInfer, with the seconds that their files took on 16 cores of an H100 machine (0.7.2.post1, 9.0a),
divided by `scale`, and what splitting leaves of them. As nothing is computed, any number of slots can be tried on any
machine. Prints, in seconds of the real compiler, the larger bound that no order can beat, what was foretold when the
run began, and what building took, from the first compiler to the last kernel's end. With --first nothing has been
learnt, and the order rests on what was measured elsewhere; with --noise each file takes another random part more or
less than that, another one in each run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fitasks.compile.pool.costs import Cost, Costs  # noqa: E402
from fitasks.compile.pool.schedule import schedule  # noqa: E402
from fitasks.plan.kernel import Kernel, from_record  # noqa: E402
from tests.doit_project import Project  # noqa: E402
from tests.measured import SECONDS  # noqa: E402

ADDED = {"csf_scales.cu": 7.5}  # by FlashInfer 0.7.4 (bench/costs.py), in that machine's seconds
SAMPLING, ANOTHER = 0.62, 0.93  # what a file takes of its time where nvcc's optimiser has four threads (measured)
ATTENTION = "dtype_q: bfloat16, head_dim: 128"
KERNELS = f"""\
targets: ["9.0a"]
kernels:
  page:
  cascade:
  quantization:
  sampling:
  rope:
  decode: {{op: batch_decode, {ATTENTION}}}
  fa2: {{op: batch_prefill, backend: fa2, {ATTENTION}}}
  fa3: {{op: batch_prefill, backend: fa3, {ATTENTION}}}
"""
SLEEPER = """\
#!{python} -S
import json, os, subprocess, sys, time
words = sys.argv[1:]
if "--version" in words:
    print("nvcc: NVIDIA (R) Cuda compiler driver\\nCuda compilation tools, release 13.0, V13.0.88\\nBuild stand-in")
    sys.exit()
if "--help" in words:
    print("--split-compile <number>  (-split-compile)")
    sys.exit()
source, output = words[words.index("-c") + 1], words[words.index("-o") + 1]
open(words[words.index("-MF") + 1], "w").write(output + " : " + source)
module = json.load(open({table!r}))[os.path.basename(os.getcwd())]
gain = module["gain"] if "--split-compile" in os.environ.get("NVCC_APPEND_FLAGS", "") else 1
time.sleep(module["files"][os.path.basename(source)] * gain)
os.link({object!r}, output)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="4,8,12,16")
    parser.add_argument("--scale", type=float, default=20)
    parser.add_argument("--first", action="store_true", help="as for a first build: nothing is learnt")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the seconds' logarithm")
    parser.add_argument("--runs", type=int, default=1)
    wanted = parser.parse_args()
    print("| slots | bound | foretold | took | took / bound |\n|--:|--:|--:|--:|--:|")
    for run, slots in itertools.product(range(wanted.runs), map(int, wanted.slots.split(","))):
        dice = random.Random(run)
        truth = {name: each * dice.lognormvariate(0.0, wanted.noise) for name, each in _files().items()}
        with tempfile.TemporaryDirectory() as name:
            bound, foretold, took = _run(Path(name), slots, wanted.scale, truth, learnt=not wanted.first)
        print(f"| {slots} | {bound:.0f} s | {foretold:.0f} s | {took:.0f} s | {took / bound:.2f} |", flush=True)


def _files() -> dict[str, float]:
    """Seconds by the source file's name."""
    return ADDED | {name: each for files in SECONDS.values() for name, each in files.items()}


def _run(
    base: Path, slots: int, scale: float, truth: Mapping[str, float], *, learnt: bool
) -> tuple[float, float, float]:
    """(bound, foretold, took), in seconds of the real compiler."""
    project = Project.make(base, KERNELS)
    project.doit("list")
    planned = json.loads((project.root / ".fitasks" / "plan.json").read_text())["kernels"]
    names = {one["name"]: [Path(source).name for source in one["sources"]] for one in planned}
    table = {module: {name: truth[name] / scale for name in files} for module, files in names.items()}
    gains = {one["name"]: SAMPLING if one["label"] == "sampling" else ANOTHER for one in planned}
    modules = {name: {"files": files, "gain": gains[name]} for name, files in table.items()}
    (base / "table.json").write_text(json.dumps(modules))
    subprocess.run(["cc", "-c", "-x", "c", "/dev/null", "-fPIC", "-o", str(base / "empty.o")], check=True)
    sleeper = SLEEPER.format(python=sys.executable, table=str(base / "table.json"), object=str(base / "empty.o"))
    (project.tools / "nvcc").write_text(sleeper)
    if learnt:
        _remember(base / "xdg" / "fitasks" / "costs.json", table)
    project.doit(MAX_JOBS=str(slots))
    lines = (project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()
    run, *events = map(json.loads, lines)
    took = max(one["t"] for one in events if one["event"] == "end") - min(one["t"] for one in events)
    factor = scale if learnt else 1  # what was measured elsewhere is of the real compiler
    return _bound(list(map(from_record, planned)), table, slots) * scale, run["expected"] * factor, took * scale


def _bound(kernels: list[Kernel], table: Mapping[str, Mapping[str, float]], slots: int) -> float:
    """As if all were known."""
    known = {
        kernel.name: Cost(sum(files.values()), max(files.values()), 1 << 30, files=files)
        for kernel in kernels
        for files in [table[kernel.name]]
    }
    return schedule(kernels, Costs(Path(os.devnull), known), slots, split=True).bound


def _remember(costs: Path, table: dict[str, dict[str, float]]) -> None:
    """As if an earlier build had learnt them."""
    known = {
        name: {
            "cpu_seconds": sum(files.values()),
            "longest": max(files.values()),
            "peak_rss": 1 << 20,
            "files": files,
        }
        for name, files in table.items()
    }
    costs.parent.mkdir(parents=True, exist_ok=True)
    costs.write_text(json.dumps({"version": 2, "modules": known}))


if __name__ == "__main__":
    main()
