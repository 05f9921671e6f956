"""Workers behind a Dask scheduler: `dask scheduler`, `dask worker`, or a LocalCluster.

Each worker describes itself before it gets work; one that is made of other things gets none, and is told of. What runs
there is named by an entry, "module:function", which returns the fitasks.fleet.work.Worker of a run.

Dask itself gives what a lost worker had to others. Only where all are lost that were known when it was given, it waits
for one of these for ever: then `lost` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem, FitasksError, KernelFailure
from fitasks.compile.pool.usage import Usage
from fitasks.fleet import environment
from fitasks.fleet.fleet import Lost
from fitasks.fleet.work import Answer, Described, Order, Worker, used

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitasks.fleet.environment import Environment, Place

_TIMEOUT = 10.0  # seconds for the scheduler to answer
_LOOK = 1.0  # seconds after which it is looked anew who is there
_OTHERS = 5.0  # for which those that are still planning are waited for
_USAGE = 2.0
_SHOWN = 3  # differences


class DaskWorkers:
    """Workers that are alike; for many threads. `say` is told who is refused."""

    def __init__(self, address: str, place: Place, run: str, *, entry: str, say: Callable[[str], None]) -> None:
        """Raises EnvironmentProblem where there is no scheduler, or no worker that is alike."""
        self.address, self._place, self._run, self._entry, self._say = address, place, run, entry, say
        self._own: Future[Environment] = Future()
        self._client = _client(address)
        self._examined: dict[str, Described | None] = {}  # None: refused
        self._heard = threading.Event()  # whether one more is examined
        self._asked: set[str] = set()  # of whom it is known, or being found out
        self._there: dict[str, int] = {}  # threads of each that is there and alike
        self._given: dict[int, frozenset[str]] = {}
        self._usage = Usage()
        try:
            self._meet()
        except FitasksError:
            self.close()
            raise
        for work in (self._look_on, self._watch):
            threading.Thread(target=work, name="workers", daemon=True).start()

    @property
    def environment(self) -> Environment:
        """What kernels are made of here."""
        return self._own.result()

    def listen(self, hear: Callable[[dict[str, Any]], None]) -> None:
        """Tell what they say of what they compile."""
        self._client.subscribe_topic(_topic(self._run), lambda event: hear(event[1]))

    def close(self) -> None:
        """Leave the scheduler; what wasn't finished is forgotten there."""
        self._client.close(timeout=2)

    def count(self) -> int:
        """How many kernels they take at once."""
        return sum(self._there.values())

    def slots(self) -> int:
        """How many compilers they have, all together."""
        return sum(known.slots for name in self._there if (known := self._examined[name]))

    def submit(self, order: Order) -> Future[Answer]:
        """Give it to one of them. Raises Lost where there is none, KernelFailure without a scheduler."""
        if self._client.status != "running":
            raise KernelFailure(f"{order.label}: the scheduler at {self.address} is gone", remedy=_remedy(self.address))
        there = frozenset(self._there)
        if not there:
            raise Lost
        executor = self._client.get_executor(pure=False, workers=sorted(there), allow_other_workers=False)
        future: Future[Answer] = executor.submit(make_there, self._entry, order)
        self._given[id(future)] = there
        future.add_done_callback(lambda done: self._given.pop(id(done), None))
        return future

    def lost(self, future: Future[Answer]) -> bool:
        """Whether none of those is left that this was given to."""
        gone = self._client.status != "running"
        return gone or not self._given.get(id(future), frozenset(self._there)) & self._there.keys()

    def usage(self) -> Usage:
        """What their compilers used a moment ago."""
        return self._usage

    def _meet(self) -> None:
        """Wait until all are examined; once some are alike, for the others only a while. Raises FitasksError."""
        self._look()  # while they look at what they are, so do we
        self._own.set_result(environment.describe(self._place))
        since = 0.0
        while self._asked - self._examined.keys() and not (since and time.monotonic() - since > _OTHERS):
            self._heard.wait(_LOOK)
            self._heard.clear()
            self._look()
            since = since or (time.monotonic() if self._there else 0.0)
        self._look()
        if not self._there:
            raise EnvironmentProblem(f"{self.address} has no worker that could compile", remedy=_remedy(self.address))

    def _look_on(self) -> None:
        """So that nobody who gives work, or waits for it, has to wait for a worker that comes, or hangs."""
        while self._client.status == "running":
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                self._look()
            time.sleep(_LOOK)

    def _look(self) -> None:
        """Who is there; newcomers are examined, each in a thread, since it may take them seconds to plan."""
        there: dict[str, int] = self._client.nthreads()
        for name in there.keys() - self._asked:
            self._asked.add(name)
            threading.Thread(target=self._examine, args=(name,), name=f"examine {name}", daemon=True).start()
        self._there = {name: count for name, count in there.items() if self._examined.get(name)}

    def _examine(self, name: str) -> None:
        """Note what it is, if it is alike; otherwise None, after saying why."""
        described = self._ask(name, describe_there)
        if isinstance(described, Described) and not described.problem:
            told = self._differences(name, described.environment)
        else:
            told = [str(getattr(described, "problem", described)) or type(described).__name__]
        if told:
            more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
            self._say(f"worker {name} gets no work: {'; '.join(told[:_SHOWN])}{more}")
        self._examined[name] = None if told else described
        self._heard.set()

    def _ask(self, name: str, function: Callable[..., Any], *words: str) -> Any:
        """What a worker answers, or the exception that it or Dask raised."""
        try:
            found = self._client.run(function, self._entry, self._run, *words, workers=[name], on_error="return")
            return found[name]
        except Exception as error:  # noqa: BLE001 - it may be gone meanwhile
            return error

    def _differences(self, name: str, theirs: Environment) -> list[str]:
        told = environment.difference(self.environment, theirs)
        for tree in () if told else self.environment.unlike(theirs):
            there = self._ask(name, lines_there, tree)
            ours = environment.lines(self._place, tree)
            told.append(environment.tree_difference(tree, ours, there if isinstance(there, list) else []))
        return told

    def _watch(self) -> None:
        while self._client.status == "running":
            with contextlib.suppress(Exception):  # a figure on the board
                found: Sequence[Usage] = list(self._client.run(used_there, on_error="ignore").values())
                self._usage = Usage(sum(one.compilers for one in found), sum(one.memory for one in found))
            time.sleep(_USAGE)


