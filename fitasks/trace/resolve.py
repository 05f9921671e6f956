"""Requests → entries, each proven by planning it: FlashInfer must give the very name that was traced.

Everything that could be meant is planned in one go. Of a request with its generator the first candidate counts that
gives its name and its arguments; of a bare name the only one, since to choose among several would be a guess.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.cuda.architecture import misfit, single
from fitasks.plan.kernel import asked_as
from fitasks.plan.modules import variant
from fitasks.trace.entries import Entry, entries_of, unsayable
from fitasks.trace.names import entries_of_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.offers import Op
    from fitasks.trace.model import Requested

Record = dict[str, Any]
_ALIKE = 0.6  # of an op's name and a module's, from 0 to 1: fp4_quantization_sm90 and fp4_quantization_90 are
_GENERATORS_OWN = {"generator", "not_nvcc"}  # kinds of errors that aren't about what kernels.yaml says
# Entries → for each architecture set ("90a") one record of the planner's response per entry, in order.
Ask = Callable[[Sequence[Entry]], Mapping[str, Sequence[Record]]]


@dataclass(frozen=True)
class Resolved:
    """A request and the entry that gives it."""

    requested: Requested
    entry: Entry


@dataclass(frozen=True)
class Unresolved:
    """A request that cannot become an entry, and why."""

    requested: Requested
    reason: str


def resolve(
    requested: Sequence[Requested], known: Sequence[Op], ask: Ask
) -> tuple[tuple[Resolved, ...], tuple[Unresolved, ...]]:
    """What can be an entry, and what cannot. Raises what `ask` raises."""
    candidates = [_candidates(one, known) for one in requested]
    asked = {_key(entry): entry for entries in candidates for entry in entries}
    answers = ask(tuple(asked.values())) if asked else {}
    records = {
        arch: dict(zip(asked, (_measured(record, arch) for record in planned), strict=True))
        for arch, planned in answers.items()
    }
    outcomes = [_judge(one, entries, records) for one, entries in zip(requested, candidates, strict=True)]
    resolved = tuple(outcome for outcome in outcomes if isinstance(outcome, Resolved))
    return resolved, tuple(outcome for outcome in outcomes if isinstance(outcome, Unresolved))


def _measured(record: Record, arch: str) -> Record:
    """The record with why its module would run on none of these GPUs, "" where it would."""
    return {**record, "misfit": misfit(record.get("ninja", ""), single(arch))}


def _candidates(one: Requested, known: Sequence[Op]) -> tuple[Entry, ...]:
    if unsayable(one):
        return ()
    return tuple(entries_of(one, known) if one.generator else entries_of_name(one.name, known))


def _key(entry: Entry) -> str:
    return json.dumps([entry.op, entry.params])


def _judge(
    one: Requested, entries: Sequence[Entry], records: Mapping[str, Mapping[str, Record]]
) -> Resolved | Unresolved:
    if reason := unsayable(one):
        return Unresolved(one, reason)
    if one.architectures and entries and one.architectures not in records:
        return Unresolved(one, f"it was for {one.architectures}; the targets of kernels.yaml are {', '.join(records)}")
    planned = [
        (entry, answers[_key(entry)])
        for arch, answers in records.items()
        for entry in entries
        if one.architectures in {"", arch}
    ]
    given = [(entry, record) for entry, record in planned if _gives(one, record)]
    if not given:
        return Unresolved(one, _why_none(one, planned))
    right = [(entry, record) for entry, record in given if not record["misfit"]]
    if not right:
        return Unresolved(one, given[0][1]["misfit"])
    if not one.generator and len(modules := _modules(right)) > 1:
        return Unresolved(one, _guess(modules))
    return Resolved(one, right[0][0])


def _gives(one: Requested, record: Record) -> bool:
    """The name, and the arguments as far as the trace has them: names don't tell all of them."""
    if _asked_as(record) != one.name:
        return False
    got = record["params"]
    return all(json.dumps(got[name]) == json.dumps(value) for name, value in one.arguments.items() if name in got)


def _asked_as(record: Record) -> str:
    return asked_as(record.get("name", ""), record.get("kind", ""))


def _modules(right: Sequence[tuple[Entry, Record]]) -> list[Entry]:
    """The first entry of each different module."""
    found: dict[str, Entry] = {}
    for entry, record in right:
        found.setdefault(_module(record), entry)
    return list(found.values())


def _module(record: Record) -> str:
    """Equal for records of the same module: generator and parameters, or all that is compiled, if that is static."""
    if record["generated"]:
        return json.dumps([record["generator"], record["params"]])
    return json.dumps([record["ninja"], record["sources"]])


def _guess(entries: Sequence[Entry]) -> str:
    shown = " or ".join(map(str, entries[:3])) + (" or …" if len(entries) > 3 else "")
    return f"not without a guess: it may be {shown}"


def _why_none(one: Requested, planned: Sequence[tuple[Entry, Record]]) -> str:
    if instead := _successor(one, planned):
        return instead
    if not one.generator:
        return _refusal(one, planned) or (
            "not without a guess: no op of this FlashInfer, with what its name says, gives this name"
        )
    reasons = list(dict.fromkeys(_reasons(one, planned)))
    version = f" (recorded with FlashInfer {one.flashinfer})" if one.flashinfer else ""
    return "; ".join(reasons) + version


def _successor(one: Requested, planned: Sequence[tuple[Entry, Record]]) -> str:
    """What this FlashInfer loads instead: its fa2 modules have another name since 0.7.0, for the same parameters."""
    for entry, record in planned:
        if variant(record.get("name", "")) == variant(one.name):
            return f"this FlashInfer loads {record['name']} instead: {entry} in kernels.yaml"
    return ""


def _refusal(one: Requested, planned: Sequence[tuple[Entry, Record]]) -> str:
    """What the generator of that name says, where it makes nothing for these targets."""
    refused = [
        (difflib.SequenceMatcher(None, one.name, entry.op).ratio(), str(entry), record["error"]["message"])
        for entry, record in planned
        if record.get("error", {}).get("kind") in _GENERATORS_OWN
    ]
    likeness, entry, message = max(refused, default=(0.0, "", ""))
    return f"{entry} may give it, but not for these targets: {message}" if likeness >= _ALIKE else ""


def _reasons(one: Requested, planned: Sequence[tuple[Entry, Record]]) -> Iterator[str]:
    for entry, record in planned:
        if "error" in record:
            yield str(record["error"]["message"])
        elif (name := _asked_as(record)) != one.name:
            yield f"{entry.op} gives {name}"
        else:
            yield f"{entry.op} gives this name with other arguments"
