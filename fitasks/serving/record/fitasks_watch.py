"""Notes each compiler that ran below a server, with its seconds, whoever started it: a process beside the server.

    python fitasks_watch.py PID TRACE

`python -m fitasks.record` starts it, and then becomes the server, PID. DeepGEMM's C++ starts nvcc by popen(3), ninja
starts it by itself: no hook in Python hears of that. So this looks through /proc, 20 times a second (0.2 ms of work).
A compiler that ends sooner isn't noted, nor one whose parent began and ended between two looks.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

import fitasks_compilers
import fitasks_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LOOK = 0.05  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")


class Status(NamedTuple):
    """What /proc/PID/stat says: `start` is in seconds since the machine's."""

    name: str
    parent: int
    start: float


def main(argv: list[str]) -> int:
    """Watch, as nobody's child, for a server may wait for all of its own; the exit status."""
    server, trace = int(argv[0]), argv[1]
    if os.fork() == 0:
        watch(server, trace)
    return 0


def watch(server: int, trace: str) -> None:
    """Write a line into `trace` when a compiler has ended, until the server has."""
    family = Family(server, trace)
    while family.look():
        time.sleep(_LOOK)
    family.end()


class Family:
    """The processes below one, as of the last look."""

    def __init__(self, server: int, trace: str) -> None:
        self._server, self._trace = server, trace
        self._members: dict[int, Status] = {}
        self._working: dict[int, str] = {}  # the compilers among them, with what they work on: "nvcc page.cu"
        self._others: set[int] = set()  # whose parent is none of ours is never looked at again

    def look(self) -> bool:
        """Find who is new, and who has ended; whether the server is still there."""
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._others &= there
        known = _statuses(there & self._members.keys())
        for pid in self._members.keys() - known.keys():
            self._note(pid)
        self._members = known
        self._meet(_statuses(there - self._others - known.keys()))
        for pid in self._members.keys() - self._working.keys() - {self._server}:
            self._see(pid)  # it may have been forked, and become a compiler since
        return self._server in self._members

    def _meet(self, new: dict[int, Status]) -> None:
        """Take in those below; parents are older than their children."""
        for pid, status in sorted(new.items(), key=lambda one: (one[1].start, one[0])):
            if pid == self._server or status.parent in self._members:
                self._members[pid] = status
            else:
                self._others.add(pid)

    def _see(self, pid: int) -> None:
        name = _compiler(pid, self._members[pid])
        if name:
            self._working[pid] = name

    def end(self) -> None:
        """Note those that still run, and that the server doesn't: one that was killed can't say so."""
        for pid in list(self._members):
            self._note(pid)
        fitasks_lines.write(self._trace, "server", "server", "ended", pid=self._server)

    def _note(self, pid: int) -> None:
        name = self._working.pop(pid, "")
        if name:
            seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - self._members[pid].start
            fitasks_lines.write(self._trace, name, "compiler", "ran", seconds=seconds, pid=pid)


def _compiler(pid: int, status: Status) -> str:
    """What a compiler works on; "" of others, and of a fork that has executed nothing: its command is its parent's."""
    words = _words(pid)
    name = fitasks_compilers.name_of(words, status.name)
    if not name or words == _words(status.parent):
        return ""
    try:
        work = fitasks_compilers.work_of(name, words, os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return ""
    return f"{name} {work}" if work else ""


def _words(pid: int) -> list[str]:
    return _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")


def _statuses(pids: Iterable[int]) -> dict[int, Status]:
    """Of those that live."""
    found = {pid: _status(_read(f"/proc/{pid}/stat")) for pid in pids}
    return {pid: status for pid, status in found.items() if status}


def _status(text: str) -> Status | None:
    """None of a process that has ended."""
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return Status(name, int(fields[1]), int(fields[19]) / _TICKS)


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
