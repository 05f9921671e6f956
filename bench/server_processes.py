"""Runs a command and counts the processes of compilers below it, by name and module.

How: this process becomes the subreaper of all below it (prctl), so that no descendant gets out of sight when its
parent dies, and it looks through /proc every 2 ms (0.2 ms of work). A process is counted once for each compiler that it
becomes (a shell that turns into nvcc is nvcc). Nothing is put on PATH and no command is changed, since FlashInfer's and
ninja's hashes are of commands. No privileges are needed, and no tracing, which would slow the server that is measured.

Limits: a process that begins and ends between two looks isn't seen. ninja, nvcc and c++ live as long as what they
start, so that "0" is sound for whatever compiles; the number of small tools is a lower bound (one build of FlashInfer's
page module on two busy cores, held against `strace -f`: all of 2 nvcc, 8 gcc, 8 cc1plus, 2 cicc, 2 cudafe++, 2 ptxas,
2 fatbinary, c++, collect2, ld and ninja, and 2 of 3 questions). What Python itself starts, fitasks' recorder hears in
each Python process, however short it is (an audit hook): `unseen` compares. Told apart, since they compile nothing:
questions (--version), and a ninja that started nothing; FlashInfer has ninja look at each cached module that it loads.
"""

from __future__ import annotations

import collections
import ctypes
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMPILERS = re.compile(
    r"nvcc|cicc|ptxas|cudafe\+\+|fatbinary|nvlink|ninja|cc1plus|cc1|collect2|"
    r"([\w.]+-)*(c\+\+|cc|g\+\+|gcc|clang(\+\+)?)(-\d+)?|ld|ld\.\w+"
)
_QUESTIONS = {"--version", "-V", "-dumpversion", "-dumpmachine", "-dumpfullversion"}
_TOOLCHAINS = {"/triton/": "triton", "torchinductor": "inductor"}  # in a command → where a directory tells nothing
_LOOK = 0.002  # seconds
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_GRACE = 5.0  # seconds for what the server leaves behind to end by itself


@dataclass(frozen=True)
class Compiler:
    """One process that was a compiler."""

    name: str
    module: str  # what it compiled: the directory of its ninja, or its own
    time: float  # of the look that found it
    question: bool = False  # asked for its version
    idle: bool = False  # a ninja that found nothing to do


@dataclass
class _Member:
    comm: str = ""
    words: list[str] = field(default_factory=list)
    parent: int = 0
    module: str = ""
    known_as: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Ran:
    """What became of a command. `status` is None where it was ended at its time limit."""

    status: int | None
    seconds: float
    compilers: tuple[Compiler, ...]
    left: tuple[str, ...] = ()  # what it left running, which was killed


class Family:
    """The processes below this one, as of the last look."""

    def __init__(self) -> None:
        self._found: list[tuple[Compiler, int]] = []
        self._busy: set[int] = set()  # those that have started a compiler
        self._members: dict[int, _Member] = {}
        self._others = _there() - {os.getpid()}

    def look(self) -> None:
        """Find who is new, and who has become a compiler."""
        there = _there()
        self._others &= there
        for pid in sorted(there - self._others - self._members.keys() - {os.getpid()}):
            self._meet(pid)
        for pid in [pid for pid in self._members if pid not in there]:
            del self._members[pid]
        for pid, member in self._members.items():
            self._see(pid, member)

    def compilers(self) -> tuple[Compiler, ...]:
        """All that were found; of a ninja it is known now whether it started anything."""
        return tuple(
            replace(one, idle=one.name == "ninja" and pid not in self._busy and not one.question)
            for one, pid in self._found
        )

    def alive(self) -> dict[int, str]:
        """Those below that still run, with their names."""
        self.look()
        states = {pid: _stat(pid) for pid in self._members}
        return {pid: stat[0] for pid, stat in states.items() if stat and stat[1] not in "ZX"}

    def _meet(self, pid: int) -> None:
        """Ours if its parent, or whoever that one's is, is. A parent that died has left it to us."""
        chain: list[tuple[int, int]] = []
        while pid not in self._members and pid not in self._others and pid != os.getpid():
            stat = _stat(pid)
            if stat is None:
                return
            chain.append((pid, stat[2]))
            pid = stat[2]
        if pid in self._others:
            self._others.update(one for one, _ in chain)
            return
        for one, parent in reversed(chain):
            self._members[one] = _Member(parent=parent)
            self._members[one].module = self._inherited(self._members[one])

    def _inherited(self, member: _Member) -> str:
        """The nearest module above it; what an ancestor that has died was compiling was taken over when it was met."""
        while not member.module and member.parent in self._members:
            member = self._members[member.parent]
        return member.module

    def _see(self, pid: int, member: _Member) -> None:
        """Note the compiler that it is. A fork that has executed nothing yet has its parent's command."""
        stat, parent = _stat(pid), self._words_of(member.parent)
        if stat is None or (stat[0] == member.comm and member.words not in ([], parent)):
            return
        words, after = _words(pid), _stat(pid)
        if after is None or after[0] != stat[0]:
            return  # it has just executed something; the next look sees what
        member.comm, member.words = stat[0], words
        name = compiler_name(member.comm, member.words)
        # The parent's are read anew: nvcc writes into its own arguments, which a fork of it then has as well.
        if (
            name
            and name not in member.known_as
            and member.words
            and member.words not in (parent, _words(member.parent))
        ):
            self._note(pid, member, name)

    def _words_of(self, pid: int) -> list[str]:
        known = self._members.get(pid)
        return (known.words or _words(pid)) if known else []

    def _note(self, pid: int, member: _Member, name: str) -> None:
        member.known_as.add(name)
        member.module = module_of(name, member.words, _directory(pid), self._inherited(member))
        question = not _QUESTIONS.isdisjoint(member.words)
        self._found.append((Compiler(name, member.module, time.time(), question), pid))
        self._busy.update(self._above(member))

    def _above(self, member: _Member) -> Iterator[int]:
        while member.parent in self._members:
            yield member.parent
            member = self._members[member.parent]


