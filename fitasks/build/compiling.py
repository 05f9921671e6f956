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

from fitasks.build import ninja as ninjas
from fitasks.build import parts
from fitasks.build.diagnose import diagnose
from fitasks.build.schedule import Turn
from fitasks.errors import KernelFailure
from fitasks.processes import process, sessions
from fitasks.processes.process import Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fitasks.build.ninja import Edge
    from fitasks.build.running import Runner
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
    """`announce` is called when the first compiler has a slot; `seconds` are those of CPU, by source file."""

    runner: Runner
    kernel: Kernel
    announce: Callable[[], None]
    scratch: Path  # for the compilers' temporary files
    place: Path  # for the ninjas' logs
    seconds: dict[str, float] = field(default_factory=dict)
    _runs: list[Finished] = field(default_factory=list)
    _failure: Finished | None = None  # the first
    _killed: bool = False  # for want of memory
    _linked: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)  # names of files: an object's may be 255 long
    _clock: _Clock = field(default_factory=_Clock)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Finished:
        """To the end, or to the first failure; what was killed for want of memory is compiled once more, alone."""
        pool = self.runner.pool
        self._side_by_side(self._unfinished())
        if self._killed and not sessions.stopping():
            self.runner.say(f"kernel:{self.kernel.label}: a compiler was killed for want of memory; again, alone")
            self._failure = None
            with pool.alone(sessions.stopping) as alone:
                for edge in self._unfinished() if alone else ():
                    self._compile(edge, Turn(0.0))
        if not self._stopping():
            with pool.slot(_FIRST, stopping=sessions.stopping) as slot:
                if slot:
                    self._link()
        return self._total()

    def _unfinished(self) -> list[Edge]:
        try:
            edges = ninjas.unfinished(self.runner.ninja, self.kernel.build_dir, self.kernel.ninja_file)
        except ValueError as error:
            raise KernelFailure(f"{self.kernel.label}: {error}") from None
        return [edge for edge in edges if edge.output != str(self.kernel.library)]

    def _side_by_side(self, edges: list[Edge]) -> None:
        """Each in a thread that waits for its turn; after a failure no further one is begun."""
        with ThreadPoolExecutor(max(1, len(edges)), self.kernel.label) as threads, self._giving_up():
            list(threads.map(self._in_turn, edges))

    def _in_turn(self, edge: Edge) -> None:
        turn = self.runner.schedule.turn(self.kernel.label, Path(edge.source).name)
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

    def _compile(self, edge: Edge, turn: Turn) -> None:
        if self._stopping():
            return
        part = self.place / str(next(self._numbers))
        command = parts.command(self.runner.ninja, self.kernel, edge, part)
        finished = self._ninja(command, edge.output, turn.threads)
        if finished.status == 0:
            with self._lock:
                parts.add_logs(self.kernel, part)
                self.seconds[Path(edge.source).name] = finished.cpu_seconds

    def _link(self) -> None:
        """By a ninja of the whole kernel, which looks at everything once more."""
        command = self.runner.ninja.command(self.kernel.build_dir, self.kernel.ninja_file)
        self._linked = self._ninja([*command, "-j", "1"], str(self.kernel.library)).status == 0

    def _ninja(self, command: list[str], output: str, threads: int = 1) -> Finished:
        env = self.runner.plan.environment(self.kernel.target)
        env |= split_variables(env, threads) | {"TMPDIR": str(self.scratch)}
        env.pop("MAKEFLAGS", None)  # of a make above us, whose tokens are our business
        name = Path(output).name
        log = self.scratch / f"{next(self._numbers)}.log"
        begin = time.time()
        with self._timed():
            left = max(0.1, self.runner.timeout - self._clock.seconds) if self.runner.timeout else None
            finished = process.run(command, cwd=self.kernel.build_dir, env=env, log=log, timeout=left)
        if finished.status == 0:
            times = {"begin": begin, "end": begin + finished.seconds}
            self.runner.journal.write("file", **times, label=self.kernel.label, output=name)
        self._note(finished, log.read_bytes())
        return finished

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        with self._lock:
            if not self._clock.begun:
                self.announce()
            self._clock.start()
        try:
            yield
        finally:
            with self._lock:
                self._clock.stop()

    def _note(self, finished: Finished, said: bytes) -> None:
        with self._lock:
            with self.runner.log(self.kernel).open("ab") as stream:
                stream.write(said)
            self._runs.append(finished)
            if finished.status or finished.timed_out:
                self._failure = self._failure or finished
                self._killed |= _was_killed(finished, said.decode(errors="replace"))

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


def _was_killed(finished: Finished, said: str) -> bool:
    if not finished.status or finished.timed_out or finished.stopped:
        return False
    return diagnose(said, finished.status).out_of_memory
