"""Running one ninja with its tree of compilers: own process group, log, time limit, and a sure end.

A group is gone when its leader is: compilers that outlive a killed ninja are killed with it. If this process itself
is killed, a watchdog (a `sh` that reads a pipe, whose end it notices) kills the groups that are left; PR_SET_PDEATHSIG
would not do, because it follows the *thread* that forked, and doit's threads end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_WATCHDOG = """
groups=
while read -r sign group; do
  rest=; for one in $groups; do [ "$one" = "$group" ] || rest="$rest $one"; done
  groups=$rest; [ "$sign" = - ] || groups="$groups $group"
done
for one in $groups; do kill -KILL -"$one" 2>/dev/null; done
"""


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


class _Groups:
    """The live process groups of this process, told to the watchdog as they come and go."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.live: set[int] = set()
        self._pipe = -1
        self._watchdog: subprocess.Popen[bytes] | None = None  # kept, so that nobody waits for it

    def start(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
        """Under the lock, so that a stop sees every group or none is begun after it."""
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

    def end(self, group: int) -> None:
        """The leader has ended and isn't reaped yet: whatever is left of its group goes, and it is forgotten."""
        with self.lock:
            _signal(group, signal.SIGKILL)
            self.live.discard(group)
            os.write(self._pipe, b"- %d\n" % group)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every live group."""
        with self.lock:
            for group in self.live:
                _signal(group, number)


_groups = _Groups()


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
    if _groups.stopping.is_set():
        return Finished(-signal.SIGTERM, 0.0, 0.0, 0, stopped=True)
    with log.open("wb") as stream:
        process = _groups.start(command, cwd, env, stream.fileno())
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
        _groups.end(process.pid)
    _, raw, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(raw)  # so that Popen doesn't wait for it again
    return Finished(
        process.returncode,
        time.monotonic() - begin,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        timed_out=late.is_set(),
        stopped=_groups.stopping.is_set() and process.returncode != 0,
    )


def stopping() -> bool:
    """Whether `stop_all` was called."""
    return _groups.stopping.is_set()


def stop_all(grace: float = 2.0) -> None:
    """End every run: SIGTERM, `grace` seconds, SIGKILL. Returns when none is left, after 5 s at the latest."""
    _groups.stopping.set()
    deadline = time.monotonic() + 5
    _groups.signal_all(signal.SIGTERM)
    _wait_until_none(time.monotonic() + grace)
    while _groups.live and time.monotonic() < deadline:
        _groups.signal_all(signal.SIGKILL)
        _wait_until_none(time.monotonic() + 0.2)


def _wait_until_none(deadline: float) -> None:
    while _groups.live and time.monotonic() < deadline:
        time.sleep(0.02)


def _end_late(group: int, late: threading.Event) -> None:
    """A run over its time: the same ladder for it alone."""
    late.set()
    _signal(group, signal.SIGTERM)
    time.sleep(2)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _start_watchdog() -> tuple[subprocess.Popen[bytes], int]:
    """It and the write end of its pipe, which the kernel closes however this process ends."""
    read, write = os.pipe()
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG],
        stdin=read,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )
    os.close(read)
    return process, write
