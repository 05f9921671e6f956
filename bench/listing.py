"""How fast doit answers: the shipped kernels.yaml, and 655 kernels, against plain doit on an empty dodo.py.

    python bench/listing.py [--runs 7]

Needs FlashInfer and a toolkit, no GPU; compiles nothing. The 655 kernels are FlashInfer's own default registry for
sm_90a, planned by the real planner; since compiling them would take days, each is given a library of 200 kB, objects,
and a receipt that lists about 700 real headers of the installed FlashInfer, so that judging them reads what it
would read. "cold" is without the memo of file contents. The store that is named takes connections and says nothing:
whoever asked it would wait for seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fitasks.base import memo  # noqa: E402
from fitasks.base.files import sha256_file, sha256_text  # noqa: E402
from fitasks.compile import receipt as receipts  # noqa: E402
from fitasks.compile.judge.contents import Contents  # noqa: E402
from fitasks.compile.ninja.ninja import DEPS, LOG  # noqa: E402
from fitasks.compile.receipt import Output, Receipt  # noqa: E402
from fitasks.graph.session import Session  # noqa: E402
from fitasks.plan.kernel import from_record  # noqa: E402
from fitasks.plan.remembered import remembered  # noqa: E402
from fitasks.plan.written import written  # noqa: E402

HEADERS = 700


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        env = os.environ | {"FLASHINFER_WORKSPACE_BASE": str(base / "base"), "PYTHONPATH": str(ROOT)}
        floor = _project(base / "floor", "def task_nothing():\n    return {'actions': []}\n")
        shipped = _project(base / "shipped", (ROOT / "dodo.py").read_text())
        many = _project(base / "many", (ROOT / "dodo.py").read_text())
        subprocess.run([sys.executable, "-m", "doit", "list"], cwd=shipped, env=env, check=True, capture_output=True)
        shutil.copytree(shipped / ".fitasks", many / ".fitasks")
        count = _fill(many, env)
        rows = [
            ("empty dodo.py: doit list", _time(runs, floor, env, "list")),
            ("shipped: doit list", _time(runs, shipped, env, "list")),
            (f"{count} kernels: doit list", _time(runs, many, env, "list")),
            (f"{count} kernels: doit list --all --status", _time(runs, many, env, "list", "--all", "--status")),
            (f"{count} kernels: doit, nothing to do", _time(runs, many, env)),
        ]
        with socket.create_server(("127.0.0.1", 0)) as silent:
            store = {"FITASKS_STORE": f"http://127.0.0.1:{silent.getsockname()[1]}/"}
            rows += [
                ("shipped: doit list, a store named", _time(runs, shipped, env | store, "list")),
                (f"{count} kernels: doit, nothing to do, a store named", _time(runs, many, env | store)),
            ]
        cold = []
        for _ in range(runs):
            (many / ".fitasks" / "contents.json").unlink(missing_ok=True)
            cold += _time(1, many, env, "list", "--all", "--status", warm=False)
        rows.append((f"{count} kernels: doit list --all --status, cold", cold))
        for title, seconds in rows:
            ratio = statistics.median(seconds) / statistics.median(rows[0][1])
            print(f"{title:<55} {statistics.median(seconds):7.3f} s  {ratio:5.1f} x the floor")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"largest process of all: {peak:.0f} MiB (the planner and FlashInfer's registry are among them)")
        print(f"doit list --status of {count} kernels: {_peak(many, env):.0f} MiB")


def _project(directory: Path, dodo: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "dodo.py").write_text(dodo)
    shutil.copy(ROOT / "kernels.yaml", directory)
    return directory


def _fill(project: Path, env: dict[str, str]) -> int:
    """Replace the plan's kernels by the registry's, and make each look compiled; how many there are."""
    os.environ.update(env)
    session = Session.load(project)
    plan, target = session.plan, next(iter(session.plan.targets))
    answer = project / "registry.json"
    command = [str(plan.server.python), str(ROOT / "bench" / "registry.py"), str(answer)]
    subprocess.run(command, env=plan.environment(target), check=True, capture_output=True)
    planned = [record for record in json.loads(answer.read_text())["kernels"] if "error" not in record]
    cache = remembered(project / ".fitasks" / "plan.json")
    blank = cache["kernels"][0]
    known = blank.keys() & planned[0].keys()
    cache["kernels"] = [
        blank
        | {name: record[name] for name in known}
        | {"label": record["name"], "given": {}, "params": {}, "note": ""}
        for record in planned
    ]
    cache["written"] = written(map(from_record, cache["kernels"]), plan.targets)
    memo.keep(project / ".fitasks" / "plan.json", cache)
    _pretend(project)
    return len(planned)


def _pretend(project: Path) -> None:
    session = Session.load(project)
    plan, contents = session.plan, Contents(project / "unused")
    root = plan.first.root / "data"
    headers = sorted(str(path) for path in root.rglob("*") if path.suffix in {".h", ".cuh", ".hpp"})
    judge = session.judges[next(iter(plan.targets))]
    for index, kernel in enumerate(plan.kernels):
        own = list(itertools.islice(itertools.cycle(headers), index, index + HEADERS)) + list(map(str, kernel.sources))
        lines = [(judge.roots.relative(path), state.digest) for path in own if (state := contents.state(path))]
        kernel.build_dir.mkdir(parents=True, exist_ok=True)
        names = {kernel.library.name: 200_000, "one.cuda.o": 1000, "two.o": 1000, LOG: 500, DEPS: 30_000}
        for name, size in names.items():
            (kernel.build_dir / name).write_bytes(os.urandom(size))
        outputs = {name: _output(kernel.build_dir / name) for name in names}
        inputs = receipts.input_lines(lines)
        receipt = Receipt(
            name=kernel.name,
            flashinfer=plan.first.flashinfer,
            target=kernel.target,
            generator=kernel.generator,
            commands=judge.commands(kernel),
            toolchain=judge.toolchain,
            inputs=inputs,
            fingerprint=receipts.fingerprint(judge.commands(kernel), judge.toolchain, inputs),
            ninja=session.ninja.version,
            build_ninja=sha256_text(kernel.ninja),
            sealed_ns=time.time_ns(),
            outputs=outputs,
            stamp=judge.stamp,
        )
        receipts.write(kernel, receipt)


def _output(path: Path) -> Output:
    stat = path.stat()
    return Output(sha256_file(path), stat.st_size, stat.st_mtime_ns)


def _time(runs: int, directory: Path, env: dict[str, str], *words: str, warm: bool = True) -> list[float]:
    seconds = []
    for _ in range(runs + warm):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "doit", *words], cwd=directory, env=env, capture_output=True, check=True)
        seconds.append(time.perf_counter() - begin)
    return seconds[warm:]


def _peak(directory: Path, env: dict[str, str]) -> float:
    """Peak memory of one `doit list --all --status`, in MiB."""
    command = [sys.executable, "-m", "doit", "list", "--all", "--status"]
    process = subprocess.Popen(command, cwd=directory, env=env, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
