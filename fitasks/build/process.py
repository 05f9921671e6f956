"""Running one ninja with its tree of compilers: a session of its own, log, time limit, and a sure end.

A session is gone when its leader is: compilers that outlive a killed ninja are killed with it. If this process itself
is killed, a watchdog, which notices the end of a pipe, ends the sessions that are left.

Each run is begun and ended in a thread of its own. The caller only waits, so that an exception of a signal handler
(doit -n 0 builds in the main thread) never finds a lock held or a child that nobody knows yet.
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
from fitasks.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_GRACE = 2.0  # seconds from SIGTERM to SIGKILL; ninja deletes half-written outputs meanwhile
_MARK = "FITASKS_RUN"  # in the environment of what is run, for the watchdog
_LIMIT = 5.0  # seconds that a stop may take in all


@dataclass(frozen=True)
class Finished:
    """How a run ended. `status` as subprocess has it (negative: a signal); times in seconds of the whole tree.

    `peak_rss` is in bytes, of the largest single process of the tree: wait4 reports the maximum over the child and
    all descendants that were waited for. It is never below this process's own: exec_mmap() in Linux's fs/exec.c
    hands the forking process's high-water mark on to the child.
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
        self.lock = threading.RLock()  # a signal handler may interrupt its own thread's `signal`
        self.stopping = False  # no Event: its lock could be held by what a signal handler interrupts
        self.live: set[int] = set()
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        self._pipe = -1
        self._watchdog: subprocess.Popen[bytes] | None = None  # kept, so that nobody waits for it

    def start(self, job: _Job) -> subprocess.Popen[bytes] | None:
        """Under the lock, so that a stop sees every session or none is begun after it (None then)."""
        with self.lock, job.log.open("wb") as stream:
            if self.stopping:
                return None
            if self._pipe < 0:
                self._watch_anew()
            process = subprocess.Popen(
                job.command,
                cwd=job.cwd,
                env=job.env | {_MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.live.add(process.pid)
            self._tell(b"+ %d\n" % process.pid)
            return process

    def end(self, session: int) -> None:
        """The leader has ended and isn't reaped yet: whatever is left of its session goes, and it is forgotten."""
        deadline = time.monotonic() + _LIMIT
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
        self._watchdog, self._pipe = _start_watchdog(f"{_MARK}={self._mark}")
        os.write(self._pipe, b"".join(b"+ %d\n" % session for session in self.live))


_sessions = _Sessions()


class _Job:
    """One run, worked on in a thread of its own; `over` is set when nothing of it is left."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> None:
        self.command, self.cwd, self.env, self.log = command, cwd, dict(env), log
        self.pid = 0
        self.error: Exception | None = None
        self.finished: Finished | None = None
        self.begun = threading.Event()
        self.over = threading.Event()

    def work(self) -> None:
        begin = time.monotonic()
        try:
            process = _sessions.start(self)
            self.pid = process.pid if process else 0
            self.begun.set()
            self.finished = _reap(process, begin) if process else Finished(-signal.SIGTERM, 0, 0, 0, stopped=True)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self.error = error
        finally:
            self.begun.set()
            self.over.set()

    def end(self) -> None:
        """SIGTERM, some time, SIGKILL; returns when nothing is left, or when it can't be killed (a hung disk)."""
        self.begun.wait()
        _sessions.signal(signal.SIGTERM, self.pid)
        if not self.over.wait(_GRACE):
            _sessions.signal(signal.SIGKILL, self.pid)
            self.over.wait(_LIMIT)


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

    `timeout` is in seconds, None or 0 is none. `on_start` is told its pid. After `stop_all` it returns at once, with
    `stopped`. If an exception is raised in the caller meanwhile (KeyboardInterrupt), the run is ended first. Raises
    EnvironmentProblem where `command` can't be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(command, cwd, env, log)
    threading.Thread(target=job.work, name=f"run {log.stem}", daemon=True).start()
    try:
        job.begun.wait()
        if on_start and job.pid:
            on_start(job.pid)
        if late := not job.over.wait(timeout or None):
            job.end()
    except BaseException:
        job.end()
        raise
    if isinstance(job.error, OSError):
        raise EnvironmentProblem(f"{command[0]} cannot be run in {cwd}: {job.error}") from None
    if job.error:
        raise job.error
    return _told(job.finished, late=late, timeout=timeout or 0)


def sessions() -> frozenset[int]:
    """The sessions that run now, each named by the ninja that leads it."""
    with _sessions.lock:
        return frozenset(_sessions.live)


def stopping() -> bool:
    """Whether `stop_all` was called."""
    return _sessions.stopping


def stop_all(grace: float = _GRACE) -> None:
    """End every run: SIGTERM, `grace` seconds, SIGKILL. Returns when none is left, after 5 s at the latest.

    May be called by a signal handler, and again by another one meanwhile.
    """
    _sessions.stopping = True
    deadline = time.monotonic() + _LIMIT
    _sessions.signal(signal.SIGTERM)
    _wait_until_none(min(deadline, time.monotonic() + grace))
    while _sessions.live and time.monotonic() < deadline:
        _sessions.signal(signal.SIGKILL)
        _wait_until_none(time.monotonic() + 0.2)


def _wait_until_none(deadline: float) -> None:
    while _sessions.live and time.monotonic() < deadline:
        time.sleep(0.01)


def _reap(process: subprocess.Popen[bytes], begin: float) -> Finished:
    """Wait for a leader, end what it leaves, and only then let its number go."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _sessions.end(process.pid)
    _, raw, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(raw)  # so that Popen doesn't wait for it again
    return Finished(
        process.returncode,
        time.monotonic() - begin,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        stopped=_sessions.stopping and process.returncode != 0,
    )


def _told(finished: Finished | None, *, late: bool, timeout: float) -> Finished:
    """With `timed_out`, unless it was done within the grace; without a result, it couldn't even be killed."""
    if finished is None:
        return Finished(-signal.SIGKILL, timeout, 0.0, 0, timed_out=late, stopped=_sessions.stopping)
    if late and finished.status and not finished.stopped:
        return Finished(finished.status, finished.seconds, finished.cpu_seconds, finished.peak_rss, timed_out=True)
    return finished


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
