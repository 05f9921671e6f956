"""What bench/server.py makes of a server's steps, processes and trace: rows as JSON, and their tables in Markdown."""

from __future__ import annotations

import collections
import json
import re
from typing import TYPE_CHECKING, Any

from bench.server_engines import KINDS
from bench.server_processes import unseen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.server_processes import Compiler

    Row = Mapping[str, Any]

STARTING, ANSWERING = "starting", "answering"
_COMPILED, _FOUND = {"compiled", "failed"}, {"cached", "ahead-of-time"}
_SAYS = {"ahead-of-time": _FOUND, "cached": _FOUND, "would compile": _COMPILED, "outdated": _FOUND}


# Rows.


def compilers(found: Iterable[Compiler], up: float, heard_of: Sequence[str]) -> list[dict[str, Any]]:
    """How many of each name, module and time: the engine was up at `up`. Questions (--version) aren't counted.

    A ninja that was too short to be seen has compiled nothing.
    """
    real = [one for one in found if not one.question]
    counted = collections.Counter((_when(one.time, up), one.module, one.name, one.idle) for one in real)
    for name, number in unseen(real, heard_of).items():
        counted["", "(too short to be seen)", name, name == "ninja"] += number
    return [
        {"when": when, "module": module, "name": name, "idle": idle, "number": number}
        for (when, module, name, idle), number in sorted(counted.items())
    ]


def compiled(row: Row) -> list[Row]:
    """What of a row's compilers was more than a ninja with nothing to do."""
    return [one for one in row["compilers"] if not one["idle"]]


def _when(time: float, up: float) -> str:
    return STARTING if time < up else ANSWERING


def heard(trace: Iterable[Row]) -> list[str]:
    """The compilers that Python itself started, by the recorder's lines ("ninja 90a")."""
    compilers = (line for line in trace if line.get("kind") == "compiler")
    return [str(line["name"]).split()[0] for line in compilers if line.get("how") != "ran"]


def modules(trace: Iterable[Row]) -> dict[str, dict[str, float]]:
    """kind → name → seconds of each module that was compiled; "found" counts those that were there."""
    told: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for line in trace:
        if line.get("how") in _COMPILED:
            told[str(line["kind"])][str(line["name"])] = float(line.get("seconds") or 0)
    found = {(line["kind"], line["name"]) for line in trace if line.get("how") in _FOUND}
    for kind, number in collections.Counter(kind for kind, _ in found).items():
        told[str(kind)]["found"] = number
    return dict(told)


def foretold(checked: Path, trace: Path) -> dict[str, list[str]]:
    """Modules that the server asked for, by whether check had said so: right, wrong, unknown, not planned."""
    said = json.loads(checked.read_text())["kernels"] if checked.exists() else []
    told: dict[str, list[str]] = collections.defaultdict(list)
    for name, how in _asked(trace).items():
        states = {kernel["state"] for kernel in said if _is_named(kernel["name"], name)}
        told[_verdict(states, how)].append(name)
    return dict(told)


def _asked(trace: Path) -> dict[str, set[str]]:
    asked: dict[str, set[str]] = collections.defaultdict(set)
    for line in trace.read_text().splitlines() if trace.exists() else ():
        record = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if record.get("how") in _COMPILED | _FOUND and record["kind"] in {"nvcc", "sglang-jit", "cute-dsl"}:
            asked[record["name"]].add(record["how"])
    return asked


def _is_named(planned: str, asked: str) -> bool:
    """A trace has SGLang's modules without the hash of their sources that their names end with."""
    return planned == asked or re.fullmatch(re.escape(asked) + "_[0-9a-f]{8,}", planned) is not None


def _verdict(states: set[str], how: set[str]) -> str:
    if not states:
        return "not planned"
    if not states <= _SAYS.keys():
        return "unknown"
    return "right" if all(not how.isdisjoint(_SAYS[state]) and how <= _SAYS[state] for state in states) else "wrong"


