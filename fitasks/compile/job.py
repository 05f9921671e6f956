"""One compile of one kernel: its files side by side in the pool, then the link; time limit, and want of memory."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.compile import begun
from fitasks.compile.failure.diagnose import diagnose
from fitasks.compile.ninja import ninja as ninjas
from fitasks.compile.ninja import parts
from fitasks.compile.pool.capacity import memory
from fitasks.compile.pool.forecast import NICE
from fitasks.compile.pool.schedule import Turn
from fitasks.processes import process, sessions
from fitasks.processes.process import Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fitasks.compile.failure.diagnose import Diagnosis
    from fitasks.compile.ninja.ninja import Edge
    from fitasks.compile.pool.capacity import Memory
    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel

_FIRST = float("inf")  # the weight of a link: it takes a moment, and finishes a kernel
_STOPPED = Finished(-signal.SIGTERM, 0.0, 0.0, 0, stopped=True)


class _Clock:
    """Seconds in which at least one compiler of a kernel was running."""

    def __init__(self) -> None:
        self.begun = False
        self._running = 0
        self._since = self._before = 0.0

    def start(self) -> None:
        self.begun = True
        if not self._running:
            self._since = time.monotonic()
        self._running += 1

    def stop(self) -> None:
        self._running -= 1
        if not self._running:
            self._before += time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        return self._before + (time.monotonic() - self._since if self._running else 0.0)


@dataclass
class Compiling:
    """`announce` is told the number of files when the first has a slot.

    `seconds` are those of CPU, by source file, and `peaks` the bytes of its largest compiler.
    """

    runner: Runner
    kernel: Kernel
    announce: Callable[[int], None]
    scratch: Path  # for the compilers' temporary files
    place: Path  # for the ninjas' logs
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    found: Diagnosis | None = None  # of the first that failed
    alone: Memory | None = None  # what was free before a compiler was tried alone
    _files: int = 0  # to compile
    _runs: list[Finished] = field(default_factory=list)
    _failure: Finished | None = None  # the first
    _killed: list[Edge] = field(default_factory=list)  # for want of memory
    _linked: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)  # names of files: an object's may be 255 long
    _clock: _Clock = field(default_factory=_Clock)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Finished:
        """To the end, or to the first failure; what was killed for want of memory is tried once more, alone."""
        edges = self._unfinished()
        self._files = len(edges)
        self._side_by_side(edges)
        for edge in self._killed:
            with self._alone(Path(edge.source).name) as held:
                if held:
                    self._compile(edge, Turn(0.0), last=True)
        if not self._stopping():
            with self.runner.pool.slot(_FIRST, stopping=sessions.stopping) as slot:
                killed = bool(slot) and self._link(last=False)
            if killed:
                with self._alone(self.kernel.library.name) as held:
                    _ = held and self._link(last=True)
        return self._total()

    def _unfinished(self) -> list[Edge]:
        """The files that are to be compiled, the longest first."""
        try:
            edges = ninjas.unfinished(self.runner.ninja, self.kernel.build_dir, self.kernel.ninja_file)
        except ValueError as error:
            raise KernelFailure(f"{self.kernel.label}: {error}") from None
        compiled = ninjas.compiling(edges, self.kernel.library)
        return sorted(compiled, key=lambda edge: -self._turn(edge).seconds)

    def _turn(self, edge: Edge) -> Turn:
        return self.runner.schedule.turn(self.kernel.label, Path(edge.source).name)

    def _side_by_side(self, edges: list[Edge]) -> None:
        """In as many threads as could have slots at once; after a failure no further one is begun."""
        count = max(1, min(len(edges), self.runner.pool.slots))
        with ThreadPoolExecutor(count, self.kernel.label) as threads, self._giving_up():
            list(threads.map(self._in_turn, edges))

    def _in_turn(self, edge: Edge) -> None:
        turn = self._turn(edge)
        slot = self.runner.pool.slot(turn.seconds, count=turn.slots, stopping=self._stopping)
        with self._giving_up(), slot as held:
            if held:
                self._compile(edge, turn)

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """An exception (a full disk, a signal) ends this compile for all its threads."""
        try:
            yield
        except BaseException:
            self._failure = self._failure or _STOPPED
            raise

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[bool]:
        """For what was killed for want of memory: nothing else of ours runs meanwhile."""
        with self.runner.pool.every_slot(self._stopping) as held:
            if held:
                self.alone = memory()
                self.runner.say(f"kernel:{self.kernel.label}: {what} once more, alone")
            yield held

    def _compile(self, edge: Edge, turn: Turn, *, last: bool = False) -> None:
        if self._stopping():
            return
        part = self.place / str(next(self._numbers))
        command = parts.command(self.runner.ninja, self.kernel, edge, part)
        finished, killed = self._ninja(command, edge.output, turn, last=last)
        with self._lock:
            if killed:
                self._killed.append(edge)
            elif finished.status == 0:
                parts.add_logs(self.kernel, part)
                begun.note_threads(self.kernel, turn.threads)
                name = Path(edge.source).name
                self.seconds[name], self.peaks[name] = finished.cpu_seconds, finished.peak_rss

    def _link(self, *, last: bool) -> bool:
        """By a ninja of the whole kernel, which looks at everything once more; whether it is to be tried again."""
        command = self.runner.ninja.command(self.kernel.build_dir, self.kernel.ninja_file)
        finished, killed = self._ninja([*command, "-j", "1"], str(self.kernel.library), Turn(0.0), last=last)
        self._linked = finished.status == 0
        return killed

    def _ninja(self, command: list[str], output: str, turn: Turn, *, last: bool) -> tuple[Finished, bool]:
        """How it ended, and whether it was killed for want of memory and isn't the `last` try."""
        env = self.runner.plan.environment(self.kernel.target)
        env |= split_variables(env, turn.threads) | link_variables(env, self.kernel) | {"TMPDIR": str(self.scratch)}
        env.pop("MAKEFLAGS", None)  # of a make above us, whose tokens are our business
        log = self.scratch / f"{next(self._numbers)}.log"
        begin, begun_at = time.time(), time.monotonic()
        with self._timed():
            left = max(0.1, self.runner.timeout - self._clock.seconds) if self.runner.timeout else None
            finished = process.run(
                command,
                cwd=self.kernel.build_dir,
                env=env,
                log=log,
                timeout=left,
                nice=NICE if turn.patient else 0,
            )
        span = {"begin": begin, "end": begin + finished.seconds, "cpu_seconds": round(finished.cpu_seconds, 3)}
        place = {"label": self.kernel.label, "output": Path(output).name}
        how = {"status": finished.status, "threads": turn.threads, "slots": turn.slots}
        self.runner.journal.write("file", **span, **place, **how)
        return finished, self._note(finished, Path(output).name, log.read_bytes(), begun_at, last=last)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        with self._lock:
            if not self._clock.begun:
                self.announce(self._files)
            self._clock.start()
        try:
            yield
        finally:
            with self._lock:
                self._clock.stop()

    def _note(self, finished: Finished, name: str, said: bytes, begun_at: float, *, last: bool) -> bool:
        """What was said, and a failure, which is told at once; whether this was want of memory, to be tried again."""
        found = _diagnosed(finished, said)
        with self._lock:
            with self.runner.log(self.kernel).open("ab") as stream:
                stream.write(said)
            self._runs.append(finished)
            if not finished.status and not finished.timed_out:
                return False
            if found and found.out_of_memory and not last:
                slots = self.runner.pool.narrow(begun_at)
                self.runner.journal.write("narrowed", slots=slots)
                tell = f"{name} was killed for want of memory; from now on {slots} at once"
                self.runner.say(f"kernel:{self.kernel.label}: {tell}")
                return True
            if self._failure is None:
                self._failure, self.found = finished, found
                if found:
                    self.runner.say(f"kernel:{self.kernel.label}: {found.first_error}")
            return False

    def _stopping(self) -> bool:
        return self._failure is not None or sessions.stopping()

    def _total(self) -> Finished:
        """Of all that was run; status, and why, of the first failure."""
        how = self._failure or (Finished(0, 0.0, 0.0, 0) if self._linked else _STOPPED)
        cpu_seconds = sum(run.cpu_seconds for run in self._runs)
        peak_rss = max((run.peak_rss for run in self._runs), default=0)
        return Finished(how.status, self._clock.seconds, cpu_seconds, peak_rss, how.timed_out, how.stopped)


def split_variables(env: Mapping[str, str], threads: int) -> dict[str, str]:
    """What makes nvcc optimise one file with several threads, beside what the user appends already."""
    if threads < 2:
        return {}
    return {"NVCC_APPEND_FLAGS": f"{env.get('NVCC_APPEND_FLAGS', '')} --split-compile={threads}".strip()}


def link_variables(env: Mapping[str, str], kernel: Kernel) -> dict[str, str]:
    """What leads the linker to the toolkit's stubs of the driver where tvm-ffi's flags, unlike FlashInfer's, don't."""
    if not kernel.by_tvm_ffi:
        return {}
    return {"LIBRARY_PATH": ":".join(filter(None, [env.get("LIBRARY_PATH"), f"{env['CUDA_HOME']}/lib64/stubs"]))}


def _diagnosed(finished: Finished, said: bytes) -> Diagnosis | None:
    """Why it failed by itself; None where it didn't, or was ended by us."""
    if not finished.status or finished.timed_out or finished.stopped:
        return None
    return diagnose(said.decode(errors="replace"), finished.status)
