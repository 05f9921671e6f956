"""Where a run stands: kept up to date by the journal's events, asked by whoever shows it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fitasks.ui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.build.usage import Usage


@dataclass
class Work:
    """One kernel that is stale: `files` to compile, of which `done` are; `begun` in Unix seconds, 0 before."""

    label: str
    files: int
    cpu_seconds: float  # that it took before
    learnt: bool  # whether that is known
    begun: float = 0.0
    ended: bool = False
    done: int = 0

    @property
    def left(self) -> float:
        """CPU seconds that are left of it, as far as earlier builds tell."""
        return 0.0 if self.ended else self.cpu_seconds * (1 - min(self.done, self.files) / max(1, self.files))


@dataclass
class Progress:
    """`files_done` gives the number of compiled files of a kernel, `usage` what compilers use; both ask the system."""

    files_done: Callable[[str], int]
    usage: Callable[[], Usage]
    slots: int = 0
    begun: float = 0.0
    foretold: float = 0.0  # seconds that the run takes, by the schedule; 0 where that isn't known
    works: dict[str, Work] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def observe(self, event: dict[str, Any]) -> None:
        """One event of the journal; from any thread."""
        with self._lock:
            if event["event"] == "run":
                self.slots, self.begun = event["slots"], event["t"]
                self.foretold = event.get("expected", 0.0)
                self.works = {one["label"]: Work(**one) for one in event["kernels"]}
            elif event["event"] == "begin":
                unknown = Work(event["label"], event["files"], 0.0, learnt=False)
                self.works.setdefault(event["label"], unknown).begun = event["t"]
            elif event["event"] == "end" and event["label"] in self.works:
                self.works[event["label"]].ended = True

    def running(self) -> list[Work]:
        """Kernels that are being compiled, longest first, with the files that are done by now."""
        with self._lock:
            works = [work for work in self.works.values() if work.begun and not work.ended]
            for work in works:
                work.done = min(self.files_done(work.label), work.files)
            return sorted(works, key=lambda work: work.begun)

    def summary(self) -> str:
        """`3 of 7 kernels, 31 of 57 files, 2 of 2 compilers, 4.1 GB, 2 m 10 s, about 5 m left`, in plain ASCII."""
        self.running()
        with self._lock:
            works = list(self.works.values())
            used = self.usage()
        files = sum(work.files if work.ended else work.done for work in works)
        parts = [
            f"{sum(work.ended for work in works)} of {len(works)} kernels",
            f"{files} of {sum(work.files for work in works)} files",
            f"{used.compilers} of {self.slots} compilers",
            size(used.memory),
            duration(time.time() - self.begun),
        ]
        return ", ".join([*parts, *self._remaining(works)])

    def _remaining(self, works: list[Work]) -> list[str]:
        """From what earlier builds took, and the schedule; nothing where some kernel was never built here."""
        pending = [work for work in works if not work.ended]
        if not pending or not all(work.learnt for work in pending):
            return []
        even = sum(work.left for work in pending) / max(1, self.slots)
        return [f"about {duration(max(even, self.begun + self.foretold - time.time()))} left"]

    def heartbeat(self) -> str:
        """One line for a log: the summary, and what is being compiled for how long."""
        now = time.time()
        works = [f"{work.label} {work.done}/{work.files} ({duration(now - work.begun)})" for work in self.running()]
        return f"still compiling: {', '.join(works)}; {self.summary()}" if works else ""