def latest(results: Path, ways: Sequence[str]) -> list[dict[str, Any]]:
    """The last row of each engine and way, in the ways' order."""
    lines = results.read_text().splitlines() if results.exists() else []
    rows = {(row["engine"], row["way"]): row for row in map(json.loads, lines)}
    return sorted(rows.values(), key=lambda row: (row["engine"], ways.index(row["way"])))


# Tables.


def tables(rows: Sequence[Row]) -> str:
    """What a user waited for, each kind of first request, and which compilers ran."""
    if not rows:
        return "no results yet"
    parts = [
        _table(_WAITED, map(_waited, rows)),
        _table(("seconds", *KINDS, "later, by the slowest kind"), map(_kinds, rows)),
    ]
    parts.append(_table(("", "module", "while", "compilers"), (line for row in rows for line in _compilers(row))))
    parts.extend(map(_foretold, filter(lambda row: row.get("foretold"), rows)))
    return "\n" + "\n\n".join([*parts, _same(rows), _kept(rows)])


def _kept(rows: Sequence[Row]) -> str:
    """Caches that one way filled for the next: said, since they make all but the first quicker."""
    told = sorted({name for row in rows for name in row.get("keep", ())})
    return f"caches that all ways share: {', '.join(told) or 'none'}"


_WAITED = (
    "", "before", "import", "engine up", "first request", "slowest first", "median to the last",
    "compilers starting", "answering", "ninjas with nothing to do",
)  # fmt: skip


def _waited(row: Row) -> Iterator[str]:
    steps = row["steps"]
    firsts = [steps[kind] for kind in KINDS if kind in steps]
    yield _name(row)
    yield ", ".join(f"{name} {seconds:.0f} s" for name, seconds in row["before"].items())
    yield from (_seconds(steps.get(name)) for name in ("import", "engine up", next(iter(KINDS))))
    yield _seconds(max(firsts[1:], default=None))
    yield _seconds(row["later"].get("median"))
    yield from (str(_number(row, when)) for when in (STARTING, ANSWERING))
    yield str(sum(one["number"] for one in row["compilers"] if one["idle"]))


def _name(row: Row) -> str:
    status = row["status"]
    failed = "" if status == 0 else " (ended at its limit)" if status is None else f" (failed: {status})"
    return f"{row['engine']} {row['version']}, {row['way']}{failed}".replace(" ,", ",")


def _number(row: Row, when: str) -> int:
    """Those that nobody saw are no less; they are counted while the server answered, the worse case."""
    whens = {when, ""} if when == ANSWERING else {when}
    return sum(one["number"] for one in compiled(row) if one["when"] in whens)


def _kinds(row: Row) -> Iterator[str]:
    yield _name(row)
    yield from (_seconds(row["steps"].get(kind)) for kind in KINDS)
    yield _seconds(max(row["later"].get("by_kind", {}).values(), default=None))


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f} s" if value < 1 else f"{value:.1f} s"


def _compilers(row: Row) -> Iterator[tuple[str, ...]]:
    grouped: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for one in compiled(row):
        grouped[one["when"], one["module"]].append(f"{one['name']} {one['number']}")
    for (when, module), names in grouped.items():
        yield _name(row), module, when or "?", ", ".join(names)
    if not grouped:
        yield _name(row), "none", "", ""


def _foretold(row: Row) -> str:
    said = ", ".join(f"{len(names)} {verdict}" for verdict, names in row["foretold"].items())
    rest = [name for verdict, names in row["foretold"].items() if verdict != "right" for name in names]
    return f"{_name(row)}: modules foretold by check: {said}{'; not right: ' + ', '.join(rest) if rest else ''}"


def _same(rows: Sequence[Row]) -> str:
    """Whether the same prompts got the same greedy answers, with kernels from wherever."""
    told = {json.dumps(row["answers"]["greedy"]) for row in rows if row["answers"].get("greedy")}
    said = {0: "none", 1: "the same in all ways"}.get(len(told), f"{len(told)} different ones")
    return f"first greedy answers: {said}"


def _table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *map(tuple, rows))]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])
