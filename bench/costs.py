"""What the first build knows: measure what files cost, and make fitasks/compile/pool/measured.json of it.

    python bench/costs.py measure MEMO [--kernels FILE] PATTERN …   compile files of kernels, one after another
    python bench/costs.py table MEMO …                              print measured.json

`measure` compiles the files whose names fit a pattern (`page.cu`, `*_mask_0.cu`), each by FlashInfer's own command, in
a cache of its own, and notes CPU seconds and the largest compiler in a memo like ~/.cache/fitasks/costs.json; such a
file, of any machine, will do for `table` as well. Those of bench/costs/ are what the shipped one was made of.

`table` takes the first memo's machine as the unit, and its seconds for all files that it has: name the quietest machine
first. Seconds that only others have are multiplied by what files took that both have (the median). Memory is the
largest that any measured of a file; where all have only the module's, that. What a further architecture costs is the
mean over modules that a memo has for one and for two.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.pool import ENTRIES  # noqa: E402
from fitasks.compile.ninja.ninja import Ninja, compiling, edges, find_ninja  # noqa: E402
from fitasks.compile.pool.costs import Cost, Costs  # noqa: E402
from fitasks.cuda.probe import ProbeMemo  # noqa: E402
from fitasks.plan.plan import make_plan  # noqa: E402
from fitasks.processes import process  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.compile.ninja.ninja import Edge
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

_ABOUT = (
    "CPU seconds and memory of nvcc by source file, for one GPU architecture. "
    "Written by: python bench/costs.py table bench/costs/*.json; how measured: bench/costs.py, docs/scheduling.md"
)
KERNELS = "\n".join(['targets: ["9.0a"]', "kernels:", *(f"  {name}: {entry}" for name, entry in ENTRIES.items()), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    measure = ways.add_parser("measure")
    measure.add_argument("memo", type=Path)
    measure.add_argument("patterns", nargs="+")
    measure.add_argument("--kernels", type=Path, help="a kernels.yaml; by default bench/pool.py's eight modules")
    ways.add_parser("table").add_argument("memos", type=Path, nargs="+")
    wanted = parser.parse_args()
    if wanted.way == "table":
        print(table([(memo.stem, read(memo)) for memo in wanted.memos]))
        return
    with tempfile.TemporaryDirectory() as name:
        _measure(Path(name), wanted.memo, wanted.kernels, wanted.patterns)


def _measure(base: Path, memo: Path, kernels: Path | None, patterns: Sequence[str]) -> None:
    (base / "kernels.yaml").write_text(kernels.read_text() if kernels else KERNELS)
    os.environ |= {"FLASHINFER_WORKSPACE_BASE": str(base / "base"), "XDG_CACHE_HOME": str(base / "xdg")}
    plan = make_plan(base)
    ninja = find_ninja(plan.server.env, ProbeMemo(base / "probe.json"))
    done = set[str]()
    for pattern in patterns:  # in their order: what counts most comes first
        for kernel in plan.buildable():
            kernel.build_dir.mkdir(parents=True, exist_ok=True)
            kernel.ninja_file.write_text(kernel.ninja)
            for edge in compiling(edges(ninja, kernel.build_dir, kernel.ninja_file), kernel.library):
                if fnmatch(Path(edge.source).name, pattern) and edge.output not in done:
                    done.add(edge.output)
                    _note(memo, kernel, edge, _compile(plan, ninja, kernel, edge))


def _compile(plan: Plan, ninja: Ninja, kernel: Kernel, edge: Edge) -> process.Finished:
    command = [*ninja.command(kernel.build_dir, kernel.ninja_file), "-j", "1", edge.output]
    env, log = plan.environment(kernel.target), kernel.build_dir / "log"
    finished = process.run(command, cwd=kernel.build_dir, env=env, log=log)
    if finished.status:
        sys.exit(log.read_text())
    return finished


def _note(memo: Path, kernel: Kernel, edge: Edge, finished: process.Finished) -> None:
    name, before = Path(edge.source).name, read(memo).get(f"{kernel.name} {kernel.target}", {})
    files = before.get("files", {}) | {name: round(finished.cpu_seconds, 3)}
    peaks = before.get("peaks", {}) | {name: finished.peak_rss}
    longest, total = max(files, key=lambda one: files[one]), round(sum(files.values()), 3)
    Costs.load(memo).learn(kernel, Cost(total, files[longest], max(peaks.values()), longest, files=files, peaks=peaks))
    print(f"{kernel.label} {name}: {files[name]:.1f} s, {finished.peak_rss / 1e9:.2f} GB", flush=True)


def read(memo: Path) -> dict[str, Any]:
    """Return what a memo says of each module and target, "page 9.0a"; {} where there is none yet."""
    said = json.loads(memo.read_text()) if memo.exists() else {"modules": {}}
    return {name: cost for name, cost in said["modules"].items() if " " in name}


def table(memos: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return measured.json, one line a file."""
    seconds: dict[str, tuple[float, str]] = {}  # by file; and who measured it
    peaks: dict[str, int] = defaultdict(int)
    for who, modules in memos:
        alone = [cost for name, cost in modules.items() if name.count(" ") == 1]
        took = {name: each for cost in alone for name, each in cost["files"].items()}
        unit = median([seconds[name][0] / each for name, each in took.items() if name in seconds] or [1.0])
        seconds = {name: (each * unit, who) for name, each in took.items()} | seconds
        for cost in alone:
            for name in cost["files"]:
                peaks[name] = max(peaks[name], cost.get("peaks", {}).get(name, 0))
    return _text(seconds, peaks | _of_modules(memos, peaks), _further(memos))


def _of_modules(memos: Sequence[tuple[str, Mapping[str, Any]]], peaks: Mapping[str, int]) -> dict[str, int]:
    """Of files whose own memory no memo has: that of the largest file of their module, which is safe."""
    found: dict[str, int] = defaultdict(int)
    for cost in (cost for _, modules in memos for cost in modules.values()):
        for name in cost["files"]:
            found[name] = max(found[name], cost["peak_rss"])
    return {name: peak for name, peak in found.items() if not peaks.get(name)}


def _further(memos: Sequence[tuple[str, Mapping[str, Any]]]) -> float:
    """What the second architecture takes of what the first took."""
    parts = [
        cost["cpu_seconds"] / modules[f"{module} {target.split()[-1]}"]["cpu_seconds"] - 1
        for _, modules in memos
        for name, cost in modules.items()
        for module, _, target in [name.partition(" ")]
        if target.count(" ") == 1 and f"{module} {target.split()[-1]}" in modules
    ]
    return round(fmean(parts), 2) if parts else 0.0


def _text(seconds: Mapping[str, tuple[float, str]], peaks: Mapping[str, int], further: float) -> str:
    head = {"about": _ABOUT, "version": 1, "further": further}
    rows = {
        name: {"seconds": round(each, 1), "megabytes": math.ceil(peaks[name] / 1e6), "by": who}
        for name, (each, who) in sorted(seconds.items())
    }
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    return f'{json.dumps(head, indent=2)[:-2]},\n  "files": {{\n{lines}\n  }}\n}}'


if __name__ == "__main__":
    main()
