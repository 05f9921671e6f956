"""Ends what a killed doit leaves behind. Runs alone: `python -S watchdog.py MARK`, told of sessions on standard input.

Each ninja leads a session of its own. A process group would not do: ninja puts every compiler into another one
(POSIX_SPAWN_SETPGROUP in its subprocess-posix.cc), so that only the session still holds them together. Nor would
PR_SET_PDEATHSIG, which follows the *thread* that forked, and doit's threads end. A session that was begun when doit
was killed, and not told yet, is known by MARK in its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time


def processes() -> list[tuple[int, list[bytes]]]:
    """Pid of each process, and what its /proc/PID/stat says behind its name; what ends meanwhile is left out."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names only
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123 - hundreds
            if fields := stream.read().rpartition(b")")[2].split():
                found.append((int(name), fields))
    return found


def members(session: int) -> list[int]:
    """Pids of a session's living processes, zombies left out."""
    return [pid for pid, fields in processes() if int(fields[3]) == session and fields[0] != b"Z"]


def signal_session(session: int, number: signal.Signals) -> bool:
    """Send a signal to all of a session; whether there was anybody."""
    pids = members(session)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return bool(pids)


def marked(mark: bytes) -> set[int]:
    """Sessions with a process that has `mark`, a whole NAME=value, in its environment."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names only
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:  # noqa: PTH123
            if mark in stream.read().split(b"\0"):
                found.add(os.getsid(int(name)))
    return found


def main() -> None:
    """Follow `+ session` and `- session` until the pipe's other end is gone, then end what is left."""
    sessions: set[int] = set()
    for line in sys.stdin:
        sign, _, number = line.partition(" ")
        (sessions.add if sign == "+" else sessions.discard)(int(number))
    for _ in range(3):  # one that had just been forked shows its mark only after exec
        sessions |= marked(os.fsencode(sys.argv[1]))
        for session in sessions:
            signal_session(session, signal.SIGTERM)
        time.sleep(0.1)
    deadline = time.monotonic() + 2
    while any(map(members, sessions)) and time.monotonic() < deadline:
        time.sleep(0.05)
    while sum(signal_session(session, signal.SIGKILL) for session in sessions):
        time.sleep(0.05)


if __name__ == "__main__":
    main()
