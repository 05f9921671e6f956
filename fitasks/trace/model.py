"""Trace lines → what a server asked for, one record per module, over all its processes.

A line is what `fitasks.record` writes, of other toolchains than FlashInfer's, too (toolchains.py): {"version": 1,
"name", "generator", "arguments", "unsaid", "kind", "how", "seconds", "time", "pid", "rank", "flashinfer",
"architectures"}. A line that a killed process left torn is skipped. Each wait that may be long begins with a
line of its own, so that one which never ended is known (unfinished.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from fitasks.base.border import is_name, number, parse_json
from fitasks.base.errors import BadInput

VERSION = 1
RAN = "ran"  # a compiler's process, from its beginning to its end
GENERATED, STARTED, SERVER_ENDED = "generated", "started", "ended"
BEGUN, OVER = "begun", "over"  # a wait, which is over by any line of its name, or by this one if it was none
UNFINISHED = "unfinished"  # no line's word: it was begun, and its process never told of an end
# A compiler is no module, nor is a server.
_NEVER_LOADED = frozenset({GENERATED, STARTED, RAN, "answering", SERVER_ENDED, BEGUN, OVER})
_ENDED = frozenset({"compiled", "failed", RAN, "answering"})
_MOST_PROCESSES = 1024  # that are told apart; a set that grows with every line costs the square of their number
_GPU = re.compile(r"cuda:[0-9]{1,3}")
_LONGEST_WORD = 1000  # characters; a module's name becomes a directory's, of at most 255


@dataclass(frozen=True)
class Requested:
    """One module that a server generated. `generator` is "" where only the name is known (see names.py)."""

    name: str
    generator: str = ""  # "flashinfer.jit.page:gen_page_module"
    arguments: dict[str, Any] = field(default_factory=dict)
    unsaid: str = ""  # why kernels.yaml has no way to say the arguments
    kind: str = "nvcc"  # the toolchain, see toolchains.py
    # ahead-of-time, cached, compiled, failed, generated, begun, over, unfinished; started, ran; answering, ended
    how: frozenset[str] = frozenset()
    seconds: float = 0.0  # the longest that one process waited
    times: int = 1  # how many lines say it
    total: float = 0.0  # seconds of all lines
    processes: frozenset[int] = frozenset()
    flashinfer: str = ""
    architectures: str = ""  # "90a"; "" where it isn't known
    place: str = ""  # the first line that says it: "trace.jsonl:3"
    time: float = 0.0  # of its first line, in seconds since 1970; 0 where that isn't known
    ended: float = 0.0  # when a process was last done compiling it, in seconds since 1970; 0 where that isn't known
    left: float = 0.0  # seconds that a process had waited when its server ended; 0 where that isn't known
    late: bool = False  # whether its server was already answering then

    @property
    def compiled(self) -> bool:
        """Whether any process compiled it, or tried."""
        return not self.how.isdisjoint({"compiled", "failed"})

    @property
    def unused(self) -> bool:
        """Whether every process only described it."""
        return self.how == {GENERATED}

    @property
    def unfinished(self) -> bool:
        """Whether a process began it and never said that it was done with it."""
        return UNFINISHED in self.how

    @property
    def longest(self) -> float:
        """The seconds that one process waited, done with it or not."""
        return max(self.seconds, self.left)

    @property
    def loaded(self) -> bool:
        """Whether any process wanted to use it, and not only described it."""
        return not self.how or bool(self.how - _NEVER_LOADED)


def parse(line: str, place: str = "") -> Requested | None:
    """One line's request; None for anything else. `place` is where the line stands."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        data = parse_json(line, "trace")
        return replace(_requested(data), place=place) if data.get("version") == VERSION else None
    except (BadInput, ValueError, KeyError, TypeError):
        return None


def _requested(data: dict[str, Any]) -> Requested:
    """Raises ValueError, KeyError, TypeError for what no recorder writes."""
    time = float(number(data.get("time") or 0.0))
    return Requested(
        name=_word(data["name"]),
        generator=_word(data.get("generator") or "", empty=True),
        arguments=_arguments(dict(data.get("arguments") or {})),
        unsaid=_sentence(data.get("unsaid") or ""),
        kind=_word(data.get("kind") or "other"),
        how=frozenset({_word(data["how"])}),
        seconds=float(number(data.get("seconds") or 0.0)),
        total=float(number(data.get("seconds") or 0.0)),
        processes=frozenset({_whole(data["pid"])}),
        flashinfer=_word(data.get("flashinfer") or "", empty=True),
        architectures=_word(data.get("architectures") or "", empty=True),
        time=time,
        ended=time if data["how"] in _ENDED else 0.0,
    )


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """A process's GPU is any GPU: kernels don't depend on its number, and each process of a server has another."""
    return {
        name: "cuda" if isinstance(value, str) and _GPU.fullmatch(value) else value for name, value in given.items()
    }


def _word(value: object, *, empty: bool = False) -> str:
    """Text on one line that a terminal shows as it is."""
    if not (is_name(value, _LONGEST_WORD) or (empty and value == "")):
        raise ValueError
    return str(value)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return int(number(value))


def _sentence(value: object) -> str:
    """Any text, on one line."""
    if not isinstance(value, str):
        raise TypeError
    return (value if value.isprintable() else repr(value))[:_LONGEST_WORD]


def identity(one: Requested) -> str:
    """Equal for requests of the very same module."""
    said = (one.name, one.generator, one.arguments, one.unsaid, one.flashinfer, one.architectures, RAN in one.how)
    return json.dumps(said, sort_keys=True)


def together(one: Requested, other: Requested) -> Requested:
    """Two requests of the same module as one."""
    return replace(
        one,
        how=one.how | other.how,
        seconds=max(one.seconds, other.seconds),
        times=one.times + other.times,
        total=one.total + other.total,
        processes=one.processes | other.processes if len(one.processes) < _MOST_PROCESSES else one.processes,
        ended=max(one.ended, other.ended),
        left=max(one.left, other.left),
        late=one.late or other.late,
    )
