"""Trace lines → what a server asked for, one record per module, over all its processes.

A line is what `fitasks.record` writes: {"version": 1, "name", "generator", "arguments", "unsaid", "kind", "how",
"seconds", "time", "pid", "rank", "flashinfer", "architectures"}. A line that a killed process left torn is skipped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = 1
_NEVER_LOADED = frozenset({"generated"})


@dataclass(frozen=True)
class Requested:
    """One module that a server generated. `generator` is "" where only the name is known (see names.py)."""

    name: str
    generator: str = ""  # "flashinfer.jit.page:gen_page_module"
    arguments: dict[str, Any] = field(default_factory=dict)
    unsaid: str = ""  # why kernels.yaml has no way to say the arguments
    kind: str = "nvcc"  # nvcc, cute-dsl, other
    how: frozenset[str] = frozenset()  # ahead-of-time, cached, compiled, failed, generated
    seconds: float = 0.0  # the longest that one process waited
    processes: frozenset[int] = frozenset()
    flashinfer: str = ""
    architectures: str = ""  # "90a"; "" where it isn't known
    place: str = ""  # the first line that says it: "trace.jsonl:3"

    @property
    def loaded(self) -> bool:
        """Whether any process wanted to use it, and not only described it."""
        return not self.how or bool(self.how - _NEVER_LOADED)


@dataclass(frozen=True)
class Trace:
    """`skipped` counts lines that are no trace lines: torn, or of another version."""

    requested: tuple[Requested, ...]
    skipped: int = 0


def read_trace(lines: Iterable[str]) -> Trace:
    """Every request, merged over processes, in the order of first appearance."""
    merged: dict[str, Requested] = {}
    skipped = 0
    for line in filter(None, map(str.strip, lines)):
        one = parse(line)
        if one is None:
            skipped += 1
            continue
        key = identity(one)
        merged[key] = together(merged[key], one) if key in merged else one
    return Trace(tuple(merged.values()), skipped)


def parse(line: str, place: str = "") -> Requested | None:
    """One line's request; None for anything else. `place` is where the line stands."""
    try:
        data = json.loads(line)
        return replace(_requested(data), place=place) if data["version"] == VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _requested(data: dict[str, Any]) -> Requested:
    return Requested(
        name=str(data["name"]),
        generator=str(data.get("generator") or ""),
        arguments=dict(data.get("arguments") or {}),
        unsaid=str(data.get("unsaid") or ""),
        kind=str(data.get("kind") or "other"),
        how=frozenset({str(data["how"])}),
        seconds=float(data.get("seconds") or 0.0),
        processes=frozenset({int(data["pid"])}),
        flashinfer=str(data.get("flashinfer") or ""),
        architectures=str(data.get("architectures") or ""),
    )


def identity(one: Requested) -> str:
    """Equal for requests of the very same module."""
    said = (one.name, one.generator, one.arguments, one.unsaid, one.flashinfer, one.architectures)
    return json.dumps(said, sort_keys=True)


def together(one: Requested, other: Requested) -> Requested:
    """Two requests of the same module as one."""
    return replace(
        one,
        how=one.how | other.how,
        seconds=max(one.seconds, other.seconds),
        processes=one.processes | other.processes,
    )
