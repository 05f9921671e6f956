"""The proof of exactness: FlashInfer's own `spec.build()` of every planned kernel, and what its ninja then does.

    doit && python bench/prove.py

Runs in the project's directory. Each kernel is generated anew in the serving interpreter, in the environment that
`doit env` prints, and built as a server would; ninja must say that there is no work to do. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fitasks.graph.session import Session  # noqa: E402
from fitasks.plan import planner  # noqa: E402

_SERVER = """
import contextlib, io, json, os, sys, time
sys.path.insert(0, sys.argv[1])
from load_flashinfer import load
from plan_generators import find_generator, runtime_generator
from plan_parameters import arguments_for
load()
for op, params in json.load(open(sys.argv[2])):
    generator = find_generator(op)
    arguments = arguments_for(generator, params)
    spec = (generator if ":" in op else runtime_generator(generator, arguments))(**arguments)
    begin = time.perf_counter()
    spec.build(verbose=True, need_lock=True)
    print(f"BUILT {spec.name} {time.perf_counter() - begin:.3f}", flush=True)
"""


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    plan = Session.load(Path.cwd()).plan
    wrong = 0
    for target in plan.targets:
        kernels = [kernel for kernel in plan.buildable() if kernel.target == target]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as request:
            json.dump([(kernel.op, kernel.given) for kernel in kernels], request)
            request.flush()
            command = [str(plan.server.python), "-c", _SERVER, str(planner.SCRIPT.parent), request.name]
            begin = time.perf_counter()
            done = subprocess.run(command, env=plan.environment(target), capture_output=True, text=True, check=False)
        wrong += _report(done.stdout, [kernel.name for kernel in kernels])
        if done.returncode:
            print(done.stderr[-2000:])
        print(f"{target}: {len(kernels)} kernels in {time.perf_counter() - begin:.1f} s, imports included")
    return 1 if wrong else 0


def _report(output: str, names: list[str]) -> int:
    """One line per kernel; how many of them made ninja do anything."""
    wrong, said = 0, ""
    built = set()
    for line in output.splitlines():
        if not line.startswith("BUILT "):
            said = line
            continue
        _, name, seconds = line.split()
        built.add(name)
        wrong += said != "ninja: no work to do."
        print(f"{name}: {said} ({seconds} s)")
    return wrong + len(set(names) - built)


if __name__ == "__main__":
    sys.exit(main())
