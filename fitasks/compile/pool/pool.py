"""One pool of compiler slots for all kernels: each compiler, and each linker, holds one while it runs.

Who waits is served by weight, heaviest first, and nobody overtakes. Within a `make -jN` each slot is also paid for with
one of make's tokens, so that there are never more compilers than make allows, nor than our own limit.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitasks.compile.pool.jobserver import MakeTokens

_MOMENT = 0.25  # seconds that the first waiters after a pause let heavier ones arrive
_LOOK = 0.05  # seconds after which the first in the queue looks again, for make's tokens
_IDLE = 0.25  # seconds after which the others look whether all is to stop


class Pool:
    """Hands out `slots` slots, at least one. Safe to use from many threads."""

    def __init__(self, slots: int, make: MakeTokens | None = None) -> None:
        self.slots = max(1, slots)
        self.free = self.slots
        self._narrowed = 0.0  # when, last
        self._begun = self._given = float("-inf")  # when the first came after a pause; when a slot was given back
        self._make = make
        self._turn = threading.Condition()
        self._waiting: list[tuple[float, int]] = []  # a heap of (-weight, arrival)
        self._gone: set[tuple[float, int]] = set()  # of them, those that have given up
        self._arrivals = 0

    @contextlib.contextmanager
    def slot(
        self, weight: float = 0.0, *, count: int = 1, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[bool]:
        """Hold `count` slots, at most all; gives False, and none, once `stopping()` is true."""
        with self._held(weight, count, count, stopping) as held:
            yield held

    @contextlib.contextmanager
    def every_slot(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold every slot: nothing else of ours compiles meanwhile. Of make's tokens only one, the rest isn't ours."""
        with self._held(float("inf"), sys.maxsize, 1, stopping) as held:
            yield held

    def narrow(self, begun: float = float("inf")) -> int:
        """Half as many slots from now on, at least one: memory is scarcer than was thought. How many there are now.

        A compiler that had `begun` (by time.monotonic) before the last narrowing was killed among those of before it,
        and says nothing about so few.
        """
        with self._turn:
            if begun >= self._narrowed:
                gone = self.slots // 2
                self.slots -= gone
                self.free -= gone  # below zero, until those who hold them have given back
                self._narrowed = time.monotonic()
                self._turn.notify_all()
            return self.slots

    def resize(self, slots: int) -> None:
        """So many slots from now on, at least one."""
        with self._turn:
            self.free += max(1, slots) - self.slots
            self.slots = max(1, slots)
            self._turn.notify_all()

    @contextlib.contextmanager
    def _held(self, weight: float, count: int, tokens: int, stopping: Callable[[], bool]) -> Iterator[bool]:
        """Of make's tokens as many as are there, at least one: a `make -j1` will never have two."""
        taken, paid = self._wait(weight, count, tokens, stopping)
        try:
            yield taken > 0
        finally:
            if taken:
                with self._turn:
                    self.free += taken
                    self._given = time.monotonic()
                    if self._make:
                        self._make.give(paid)
                    self._turn.notify_all()

    def _wait(self, weight: float, count: int, tokens: int, stopping: Callable[[], bool]) -> tuple[int, int]:
        """Queue up, and take the slots when it is our turn; how many, and the tokens that were paid: 0 on a stop."""
        with self._turn:
            ready = self._ready(weight)
            self._arrivals += 1
            ticket = (-weight, self._arrivals)
            heapq.heappush(self._waiting, ticket)
            try:
                while not stopping():
                    first, wanted = self._first() == ticket, min(count, self.slots)
                    if first and self.free >= wanted and time.monotonic() >= ready:
                        paid = self._make.take(min(tokens, wanted)) if self._make else wanted
                        if paid:
                            self.free -= wanted
                            return wanted, paid
                    self._turn.wait(_LOOK if first else _IDLE)
                return 0, 0
            finally:
                self._gone.add(ticket)
                self._turn.notify_all()

    def _ready(self, weight: float) -> float:
        """When the next waiter may be served; a pause is when nobody had a slot, or wanted one, for a moment."""
        now = time.monotonic()
        waiting = len(self._waiting) - len(self._gone)
        if not waiting and self.free == self.slots and now - self._given > _MOMENT:
            self._begun = now
        return self._begun + _MOMENT if weight < float("inf") else 0.0

    def _first(self) -> tuple[float, int]:
        while self._waiting[0] in self._gone:
            self._gone.remove(heapq.heappop(self._waiting))
        return self._waiting[0]
