"""Running one ninja with its tree of compilers: a session of its own, log, time limit, and a sure end.

Each run is begun and ended in a thread of its own. The caller only waits, so that an exception of a signal handler
(doit -n 0 builds in the main thread) never finds a lock held or a child that nobody knows yet.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.streams import clean
from fitasks.processes.sessions import GRACE, LIMIT, OWN

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL = 1 << 16  # bytes of a log in which its last lines are looked for


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


class _Job:
    """One run, worked on in a thread of its own; `over` is set when nothing of it is left."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
        *,
        nice: int,
        identity: Mapping[str, Any],
    ) -> None:
        self.command, self.cwd, self.env, self.log = command, cwd, dict(env), log
        self.nice, self.identity = nice, identity
        self.pid = 0
        self.error: Exception | None = None
        self.finished: Finished | None = None
        self.begun = threading.Event()
        self.over = threading.Event()

    def work(self) -> None:
        begin = time.monotonic()
        try:
            with self.log.open("wb") as log:
                process = OWN.start(
                    self.command, self.cwd, self.env, stdout=log, nice=self.nice, identity=self.identity
                )
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
        OWN.signal(signal.SIGTERM, self.pid)
        if not self.over.wait(GRACE):
            OWN.signal(signal.SIGKILL, self.pid)
            self.over.wait(LIMIT)


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    on_start: Callable[[int], None] | None = None,
    nice: int = 0,
    identity: Mapping[str, Any] = MappingProxyType({}),
) -> Finished:
    """Run `command`, its output going to `log`; safe to call from many threads at once.

    `timeout` is in seconds, None or 0 is none. `on_start` is told its pid. `nice` is added to our own niceness.
    `identity` is another user, in Popen's words. After `stop_all` it returns at once, with `stopped`. If an exception
    is raised in the caller meanwhile (KeyboardInterrupt), the run is ended first. Raises EnvironmentProblem where
    `command` can't be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(command, cwd, env, log, nice=nice, identity=identity)
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


def _reap(process: subprocess.Popen[bytes], begin: float) -> Finished:
    """Wait for a leader, end what it leaves, and only then let its number go."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    OWN.end(process.pid)
    _, raw, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(raw)  # so that Popen doesn't wait for it again
    return Finished(
        process.returncode,
        time.monotonic() - begin,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        stopped=OWN.stopping and process.returncode != 0,
    )


def _told(finished: Finished | None, *, late: bool, timeout: float) -> Finished:
    """With `timed_out`, unless it was done within the grace; without a result, it couldn't even be killed."""
    if finished is None:
        return Finished(-signal.SIGKILL, timeout, 0.0, 0, timed_out=late, stopped=OWN.stopping)
    if late and finished.status and not finished.stopped:
        return Finished(finished.status, finished.seconds, finished.cpu_seconds, finished.peak_rss, timed_out=True)
    return finished


def ended(status: int) -> str:
    """How a run ended, as a message says it: `exit status 3`, `killed by signal 9`."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def last_lines(log: Path, most: int) -> list[str]:
    """The last lines of what a run said, clean; of a log that may be long, or gone."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            return clean(stream.read().decode(errors="replace")).strip().splitlines()[-most:]
    except OSError:
        return []
