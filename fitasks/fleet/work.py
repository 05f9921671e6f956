"""What a worker does: it describes itself, and makes kernels as doit would there, in its own places and its own pool.

The Builder of the worker's own project does it, so that its cache, its store, its locks and its receipts are as after
a doit of its own: whoever asks again, after a loss of whatever kind, gets what was finished.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fitasks.base.errors import FitasksError, KernelFailure
from fitasks.compile.pool.usage import Usage, usage
from fitasks.fleet.environment import Environment, describe, lines, shared
from fitasks.fleet.parcel import pack
from fitasks.processes import sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.compile.builder import Builder
    from fitasks.compile.judge.freshness import Judge
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

Tell = Callable[[dict[str, Any]], None]
_TOLD = ("begin", "file")  # events of the journal that the one who asked hears


@dataclass(frozen=True)
class Order:
    """Make this kernel for `label`, which the asker calls it, if this machine is still the one that was described."""

    run: str
    label: str
    name: str
    target: str
    environment: str  # the digest


@dataclass(frozen=True)
class Answer:
    """A finished kernel's files; without files why there are none. `lasting` as in KernelFailure.

    `stopped`: the worker is leaving, and another one is to make it.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    error: str = ""
    remedy: str = ""
    lasting: str = ""
    stopped: bool = False
    worker: str = ""


@dataclass(frozen=True)
class Described:
    """A worker: what it makes kernels of, and how many compilers it has; `problem` is why it can't make any."""

    environment: Environment
    slots: int = 0
    problem: str = ""


class Project(Protocol):
    """A worker's planned project; a session of doit is one."""

    observers: list[Tell]

    @property
    def plan(self) -> Plan:
        """Raises FitasksError where there is none."""

    @property
    def problem(self) -> FitasksError | None:
        """Why nothing can be built."""

    @property
    def judges(self) -> dict[str, Judge]:
        """By target."""

    def builder(self) -> Builder:
        """What builds, with the pool of this machine."""


class Worker:
    """One project at work for others; for many threads."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._listening: dict[str, tuple[str, Tell]] = {}  # by our label: the asker's, and the asker
        self._described: Described | None = None
        self._lock = threading.Lock()
        project.observers.append(self._hear)

    def describe(self) -> Described:
        """Say what this machine is; once, since a changed one is found out by receipts."""
        with self._lock:
            self._described = self._described or self._describe()
            return self._described

    def _describe(self) -> Described:
        try:
            if self._project.problem:
                raise self._project.problem
            found = describe(self._project)
            for judge in self._project.judges.values():
                judge.contents.save()  # a worker is often killed, and the next one would read thousands of files again
            return Described(found, self._project.builder().runner.pool.slots)
        except FitasksError as error:
            return Described(Environment({}, {}), problem=str(error))

    def lines(self, tree: str) -> list[str]:
        """What a tree of its environment is made of."""
        return lines(self._project, tree)

    def make(self, order: Order, tell: Tell) -> Answer:
        """Make a kernel; whatever happens is an answer."""
        try:
            return Answer(self._made(order, tell))
        except KernelFailure as error:
            stopped = sessions.stopping()
            return Answer(error=error.message, remedy=error.remedy, lasting=error.lasting, stopped=stopped)
        except (FitasksError, OSError) as error:
            return Answer(error=f"{order.label}: {error}")

    def _made(self, order: Order, tell: Tell) -> dict[str, bytes]:
        known = self.describe()
        if known.problem or known.environment.digest != order.environment:
            raise KernelFailure(f"{order.label}: {known.problem or 'this worker is another than it was'}")
        kernel = self._kernel(order)
        with self._heard(kernel.label, order.label, tell):
            self._project.builder().build(kernel)
        return pack(kernel)

    def _kernel(self, order: Order) -> Kernel:
        for kernel in self._project.plan.kernels:
            if shared(kernel) and (kernel.name, kernel.target) == (order.name, order.target):
                return kernel
        raise KernelFailure(f"{order.label}: this worker plans no {order.name} for {order.target}")

    @contextlib.contextmanager
    def _heard(self, ours: str, theirs: str, tell: Tell) -> Iterator[None]:
        self._listening[ours] = theirs, tell
        try:
            yield
        finally:
            self._listening.pop(ours, None)

    def _hear(self, event: dict[str, Any]) -> None:
        label, tell = self._listening.get(event.get("label", ""), ("", None))
        if tell and event["event"] in _TOLD:
            tell(event | {"label": label})


def used() -> Usage:
    """What the compilers of this process use."""
    return usage(sessions.live())
