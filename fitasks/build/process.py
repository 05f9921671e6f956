"""Running one ninja with its tree of compilers: a session of its own, log, time limit, and a sure end.

A session is gone when its leader is: compilers that outlive a killed ninja are killed with it. If this process itself
is killed, a watchdog, which notices the end of a pipe, ends the sessions that are left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.build import watchdog
from fitasks.build.watchdog import signal_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Finished:
    """How a run ended. `status` as subprocess has it (negative: a signal); times in seconds of the whole tree.

    `peak_rss` is in bytes, of the largest single process of the tree: wait4 reports the maximum over the child and
    all descendants that were waited for.
    """

    status: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    timed_out: bool = False
    stopped: bool = False


class _Sessions:
    """The live sessions of this process, told to the watchdog as they come and go."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.live: set[int] = set()
        self._pipe = -1
        self._watchdog: subprocess.Popen[bytes] | None = None  # kept, so that nobody waits for it

    def start(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
        """Under the lock, so that a stop sees every session or none is begun after it."""
        with self.lock:
            if self._pipe < 0:
                self._watchdog, self._pipe = _start_watchdog()
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.live.add(process.pid)
            os.write(self._pipe, b"+ %d\n" % process.pid)
            return process

    def end(self, session: int) -> None:
        """The leader has ended and isn't reaped yet: whatever is left of its session goes, and it is forgotten."""
        while signal_session(session, signal.SIGKILL):
            time.sleep(0.01)
        with self.lock:
            self.live.discard(session)
            os.write(self._pipe, b"- %d\n" % session)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every live session."""
        with self.lock:
            for session in self.live:
                signal_session(session, number)


_sessions = _Sessions()


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Finished:
    """Run `command`, its output going to `log`; safe to call from many threads at once.

    `timeout` is in seconds, None or 0 is none. After `stop_all` it returns at once, with `stopped`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    if _sessions.stopping.is_set():
        return Finished(-signal.SIGTERM, 0.0, 0.0, 0, stopped=True)
    with log.open("wb") as stream:
        process = _sessions.start(command, cwd, env, stream.fileno())
    if on_start:
        on_start(process.pid)
    late = threading.Event()
    timer = threading.Timer(timeout or 0, _end_late, (process.pid, late))
    if timeout:
        timer.start()
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    finally:
        timer.cancel()
        _sessions.end(process.pid)
    _, raw, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(raw)  # so that Popen doesn't wait for it again
    return Finished(
        process.returncode,
        time.monotonic() - begin,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        timed_out=late.is_set(),
        stopped=_sessions.stopping.is_set() and process.returncode != 0,
    )


def stopping() -> bool:
    """Whether `stop_all` was called."""
    return _sessions.stopping.is_set()


def stop_all(grace: float = 2.0) -> None:
    """End every run: SIGTERM, `grace` seconds, SIGKILL. Returns when none is left, after 5 s at the latest."""
    _sessions.stopping.set()
    deadline = time.monotonic() + 5
    _sessions.signal_all(signal.SIGTERM)
    _wait_until_none(time.monotonic() + grace)
    while _sessions.live and time.monotonic() < deadline:
        _sessions.signal_all(signal.SIGKILL)
        _wait_until_none(time.monotonic() + 0.2)


def _wait_until_none(deadline: float) -> None:
    while _sessions.live and time.monotonic() < deadline:
        time.sleep(0.02)


def _end_late(session: int, late: threading.Event) -> None:
    """A run over its time: the same ladder for it alone."""
    late.set()
    signal_session(session, signal.SIGTERM)
    time.sleep(2)
    if session in _sessions.live:
        signal_session(session, signal.SIGKILL)


def _start_watchdog() -> tuple[subprocess.Popen[bytes], int]:
    """It and the write end of its pipe, which the kernel closes however this process ends."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", watchdog.__file__],
        stdin=read,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read)
    return process, write
