"""Projects of workers and of an asker: workshops (tests/workshop.py) in the directories that they are started in.

All are told by FITASKS_TEST_TOOLS where the compiler is; it says what it compiles, and waits while `hold` exists.
FITASKS_TEST_COUNT is the number of kernels, of two files each.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import FitasksError
from fitasks.compile.builder import Builder
from fitasks.compile.journal import Journal
from fitasks.compile.ninja.ninja import find_ninja
from fitasks.compile.pool.pool import Pool
from fitasks.cuda.probe import ProbeMemo
from fitasks.fleet.fleet import Fleet
from fitasks.fleet.work import Worker
from fitasks.store.local import Store
from tests.workshop import TARGET, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.compile.judge.freshness import Judge
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

COMPILER = """\
#!/bin/sh
here=$(dirname "$0")
case " $* " in *" -c "*) ;; *) exec c++ "$@";; esac
for source; do case $source in *.cpp) break;; esac; done
echo "start $$ $(basename "$source")" >> "$here/calls"
while [ -e "$here/hold" ]; do sleep 0.02; done
case $(cat "$here/fail" 2>/dev/null) in $(basename "$source")) echo "$source:1:1: error: nonsense"; exit 1;; esac
c++ "$@"
echo "end $$ $(basename "$source")" >> "$here/calls"
"""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Shop:
    """A project, as a session of doit is one."""

    def __init__(self, root: Path, *, cxx: str = "c++", count: int = 1) -> None:
        ninja = find_ninja(os.environ, ProbeMemo(root / "probe.json"))
        self.shop = Workshop(root, ninja, Pool(2), cxx=cxx, store=Store(root / "store"))
        self.count = count
        self.problem: FitasksError | None = None
        self.observers: list[Callable[[dict[str, Any]], None]] = []
        self.makers: Fleet | None = None

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(self.shop.kernel(f"k{index:02}") for index in range(self.count))

    @cached_property
    def plan(self) -> Plan:
        return replace(self.shop.plan(), kernels=self.kernels)

    @cached_property
    def judges(self) -> dict[str, Judge]:
        return {TARGET: self.shop.judge()}

    @cached_property
    def made(self) -> Builder:
        plain = self.shop.builder()
        runner = replace(
            plain.runner, journal=Journal(self.shop.root / "journal.jsonl", self.observers), plan=self.plan
        )
        if self.makers:
            self.makers.listen(runner.journal, say)
        return Builder(runner, self.judges, self.shop.store, self.makers)

    def builder(self) -> Builder:
        return self.made


def here() -> Shop:
    tools = Path(os.environ["FITASKS_TEST_TOOLS"])
    return Shop(Path.cwd(), cxx=str(tools / "c++"), count=int(os.environ["FITASKS_TEST_COUNT"]))


_WORKERS: dict[str, Worker] = {}
_LOCK = threading.Lock()


def of_run(run: str) -> Worker:
    with _LOCK:
        if not _WORKERS:  # what a worker has compiled for one run, it has for all
            _WORKERS[""] = Worker(here())
        return _WORKERS[""]


def main(address: str, run: str) -> None:
    """Have all kernels made; the last line says how each ended."""
    from fitasks.fleet import dask

    dask._TIMEOUT = float(os.environ.get("FITASKS_TEST_TIMEOUT", "10"))
    shop = here()
    try:
        workers = dask.DaskWorkers(address, shop, run, entry=f"tests.fleet.shops:{of_run.__name__}", say=say)
    except FitasksError as error:
        sys.exit(str(error))
    shop.makers = Fleet(workers, workers.environment, run)
    shop.makers.patience = 3.0
    workers.listen(shop.makers.told)

    def build(kernel: Kernel) -> str:
        try:
            return shop.builder().build(kernel).outcome
        except FitasksError as error:
            return str(error)

    with ThreadPoolExecutor(16) as threads:
        ends = dict(zip((one.label for one in shop.kernels), threads.map(build, shop.kernels), strict=True))
    say(json.dumps(ends))
    workers.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
