"""The sessions that this process has begun, and their sure end: at its stop, at its death, and when a leader ends.

Compilers that outlive a killed ninja, and a GPU's process that hangs, go with their session. If this process itself is
killed, a watchdog, which notices the end of a pipe, ends the sessions that are left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from fitasks.processes import watchdog
from fitasks.processes.watchdog import signal_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Stream = IO[bytes] | int

GRACE = 2.0  # seconds from SIGTERM to SIGKILL; ninja deletes half-written outputs meanwhile
LIMIT = 5.0  # seconds that a stop may take in all
_MARK = "FITASKS_RUN"  # in the environment of what is run, for the watchdog


class Sessions:
    """The live sessions of this process, told to the watchdog as they come and go."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may interrupt its own thread's `signal`
        self.stopping = False  # no Event: its lock could be held by what a signal handler interrupts
        self.live: set[int] = set()
        self._mark = ""  # of this process, not of one that has imported this and then forked
        self._pipe = -1
        self._watchdog: subprocess.Popen[bytes] | None = None  # kept, so that nobody waits for it

    def start(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream,
        stderr: Stream = subprocess.STDOUT,
        nice: int = 0,
        identity: Mapping[str, Any] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes] | None:
        """A process that leads a session, until `end` is called with its pid, before it is reaped.

        Under the lock, so that a stop sees every session or none is begun after it (None then). `nice` is added to that
        of the calling thread, which on Linux has its own and can't take it back; the process inherits it. Raises
        OSError.
        """
        with self.lock:
            if self.stopping:
                return None
            if self._pipe < 0:
                self._watch_anew()
            os.nice(nice)
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**env, _MARK: self._mark},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                **identity,
            )
            self.live.add(process.pid)
            self._tell(b"+ %d\n" % process.pid)
            return process

    def end(self, session: int) -> None:
        """The leader has ended and isn't reaped yet: whatever is left of its session goes, and it is forgotten."""
        deadline = time.monotonic() + LIMIT
        while signal_session(session, signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(0.01)
        with self.lock:
            self.live.discard(session)
            self._tell(b"- %d\n" % session)

    def signal(self, number: signal.Signals, session: int | None = None) -> None:
        """Send a signal to one session or to all; only to live ones, whose number can't be somebody else's yet."""
        with self.lock:
            for one in list(self.live):
                if session in {None, one}:
                    signal_session(one, number)

    def _tell(self, line: bytes) -> None:
        """Tell the watchdog; if somebody has ended it, another one."""
        try:
            os.write(self._pipe, line)
        except OSError:
            self._watch_anew()

    def _watch_anew(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        self._mark = self._mark or f"{os.getpid()}-{time.time_ns()}"
        self._watchdog, self._pipe = _start_watchdog(f"{_MARK}={self._mark}")
        os.write(self._pipe, b"".join(b"+ %d\n" % session for session in self.live))


OWN = Sessions()  # of this process


def live() -> frozenset[int]:
    """The sessions that run now, each named by the process that leads it."""
    with OWN.lock:
        return frozenset(OWN.live)


def stopping() -> bool:
    """Whether `stop_all` was called."""
    return OWN.stopping


def stop_all(grace: float = GRACE) -> None:
    """End every run: SIGTERM, `grace` seconds, SIGKILL. Returns when none is left, after 5 s at the latest.

    May be called by a signal handler, and again by another one meanwhile.
    """
    OWN.stopping = True
    deadline = time.monotonic() + LIMIT
    OWN.signal(signal.SIGTERM)
    _wait_until_none(min(deadline, time.monotonic() + grace))
    while OWN.live and time.monotonic() < deadline:
        OWN.signal(signal.SIGKILL)
        _wait_until_none(time.monotonic() + 0.2)


def _wait_until_none(deadline: float) -> None:
    while OWN.live and time.monotonic() < deadline:
        time.sleep(0.01)


def _start_watchdog(mark: str) -> tuple[subprocess.Popen[bytes], int]:
    """It and the write end of its pipe, which the kernel closes however this process ends."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, mark],
        cwd="/",
        stdin=read,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read)
    return process, write