def _client(address: str) -> Any:
    """Raises EnvironmentProblem where there is no scheduler, or one without fitasks: it unpickles what it hands on."""
    try:
        import distributed
    except ImportError:
        raise EnvironmentProblem("--workers needs Dask", remedy="pip install 'fitasks[dask]'") from None
    logging.disable(logging.CRITICAL)  # Dask logs a traceback for each connection that breaks; we say it in a sentence
    try:
        client = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False, name="fitasks")
    except (OSError, TimeoutError, ValueError) as error:
        raise EnvironmentProblem(f"no Dask scheduler answers at {address}: {error}", remedy=_remedy(address)) from None
    try:
        client.run_on_scheduler(known_there)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from that
        client.close(timeout=2)
        why = f"the scheduler at {address} can't use fitasks: {type(error).__name__}: {error}"
        raise EnvironmentProblem(why, remedy="start it in the workers' environment, which has fitasks") from None
    return client


def _remedy(address: str) -> str:
    return f"dask scheduler; and in the project, on each machine: dask worker --preload fitasks.worker {address}"


def _topic(run: str) -> str:
    return f"fitasks-{run}"


def _worker(entry: str, run: str) -> Worker:
    module, _, name = entry.partition(":")
    made: Worker = getattr(importlib.import_module(module), name)(run)
    return made


def known_there() -> str:
    """Run in a scheduler."""
    return environment.PROTOCOL


async def describe_there(entry: str, run: str) -> Described:
    """Run in a worker; in a thread, since it takes seconds, in which the worker must answer its scheduler."""
    return await asyncio.to_thread(lambda: _worker(entry, run).describe())


async def lines_there(entry: str, run: str, tree: str) -> list[str]:
    """Run in a worker."""
    return await asyncio.to_thread(lambda: _worker(entry, run).lines(tree))


def used_there() -> Usage:
    """Run in a worker."""
    return used()


def make_there(entry: str, order: Order) -> Answer:
    """Run in a thread of a worker."""
    from distributed import get_worker

    here = get_worker()

    def tell(event: dict[str, Any]) -> None:
        here.log_event(_topic(order.run), event | {"worker": here.address})

    return replace(_worker(entry, order.run).make(order, tell), worker=here.address)
