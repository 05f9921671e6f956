"""The traps: what makes a server recompile kernels that are perfectly good, or trust some that aren't.

    python bench/traps.py [--kernel page]

For each trap two rounds, both from the same compiled kernel, with the real nvcc: FlashInfer alone (`build_and_load` in
the serving interpreter, as a server does), and `doit` first, then the same. Prints a table; about ten minutes on two
cores. The traps are the first of the situations of predictions.py, in the same virtual environment of the bench's own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.predictions import build
from bench.predictions_harness import Served, Snapshot, Stage
from bench.predictions_situations import SITUATIONS

_NAMES = (
    "header-touched",
    "reinstalled",
    "copied",
    "no-ninja-log",
    "no-ninja-deps",
    "no-object",
    "other-ninja",
    "truncated",
    "header-edited-under-old-time",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", default="page", help="a generator without parameters")
    kernel = parser.parse_args().kernel
    with tempfile.TemporaryDirectory(prefix="fitasks-traps-") as name:
        stage, snapshot = build(Path(name), kernel, ("9.0a",))
        print("| trap | FlashInfer alone | fitasks | the server afterwards |\n|---|---|---|---|")
        for trap in _NAMES:
            if trap != "other-ninja" or Path("/usr/bin/ninja").exists():
                title, alone = SITUATIONS[trap][0], did(spring(trap, stage, snapshot))
                here = spring(trap, stage, snapshot)
                print(f"| {title} | {alone} | {doit(here)} | {did(here)} |", flush=True)


def spring(trap: str, stage: Stage, snapshot: Snapshot) -> Stage:
    """The compiled kernel, in the trap. The store is emptied: adoption is measured elsewhere."""
    snapshot.restore()
    shutil.rmtree(stage.root / "xdg" / "fitasks" / "store", ignore_errors=True)
    here = replace(stage, env=dict(stage.env), told=[], patience=None)
    SITUATIONS[trap][1](here)
    return here


def doit(stage: Stage) -> str:
    """What doit says of the kernel, and how long it took."""
    begin = time.perf_counter()
    out = stage.doit().stdout.splitlines()
    seconds = time.perf_counter() - begin
    mark = f"kernel:{stage.kernel}:"
    said = next((line.partition(": ")[2] for line in out[::-1] if line.startswith(mark)), out[-1])
    return f"{said} ({seconds:.1f} s in all)"


def did(stage: Stage) -> str:
    """What FlashInfer does: how many files it compiles or whether it links, and how long that takes."""
    served = stage.serve()
    work = _work(served)
    if served.kind == "failed":
        return f"{work}; then {served.words[-90:]}"
    return f"{work}, {served.seconds:.1f} s" if served.written else work


def _work(served: Served) -> str:
    objects = sum(file.suffix == ".o" for file in served.written)
    if objects:
        return f"compiles {objects} file{'s'[: objects != 1]}"
    return "links" if served.written else "nothing"


if __name__ == "__main__":
    main()
