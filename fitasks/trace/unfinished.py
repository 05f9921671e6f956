"""Which waits of a trace never ended: what a process was busy with when it was killed. Told by the order of lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from fitasks.trace.model import BEGUN, GENERATED, SERVER_ENDED, STARTED, identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.trace.model import Requested

_MOST = 50_000  # that are remembered at once; servers wait for one or two in each process
_T = TypeVar("_T")
_Key = tuple[int, str, str]  # process, toolchain, name


class _Wait(NamedTuple):
    module: str  # its identity
    begin: float
    end: float = 0.0  # when its server ended, 0 where that isn't known

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.begin) if self.begin else 0.0


class Waits:
    """The waits that the lines so far have begun and not ended."""

    def __init__(self) -> None:
        self._generated: dict[_Key, str] = {}  # and not begun
        self._open: dict[_Key, _Wait] = {}
        self._left: dict[_Key, _Wait] = {}  # by a server that has ended

    def hear(self, one: Requested) -> None:
        """Take in the next line."""
        (pid,) = one.processes
        key = (pid, one.kind, one.name)
        if GENERATED in one.how:
            _keep(self._generated, key, sys.intern(identity(one)))
        elif BEGUN in one.how:
            self._begin(key, _Wait(sys.intern(identity(one)), one.time))
        elif STARTED in one.how:
            self._start(pid, one)
        elif SERVER_ENDED in one.how:
            self._end(one.time)
        else:
            self._forget(key)

    def _begin(self, key: _Key, wait: _Wait) -> None:
        self._forget(key)
        _keep(self._open, key, wait)

    def _start(self, pid: int, one: Requested) -> None:
        """A ninja in the directory of a module that was generated: all that earlier recorders wrote of a beginning."""
        compiler, _, module = one.name.partition(" ")
        key = (pid, "nvcc", module)
        if compiler == "ninja" and key in self._generated:
            self._begin(key, _Wait(self._generated[key], one.time))

    def _end(self, time: float) -> None:
        for key, wait in self._open.items():
            _keep(self._left, key, wait._replace(end=time))
        self._open.clear()

    def _forget(self, key: _Key) -> None:
        for known in (self._generated, self._open, self._left):
            known.pop(key, None)

    def left(self) -> Iterator[tuple[str, float]]:
        """The identity of each module whose wait hasn't ended, and its seconds until the server did, 0 if unknown."""
        yield from ((wait.module, wait.seconds) for wait in (*self._left.values(), *self._open.values()))


def _keep(known: dict[_Key, _T], key: _Key, value: _T) -> None:
    if len(known) < _MOST:
        known[key] = value
