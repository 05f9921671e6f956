"""The last run of a journal, as data. What the lines mean: fitasks/compile/journal.py."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import FitasksError
from fitasks.base.files import regular
from fitasks.ui.report.lanes import FileSpan, assign_lanes

if TYPE_CHECKING:
    from pathlib import Path

_SLACK = 1.0  # seconds by which a file may be outside its run before it is taken for another run's
_LARGEST = 1 << 26  # bytes of a journal; a run of 655 kernels writes less than one
_MOST = 1024  # slots of a file, threads of a compiler, exit statuses
_LATEST = 253_402_300_799  # the last second that a calendar has


@dataclass(frozen=True)
class KernelRun:
    """What a run did with one kernel; times in seconds since the run began.

    `outcome` is the builder's (compiled, adopted, healed, audited, fresh, failed, stopped), or "unfinished" for a
    kernel that was begun and never ended, or "not begun". Adopted, `seconds` is what compiling took where it was done.
    """

    label: str
    op: str = ""
    target: str = ""
    files: int = 0
    why: tuple[str, ...] = ()
    begin: float | None = None  # of compiling
    end: float | None = None
    outcome: str = "not begun"
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all its compilers; 0 where they aren't known
    peak_rss: int = 0  # bytes, of the largest compiler process
    bytes: int = 0  # of the .so
    error: str = ""
    spans: tuple[FileSpan, ...] = ()

    @property
    def worked(self) -> bool:
        """Whether compilers were started for it in this run."""
        return self.begin is not None

    @property
    def wall(self) -> float:
        """Seconds from its first compiler to its end, so far as they are known."""
        if self.begin is None or self.outcome == "compiled":
            return self.seconds
        last = self.end if self.end is not None else max((span.end for span in self.spans), default=self.begin)
        return last - self.begin

    @property
    def longest(self) -> FileSpan | None:
        """The file that took longest."""
        return max(self.spans, key=lambda span: span.seconds, default=None)


@dataclass(frozen=True)
class RecordedRun:
    """One run of the builder. `begun` is in Unix seconds, `seconds` its length up to the last that is known of it."""

    begun: float
    slots: int
    reason: str  # "2 compilers: 2 cores; memory, …"
    bound: float  # seconds that it would take at least, as far as was known
    expected: float  # seconds that it would take; 0 where that wasn't said
    seconds: float
    kernels: tuple[KernelRun, ...]  # as they began, then the others

    @property
    def spans(self) -> tuple[FileSpan, ...]:
        """Every process, by kernel."""
        return tuple(span for kernel in self.kernels for span in kernel.spans)


def last_run(journal: Path) -> RecordedRun:
    """The last run of a journal; torn lines, and lines that aren't ours, are skipped.

    Raises FitasksError where there is none.
    """
    try:
        with regular(journal) as stream:
            lines = stream.read(_LARGEST).decode(errors="replace").split("\n")
    except OSError:
        lines = []
    events = [event for line in lines if (event := _event(line))]
    starts = [index for index, event in enumerate(events) if event["event"] == "run"]
    for start in reversed(starts):
        draft = _Draft()
        if draft.take(events[start]):
            for event in events[start + 1 :]:
                draft.take(event)
            return draft.run()
    raise FitasksError(f"{journal} tells of no run", remedy="run doit first")


@dataclass
class _Draft:
    """A run as far as it has been read."""

    begun: float = 0.0
    last: float = 0.0
    narrowed: int = 0  # slots after the last narrowing
    head: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)  # label → fields of KernelRun
    spans: list[FileSpan] = field(default_factory=list)
    works: set[tuple[str, str, int]] = field(default_factory=set)  # label, output, milliseconds of each span

    def take(self, event: dict[str, Any]) -> bool:
        """Whether it was one of ours."""
        readers = {
            "run": self._run,
            "begin": self._begin,
            "file": self._file,
            "narrowed": self._narrowed,
            "end": self._end,
        }
        reader = readers.get(event["event"])
        try:
            if reader:
                reader(event)
                self.last = max(self.last, self._since(event))
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        return reader is not None

    def run(self) -> RecordedRun:
        """The whole."""
        placed: dict[str, list[FileSpan]] = {label: [] for label in self.kernels}
        for span in assign_lanes(self.spans, self.head["slots"]):
            placed.setdefault(span.label, []).append(span)
        runs = [_kernel_run(label, self.kernels.get(label, {}), tuple(own)) for label, own in placed.items()]
        runs.sort(key=lambda run: math.inf if run.begin is None else run.begin)
        seconds = max([self.last, *(span.end for span in self.spans)])
        return RecordedRun(begun=self.begun, seconds=seconds, kernels=tuple(runs), **self.head)

    def _run(self, event: dict[str, Any]) -> None:
        planned = {_text(one["label"]): {"files": _count(one, "files")} for one in event["kernels"]}
        foretold = {"bound": _number(event, "bound"), "expected": _number(event, "expected", 0.0)}
        head = {"slots": _count(event, "slots"), "reason": _text(event["reason"])} | foretold
        if (begun := _number(event, "t")) > _LATEST:
            raise ValueError
        self.begun, self.head, self.kernels = begun, head, planned

    def _narrowed(self, event: dict[str, Any]) -> None:
        """Told with the reason for the number of slots, which is that of the beginning."""
        slots = _count(event, "slots")
        if slots != self.narrowed:
            self.narrowed = slots
            self.head["reason"] += f"; {slots} at once after a compiler was killed for want of memory"

    def _begin(self, event: dict[str, Any]) -> None:
        """Again, where inputs were edited meanwhile: it began the first time."""
        words = {"op": _text(event["op"]), "target": _text(event["target"])}
        known = self.kernels.get(_text(event["label"]), {})
        begin = known.get("begin", self._since(event))
        why = tuple(_text(reason) for reason in event["why"])
        fields = {**words, "files": _count(event, "files"), "why": why, "begin": begin, "outcome": "unfinished"}
        self._kernel(event).update(fields)

    def _file(self, event: dict[str, Any]) -> None:
        """Not those of an earlier ninja: its lines stay in the log, and are told again at the later one's times."""
        begin, end = _number(event, "begin") - self.begun, _number(event, "end") - self.begun
        if not -_SLACK <= begin <= end <= self._since(event) + _SLACK:
            raise ValueError
        span = FileSpan(
            _text(event["label"]),
            _text(event["output"]),
            max(0.0, begin),
            max(0.0, end),
            slots=_small(event, "slots"),
            threads=_small(event, "threads"),
            status=_status(event),
            cpu_seconds=_number(event, "cpu_seconds", 0.0),
        )
        work = (span.label, span.output, round(1000 * span.seconds))  # ninja logs whole milliseconds
        if work not in self.works:
            self.works.add(work)
            self.spans.append(span)

    def _end(self, event: dict[str, Any]) -> None:
        numbers = {"seconds": _number(event, "seconds", 0.0), "cpu_seconds": _number(event, "cpu_seconds", 0.0)}
        counts = {"peak_rss": _count(event, "peak_rss", 0), "bytes": _count(event, "bytes", 0)}
        words = {"outcome": _text(event["outcome"]), "error": _text(event.get("error", ""))}
        self._kernel(event).update({"end": self._since(event), **numbers, **counts, **words})

    def _since(self, event: dict[str, Any]) -> float:
        return max(0.0, _number(event, "t") - self.begun)

    def _kernel(self, event: dict[str, Any]) -> dict[str, Any]:
        return self.kernels.setdefault(_text(event["label"]), {})


def _kernel_run(label: str, fields: dict[str, Any], spans: tuple[FileSpan, ...]) -> KernelRun:
    """Of one that failed or was stopped nobody has added up the CPU seconds yet."""
    cpu_seconds = fields.get("cpu_seconds") or sum(span.cpu_seconds for span in spans)
    return KernelRun(label, **fields | {"cpu_seconds": cpu_seconds}, spans=spans)


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _number(event: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite, non-negative number. Raises ValueError, KeyError, OverflowError."""
    value = event[key] if default is None else event.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError
    return float(value)


def _count(event: dict[str, Any], key: str, default: int | None = None) -> int:
    return int(_number(event, key, default))


def _small(event: dict[str, Any], key: str) -> int:
    """A number of slots or threads: 1 where journals of old don't say it. Raises ValueError for an absurd one."""
    if not 1 <= (count := _count(event, key, 1)) <= _MOST:
        raise ValueError
    return count


def _status(event: dict[str, Any]) -> int:
    value = event.get("status", 0)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST:
        raise ValueError
    return value


def _text(value: object) -> str:
    """Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError
    return value
