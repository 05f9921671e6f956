"""Where a run stands: kept up to date by the journal's events, asked by whoever shows it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fitasks.base.wording import counted
from fitasks.ui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.compile.pool.usage import Usage


_UNDONE = ("failed", "stopped")  # outcomes


@dataclass
class KernelProgress:
    """One kernel that is stale: its `files`, of which `done` are compiled; `begun` in Unix seconds, 0 before."""

    label: str
    files: int
    cpu_seconds: float  # that those that aren't kept took before
    learnt: bool  # whether that is known
    kept: int = 0  # files whose objects were there before
    begun: float = 0.0
    outcome: str = ""  # of the builder, once it has ended
    done: int = 0

    def __post_init__(self) -> None:
        self.done = self.kept

    @property
    def right(self) -> bool:
        """Whether it is done, which an end alone doesn't say."""
        return bool(self.outcome) and self.outcome not in _UNDONE

    @property
    def left(self) -> float:
        """CPU seconds that are left of it, as far as earlier builds tell."""
        left = (self.files - self.done) / max(1, self.files - self.kept)
        return 0.0 if self.outcome else self.cpu_seconds * min(1.0, max(0.0, left))


@dataclass
class Progress:
    """`files_done` gives the number of compiled files of a kernel, `usage` what compilers use; both ask the system."""

    files_done: Callable[[str], int]
    usage: Callable[[], Usage]
    slots: int = 0
    begun: float = 0.0
    foretold: float = 0.0  # seconds that the run takes, by the schedule; 0 where that isn't known
    works: dict[str, KernelProgress] = field(default_factory=dict)
    wanted: frozenset[str] | None = None  # labels of the kernels that were asked for; None is all
    untouched: int = 0  # of them, those for which nothing was to be done
    _outcomes: dict[str, str] = field(default_factory=dict)  # also of kernels that weren't stale
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def observe(self, event: dict[str, Any]) -> None:
        """One event of the journal; from any thread."""
        with self._lock:
            if event["event"] == "run":
                self.slots, self.begun = event["slots"], event["t"]
                self.foretold = event.get("expected", 0.0)
                self.works = {one["label"]: KernelProgress(**one) for one in event["kernels"]}
            elif event["event"] == "begin":
                unknown = KernelProgress(event["label"], event["files"], 0.0, learnt=False)
                self.works.setdefault(event["label"], unknown).begun = event["t"]
            elif event["event"] == "narrowed":
                self.slots = event["slots"]
            elif event["event"] == "end":
                self._end(event["label"], event["outcome"])

    def _end(self, label: str, outcome: str) -> None:
        self._outcomes[label] = outcome
        if work := self.works.get(label):
            work.outcome = outcome
            if work.right:
                work.done = work.files
            elif work.begun:
                work.done = min(self.files_done(label), work.files)

    def running(self) -> list[KernelProgress]:
        """Kernels that are being compiled, longest first, with the files that are done by now."""
        with self._lock:
            works = [work for work in self.works.values() if work.begun and not work.outcome]
            for work in works:
                work.done = min(self.files_done(work.label), work.files)
            return sorted(works, key=lambda work: work.begun)

    def summary(self) -> str:
        """`3 of 7 kernels, 31 of 57 files, 2 of 2 compilers, 4.1 GB, 2 m 10 s, about 5 m left`, in plain ASCII."""
        self.running()
        with self._lock:
            works = list(self.works.values())
            used = self.usage()
        failed = sum(work.outcome == "failed" for work in works)
        parts = [
            f"{sum(work.right for work in works)} of {counted(len(works), 'kernel')}",
            *([f"{failed} failed"] if failed else []),
            f"{sum(work.done for work in works)} of {counted(sum(work.files for work in works), 'file')}",
            f"{used.compilers} of {counted(self.slots, 'compiler')}",
            size(used.memory),
            duration(time.time() - self.begun),
        ]
        return ", ".join([*parts, *self._remaining(works)])

    def _remaining(self, works: list[KernelProgress]) -> list[str]:
        """From what earlier builds took, and the schedule; nothing where some kernel was never built here."""
        pending = [work for work in works if not work.outcome]
        if not pending or not all(work.learnt for work in pending):
            return []
        even = sum(work.left for work in pending) / max(1, self.slots)
        return [f"about {duration(max(even, self.begun + self.foretold - time.time()))} left"]

    def status(self) -> str:
        """`1 of 3 kernels done, 1 stopped`: after a stop, of all that were asked for; the third had not begun."""
        with self._lock:
            outcomes = self._outcomes | {label: "stopped" for label, work in self.works.items() if not work.outcome}
            begun = {label for label, work in self.works.items() if work.begun}
        counts = Counter(outcome for label, outcome in outcomes.items() if outcome != "stopped" or label in begun)
        done = self.untouched + counts.total() - sum(counts[one] for one in _UNDONE)
        count = self.untouched + len(outcomes) if self.wanted is None else len(self.wanted)
        undone = [f"{counts[one]} {one}" for one in _UNDONE if counts[one]]
        return ", ".join([f"{done} of {counted(count, 'kernel')} done", *undone])

    def heartbeat(self) -> str:
        """One line for a log: the summary, and what is being compiled for how long."""
        now = time.time()
        works = [f"{work.label} {work.done}/{work.files} ({duration(now - work.begun)})" for work in self.running()]
        return f"still compiling: {', '.join(works)}; {self.summary()}" if works else ""
