"""How long a run waits for a store in all, before it goes on without.

Time counts as lost while something is asked and nothing comes: from the first moment of any half second without an
answer and without 64 KiB of a transfer. 4.5 s of that in one run, or any trouble that obstore's retries don't mend,
and the store is off: whatever still waits for it stops waiting, and nothing more is asked. So a store that is gone
costs a run 5 s, not 5 s a kernel, and a transfer of any size may go on as long as it does go on.

One breaker is for reading and one for writing: who may not write may still read. All of it runs in one loop's thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fitasks.store.remote.trouble import Off, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
BUDGET = 4.5  # seconds
TICK = 0.125
GRACE = 0.5  # seconds between two answers that are no waste: a service far away, asked for the first time
STEP = 64 << 10  # bytes
RATE = 128 << 10  # bytes a second that an upload, whose progress nobody tells, is given


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody else may want to know what became of one whose asker was cancelled; asyncio would complain of that."""
    if not task.cancelled():
        task.exception()


@dataclass
class Breaker:
    """`off` is told the reason, once. `reason` is "" as long as the store is used."""

    off: Callable[[str], None]
    budget: float = BUDGET
    reason: str = ""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _watcher: asyncio.Task[None] | None = None
    _answers: int = 0
    _bytes: int = 0
    _lost: float = 0.0
    _granted: float = 0.0  # seconds that what is being uploaded may still take
    _uploads: dict[asyncio.Task[Any], float] = field(default_factory=dict)  # seconds that each was given

    async def guard(self, work: Coroutine[Any, Any, T], *, upload: int = 0) -> T:
        """Return what the store answers; `upload` is how many bytes it is given. Raises Missing, Off."""
        if self.reason:
            work.close()
            raise Off(self.reason)
        task = asyncio.ensure_future(work)
        task.add_done_callback(_heard)
        self._tasks.add(task)
        self._uploads[task] = upload / RATE
        self._granted += upload / RATE
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.ensure_future(self._watch())
        try:
            return await task
        except Trouble as error:
            self.trip(str(error))
            raise Off(self.reason) from None
        except asyncio.CancelledError:
            if self.reason:
                raise Off(self.reason) from None
            task.cancel()
            raise
        finally:
            self._answers += 1
            self._tasks.discard(task)
            self._uploads.pop(task)
            self._granted = min(self._granted, sum(self._uploads.values()))

    def moved(self, count: int) -> None:
        """Bytes of a transfer came."""
        self._bytes += count

    def trip(self, reason: str) -> None:
        """Use the store no more in this run."""
        if not self.reason:
            self.reason = reason
            for task in self._tasks:
                task.cancel()
            self.off(reason)

    async def _watch(self) -> None:
        still = 0.0  # seconds since anything came
        while self._tasks:
            answers, moved = self._answers, self._bytes // STEP
            await asyncio.sleep(TICK)
            still = still + TICK if (answers, moved) == (self._answers, self._bytes // STEP) else 0.0
            if still >= GRACE:
                self._lose(still if still < GRACE + TICK else TICK)

    def _lose(self, seconds: float) -> None:
        if self._granted > 0:
            self._granted -= seconds
            return
        self._lost += seconds
        if self._lost >= self.budget:
            self.trip(f"no answer in {self._lost:.1f} s")
