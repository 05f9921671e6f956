"""The thread in which all that is asked of stores runs, and how others wait for it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from fitasks.store.remote.trouble import Off

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
_END = 1.0  # seconds that what is cancelled at the end of the process may take
_LAST = 0.2  # seconds for obstore's own threads to notice: one that asks for Python once it is gone aborts
_PATIENCE = 0.2  # seconds after which somebody who waits looks whether the run is being stopped


class Loop:
    """An event loop in a thread of its own, from the first question to the end. `stopping`: whether the run is."""

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._stopping = stopping
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start something, and go on; from any thread."""
        with self._lock:
            if self._loop is None:
                self._loop = _started()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, begun: concurrent.futures.Future[T]) -> T:
        """Return its result, and raise what it raises; Off where the run is stopped meanwhile."""
        while True:
            try:
                return begun.result(timeout=_PATIENCE)
            except concurrent.futures.TimeoutError:
                if begun.done():  # a moment ago
                    return begun.result()
            if self._stopping():
                begun.cancel()
                raise Off("stopped")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something, and wait for it; not from the loop's own thread."""
        return self.wait(self.begin(work))


def _started() -> asyncio.AbstractEventLoop:
    """Return a loop that runs in a thread and ends before Python does, so that obstore finds it whole."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stores", daemon=True)

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_END / 2)
        await asyncio.sleep(_LAST if others else _LAST / 10)
        loop.stop()

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join(_END)

    atexit.register(stop)
    thread.start()
    return loop
