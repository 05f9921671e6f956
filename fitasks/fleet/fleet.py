"""Having kernels made by workers behind a concurrent.futures.Executor, and taking what they made.

A worker's answer is taken like a kernel of a store: each file compared with its hash, each input with what is here, and
ninja asked. Longest first, and no more at once than workers have threads, so that none waits at one worker while
another has nothing to do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any, Protocol

from fitasks.base.errors import KernelFailure
from fitasks.compile.pool.pool import Pool
from fitasks.fleet.environment import shared
from fitasks.fleet.parcel import unpack
from fitasks.fleet.work import Answer, Order
from fitasks.processes import sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fitasks.compile.builder import KernelStore
    from fitasks.compile.journal import Journal
    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.pool.costs import Cost
    from fitasks.compile.pool.usage import Usage
    from fitasks.compile.receipt import Receipt
    from fitasks.fleet.environment import Environment
    from fitasks.plan.kernel import Kernel

_LOOK = 0.5  # seconds after which it is looked who is still there
_PATIENCE = 60.0  # seconds without any worker
_LOSSES = 3  # of workers with the same kernel, which may be what kills them
_STOPPED = "stopped; what was finished stays, run doit again to go on"
_REMEDY = "look what the workers said, start some, and run doit again; finished kernels stay finished"


class Lost(Exception):
    """Nobody works on it any more: the workers that it was given to are gone."""


class Workers(Protocol):
    """Those that were compared and found alike; they may come and go."""

    address: str

    def count(self) -> int:
        """How many kernels they take at once, now."""

    def slots(self) -> int:
        """How many compilers they have, all together."""

    def submit(self, order: Order) -> Future[Answer]:
        """Give it to one of them. Raises Lost where there is none."""

    def lost(self, future: Future[Answer]) -> bool:
        """Whether none of those is left that this was given to."""

    def usage(self) -> Usage:
        """What their compilers use."""


class Fleet:
    """Makes kernels through workers; for many threads. `hear` is told the journal's events."""

    def __init__(self, workers: Workers, environment: Environment, run: str) -> None:
        self._workers, self._digest, self._run = workers, environment.digest, run
        self._pool = Pool(workers.count())
        self._files: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.hear: Callable[[dict[str, Any]], None] = lambda _event: None
        self.patience = _PATIENCE

    @property
    def slots(self) -> int:
        """Compilers of all workers."""
        return self._workers.slots()

    @property
    def reason(self) -> str:
        """The sentence that says why there are so many."""
        return f"{self.slots} compilers of the workers at {self._workers.address}"

    def makes(self, kernel: Kernel) -> bool:
        """Whether workers can."""
        return shared(kernel)

    def weight(self, cost: Cost) -> float:
        """Seconds that a kernel takes with its share of the compilers; no fewer than its longest file."""
        return max(cost.longest, cost.cpu_seconds * self._workers.count() / max(1, self.slots))

    def make(self, kernel: Kernel, judge: Judge, cost: Cost, place: Path) -> tuple[KernelStore, Receipt]:
        """Have it made; what came lies in an empty directory. Raises KernelFailure, OSError."""
        self._pool.resize(self._workers.count())
        with self._pool.slot(self.weight(cost), stopping=sessions.stopping) as held:
            if not held:
                raise KernelFailure(f"{kernel.label}: {_STOPPED}")
            answer = self._answer(kernel)
        if answer.error:
            raise KernelFailure(f"{answer.error} (on {answer.worker})", remedy=answer.remedy, lasting=answer.lasting)
        store, receipt = unpack(answer.files, kernel, place)
        if reasons := judge.differences(kernel, receipt):
            raise KernelFailure(f"{kernel.label}: {answer.worker} made it of other things than are here: {reasons[0]}")
        return store, receipt

    def _answer(self, kernel: Kernel) -> Answer:
        """Of whichever worker, though some are lost meanwhile. Raises KernelFailure."""
        order = Order(self._run, kernel.label, kernel.name, kernel.target, self._digest)
        for _ in range(_LOSSES):
            with contextlib.suppress(Lost):
                return self._waited(order, self._submitted(order))
        raise KernelFailure(f"{order.label}: {_LOSSES} workers were lost while they compiled it", remedy=_REMEDY)

    def _submitted(self, order: Order) -> Future[Answer]:
        """Given to a worker, as soon as there is one. Raises KernelFailure where none comes."""
        begin = time.monotonic()
        while not sessions.stopping():
            with contextlib.suppress(Lost):
                return self._workers.submit(order)
            if time.monotonic() - begin > self.patience:
                raise KernelFailure(f"{order.label}: no worker is left", remedy=_REMEDY)
            time.sleep(_LOOK)
        raise KernelFailure(f"{order.label}: {_STOPPED}")

    def _waited(self, order: Order, future: Future[Answer]) -> Answer:
        """Raises Lost, KernelFailure."""
        while not wait([future], timeout=_LOOK).done:
            if sessions.stopping() or self._workers.lost(future):
                future.cancel()
                raise Lost
        try:
            answer = future.result()
        except CancelledError:
            raise Lost from None
        except Exception as error:  # noqa: BLE001 - of the executor: e.g. workers that died one after the other
            raise KernelFailure(f"{order.label}: {type(error).__name__}: {error}") from None
        if answer.stopped:
            raise Lost
        return answer

    def listen(self, journal: Journal, say: Callable[[str], None]) -> None:
        """Write what workers tell into the run's journal, and say it."""

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "begin":
                say(_begun(event))
            fields = {name: value for name, value in event.items() if name not in {"event", "t"}}
            journal.write(event["event"], **fields)

        self.hear = hear

    def told(self, event: dict[str, Any]) -> None:
        """What a worker says of a kernel that it makes for us."""
        with self._lock:
            if event["event"] == "begin":
                self._files[event["label"]] = 0
            elif event["event"] == "file" and not event["status"] and not str(event["output"]).endswith(".so"):
                self._files[event["label"]] += 1
        self.hear(event)

    def files(self, label: str) -> int:
        """How many of its files are compiled, as far as was told."""
        return self._files[label]

    def usage(self) -> Usage:
        """What the workers' compilers use."""
        return self._workers.usage()


def _begun(event: Mapping[str, Any]) -> str:
    count, why = event["files"], event["why"]
    what = f"kernel:{event['label']}: compiling {count} file{'s'[: count != 1]} on {event['worker']}"
    return "; ".join([what, *why[:1]])
