"""One pool of compiler slots for all ninjas: a GNU jobserver of the fifo kind.

Each ninja owns one implicit slot, so a token is taken before one is started; further compilers it pays for with
tokens from the fifo. ninja is a client from 1.13 on, if MAKEFLAGS names the fifo and no -j is given.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_TOKEN = b"+"


class Jobserver:
    """A context manager that holds `slots` tokens, at least one."""

    def __init__(self, slots: int) -> None:
        self.slots = max(1, slots)
        self._lock = threading.Lock()
        self._clients = 0
        self._directory = ""
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="fitasks-jobs-")
        fifo = Path(self._directory, "fifo")
        os.mkfifo(fifo, 0o600)
        self._descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self._descriptor, _TOKEN * self.slots)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def makeflags(self) -> str:
        """For MAKEFLAGS of every ninja."""
        return f" -j --jobserver-auth=fifo:{self._directory}/fifo"

    @contextlib.contextmanager
    def slot(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold the implicit slot of one ninja; gives False, and no slot, once `stopping()` is true."""
        taken = self._take(stopping)
        try:
            yield taken
        finally:
            if taken:
                self._give_back()

    def _take(self, stopping: Callable[[], bool]) -> bool:
        while not stopping():
            select.select([self._descriptor], [], [], 0.2)
            with self._lock, contextlib.suppress(BlockingIOError):
                os.read(self._descriptor, 1)
                self._clients += 1
                return True
        return False

    def _give_back(self) -> None:
        """With the last client gone the fifo is filled up again: what a killed ninja held is nobody's any more."""
        with self._lock:
            self._clients -= 1
            os.write(self._descriptor, _TOKEN)
            if not self._clients:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._descriptor, 4096):
                        pass
                os.write(self._descriptor, _TOKEN * self.slots)


def is_client(version: str) -> bool:
    """Whether a ninja of this version takes part in a jobserver: from 1.13 on."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (1, 13)
