"""One pool of compiler slots for all ninjas: a GNU jobserver of the fifo kind.

Each ninja owns one implicit slot, so a token is taken before one is started; further compilers it pays for with
tokens from the fifo. ninja is a client from 1.13 on, if MAKEFLAGS names the fifo and no -j is given.

Who waits to start a ninja is served by weight, heaviest first, and after the ninjas that run already: a token is taken
only if it has lain there for a moment, in which a running ninja with files left would have taken it. So the longest
kernels get all the slots that they can use, and the build doesn't end with one of their files on one core.

A ninja whose last command runs on a token from the fifo keeps its implicit slot, idle, to its end (measured: seconds of
one core of two). With `busy`, which counts what ninjas really run, such a slot is lent to the next ninja in the queue;
whatever token comes back first pays it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

_TOKEN = b"+"
_PREFIX = "fitasks-jobs-"
_MOMENT = 0.1  # seconds: for heavier waiters to arrive, and for running ninjas to take what they can use
_FIFO = re.compile(r"--jobserver-auth=fifo:(\S+)")


class Jobserver:
    """A context manager that holds `slots` tokens, at least one, or that joins the fifo of a `make` above us.

    `busy` gives the number of ninjas that run and the slots that they need now; without it no slot is lent.
    """

    def __init__(
        self, slots: int, parent: Path | None = None, busy: Callable[[], tuple[int, int]] | None = None
    ) -> None:
        self.slots = max(1, slots)
        self._parent = parent
        self._busy = None if parent else busy
        self._ninjas = 0  # that hold a slot of ours, or are about to be started with one
        self._lent = 0  # of the tokens that we hold for them, those that don't exist
        self._turn = threading.Condition()
        self._waiting: list[tuple[float, int]] = []  # (-weight, arrival), the first is served next
        self._arrivals = 0
        self._held = 0  # tokens that we hold for ninjas
        self._spare = 1 if parent else 0  # the implicit slot that a `make` above gave us
        self._directory = ""
        self._descriptor = -1

    def __enter__(self) -> Self:
        if self._parent is None:
            place = _without_blanks(tempfile.gettempdir())
            _sweep(place)
            self._directory = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
            os.mkfifo(self._fifo, 0o600)
        self._descriptor = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._parent is None:
            os.write(self._descriptor, _TOKEN * self.slots)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _fifo(self) -> Path:
        return self._parent or Path(self._directory, "fifo")

    @property
    def makeflags(self) -> str:
        """For MAKEFLAGS of every ninja."""
        return f" -j --jobserver-auth=fifo:{self._fifo}"

    @contextlib.contextmanager
    def slot(
        self, weight: float = 0.0, *, count: int = 1, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[bool]:
        """Hold the implicit slot of one ninja, or `count` of them; gives False, and none, once `stopping()` is true."""
        taken = self._wait(weight, min(count, self.slots), stopping)
        try:
            yield taken > 0
        finally:
            with self._turn:
                self._ninjas -= taken > 0
            self._give_back(taken)

    @contextlib.contextmanager
    def alone(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold every slot: nothing else compiles meanwhile. Of a `make`'s pool only one, the rest isn't ours."""
        count = 1 if self._parent else self.slots
        with self.slot(float("inf"), count=count, stopping=stopping) as taken:
            yield taken

    def _wait(self, weight: float, count: int, stopping: Callable[[], bool]) -> int:
        """Queue up, and take `count` tokens when it is our turn; how many were taken, 0 on a stop."""
        with self._turn:
            self._arrivals += 1
            ticket = (-weight, self._arrivals)
            self._waiting.append(ticket)
        time.sleep(_MOMENT)
        taken = 0
        try:
            while taken < count and not stopping():
                with self._turn:
                    first = min(self._waiting) == ticket
                if first and self._lies_there():
                    taken += self._take()
                elif first and (count == 1 or not self._ninjas) and self._is_idle():
                    taken += self._borrow()
                elif not first:
                    time.sleep(_MOMENT / 2)
            if taken < count:
                return self._give_back(taken)
            with self._turn:
                self._ninjas += 1
            return taken
        finally:
            with self._turn:
                self._waiting.remove(ticket)

    def _lies_there(self) -> bool:
        """Whether a token is to be had, and nobody who runs already wants it."""
        if self._spare:
            return True
        if not select.select([self._descriptor], [], [], 0.2)[0]:
            return False
        time.sleep(_MOMENT)
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def _is_idle(self) -> bool:
        """Whether fewer commands run than there are slots, for a moment, and with no token in the fifo."""
        if self._slack() < 1:
            return False
        time.sleep(2 * _MOMENT)  # commands follow each other in milliseconds
        return self._slack() > 0

    def _slack(self) -> int:
        """Slots that nobody uses: all, less what ninjas need, those just being started, and what is set aside."""
        if self._busy is None:
            return 0
        free = int.from_bytes(fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0" * 4), sys.byteorder)
        ninjas, needed = self._busy()
        with self._turn:
            starting, aside = max(0, self._ninjas - ninjas), self._held - self._ninjas
        return self.slots - free - needed - starting - max(0, aside)

    def _borrow(self) -> int:
        with self._turn:
            self._held += 1
            self._lent += 1
        return 1

    def _take(self) -> int:
        with self._turn, contextlib.suppress(BlockingIOError):
            if self._spare:
                self._spare -= 1
            else:
                os.read(self._descriptor, 1)
            self._held += 1
            return 1
        return 0

    def _give_back(self, count: int) -> int:
        """With the last one gone the fifo is filled up again: what a killed ninja held is nobody's any more."""
        if not count:
            return 0
        with self._turn:
            self._held -= count
            paid = min(self._lent, count)
            self._lent -= paid
            count -= paid
            own = 1 if self._parent and not self._held else 0  # the last one to go back is make's implicit slot
            self._spare += own
            os.write(self._descriptor, _TOKEN * (count - own))
            if not self._held and self._parent is None:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._descriptor, 4096):
                        pass
                os.write(self._descriptor, _TOKEN * self.slots)
        return 0


def parent_fifo(env: Mapping[str, str]) -> Path | None:
    """The fifo of a `make -jN` above us (GNU make 4.4 and later); older ones speak pipes, which don't reach us."""
    words = env.get("MAKEFLAGS", "").partition(" -- ")[0].split()  # after that: `make V=--jobserver-auth=…`
    if words and not words[0].startswith("-") and "n" in words[0]:
        return None  # a dry run
    found = [match[1] for word in words if (match := _FIFO.fullmatch(word))]
    path = Path(found[-1]) if found else None
    return path if path and path.is_fifo() and _is_held(path) else None


def _is_held(fifo: Path) -> bool:
    """Whether anybody has it open for reading: one whose make has ended would be waited for without end (ENXIO)."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _without_blanks(directory: str) -> str:
    """MAKEFLAGS is split at blanks, and nothing quotes them."""
    return "/tmp" if re.search(r"\s", directory) else directory  # noqa: S108 - mkdtemp makes it private


def _sweep(place: str) -> None:
    """Remove what killed processes of this user left: fifos that nobody holds open, a minute old or more."""
    for directory in Path(place).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = directory.stat()
            old = time.time() - status.st_mtime > 60
            if old and status.st_uid == os.geteuid() and not _is_held(directory / "fifo"):
                shutil.rmtree(directory, ignore_errors=True)


def is_client(version: str) -> bool:
    """Whether a ninja of this version takes part in a jobserver: from 1.13 on."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (1, 13)