def compiler_name(comm: str, words: Sequence[str]) -> str:
    """The compiler that a process is: its first word or, of a script, what the kernel calls it; "" if none."""
    names = [Path(word).name for word in words[:3]]
    called = [*names[:1], *(name for name in names[1:] if name[:15] == comm)]
    return next((name for name in called if COMPILERS.fullmatch(name)), "")


def module_of(name: str, words: Sequence[str], directory: str, inherited: str) -> str:
    """What is compiled: by ninja's file or directory, else as its parent, else by the directory it works in."""
    for mark, toolchain in _TOOLCHAINS.items():
        if any(mark in word for word in words):
            return toolchain
    if name == "ninja":
        file, place = _after("-f", words), _after("-C", words)
        return Path(directory, place, file or "build.ninja").parent.name
    return inherited or Path(directory).name


def _after(flag: str, words: Sequence[str]) -> str:
    return words[words.index(flag) + 1] if flag in words[:-1] else ""


def _there() -> set[int]:
    """All processes; 0 stands for whoever is outside of a container."""
    return {0, *(int(name) for name in os.listdir("/proc") if name.isdigit())}  # noqa: PTH208 - it is done each 2 ms


def _stat(pid: int) -> tuple[str, str, int] | None:
    """Its name, state and parent."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent, *_ = rest.split()
    return name, state, int(parent)


def _words(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return []
    return text.rstrip("\0").split("\0") if text else []


def _directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 - it may be gone
    except OSError:
        return ""


def run(command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path, limit: float) -> Ran:
    """Run it in a session of its own, its output in `log`; nothing of it outlives the call."""
    begin = time.monotonic()
    _be_subreaper(of=True)
    try:
        family = Family()
        server = _start(command, env, cwd, log)
        left: list[str] = []
        try:
            status = _watch(server, family, begin + limit)
            seconds = time.monotonic() - begin
        finally:
            left = _end(server, family)
    finally:
        _be_subreaper(of=False)
    return Ran(status, seconds, family.compilers(), tuple(left) if status is not None else ())


def _start(command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )


def _watch(server: subprocess.Popen[bytes], family: Family, until: float) -> int | None:
    while server.poll() is None:
        if time.monotonic() > until:
            return None
        family.look()
        time.sleep(_LOOK)
    return server.returncode


def _end(server: subprocess.Popen[bytes], family: Family) -> list[str]:
    """Names of those that had to be killed: at once where the server itself still runs, else after a while."""
    until = time.monotonic() + (_GRACE if server.poll() is not None else 0)
    while time.monotonic() < until and family.alive():
        _reap(server)
        time.sleep(_LOOK)
    killed = family.alive()
    while found := family.alive():
        for pid in found:
            _kill(pid)
        _reap(server)
        time.sleep(_LOOK)
    server.wait()
    _reap(server)
    return sorted(killed.values())


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reap(server: subprocess.Popen[bytes]) -> None:
    """Orphans, which are ours now; the server's own status is left to Popen."""
    for pid in _orphans():
        if pid != server.pid:
            _wait(pid)


def _wait(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _orphans() -> Iterator[int]:
    for pid in _there():
        stat = _stat(pid)
        if stat and stat[1] == "Z" and stat[2] == os.getpid():
            yield pid


def _be_subreaper(*, of: bool) -> None:
    """Whether descendants whose parent has died become this process's children, or init's (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, int(of), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def unseen(compilers: Sequence[Compiler], heard: Sequence[str]) -> dict[str, int]:
    """By name, how many more Python started (`heard`, the recorder's) than were seen."""
    seen = collections.Counter(one.name for one in compilers)
    return {name: number - seen[name] for name, number in collections.Counter(heard).items() if number > seen[name]}
