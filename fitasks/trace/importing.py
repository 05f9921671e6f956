"""Traces into kernels.yaml: what would be written, proven by planning it, and what can't be said."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.doing import doing
from fitasks.base.errors import ConfigError, EnvironmentProblem
from fitasks.base.files import write_atomic
from fitasks.base.wording import counted
from fitasks.config.model import KernelConfig, Position
from fitasks.plan import planner
from fitasks.plan.kernel import asked_as
from fitasks.plan.offers import offers
from fitasks.trace.document import added, difference
from fitasks.trace.merge import merge
from fitasks.trace.resolve import Resolved, Unresolved, resolve
from fitasks.trace.toolchains import nameable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.plan.plan import Plan
    from fitasks.trace.entries import Entry
    from fitasks.trace.model import Requested
    from fitasks.trace.resolve import Record

_NOWHERE = Position("", 0, 0)


@dataclass(frozen=True)
class Proposal:
    """What importing comes to. Nothing is written yet."""

    file: Path
    old: str
    new: str
    resolved: tuple[Resolved, ...]  # what the new entries are for
    refused: tuple[Unresolved, ...]
    present: tuple[Requested, ...]  # in kernels.yaml already
    uncompiled: tuple[Requested, ...]  # CuTe-DSL and other modules that precompilation doesn't cover
    unused: tuple[Requested, ...]  # generated, but never loaded

    @property
    def diff(self) -> str:
        """A unified diff of kernels.yaml, "" where nothing is to be added."""
        return difference(self.old, self.new, self.file.name)


def propose(plan: Plan, file: Path, requested: Sequence[Requested]) -> Proposal:
    """The entries for everything requested that `file` doesn't give. Raises EnvironmentProblem, ConfigError."""
    unused = tuple(one for one in requested if one.unused)
    uncompiled = tuple(one for one in requested if one.loaded and not nameable(one))
    wanted = [one for one in requested if one.loaded and nameable(one)]
    present = tuple(one for one in wanted if _planned(plan, one))
    missing = [one for one in wanted if one not in present]
    planning = Planning(plan)
    resolved, refused = _resolve(planning, missing) if missing else ((), ())
    old = _text(file)
    new = added(old, merge((one.entry for one in resolved), {kernel.entry for kernel in plan.config.kernels}))
    _prove(planning, new, resolved)
    return Proposal(file, old, new, resolved, refused, present, uncompiled, unused)


def write(proposal: Proposal) -> None:
    """Write kernels.yaml, if it is still what the proposal was made for. Raises EnvironmentProblem."""
    if _text(proposal.file) != proposal.old:
        raise EnvironmentProblem(f"{proposal.file.name} has been edited meanwhile", remedy="import again")
    write_atomic(proposal.file, proposal.new, mode=proposal.file.stat().st_mode & 0o777)


def _text(file: Path) -> str:
    """As it is, line ends included."""
    return file.read_bytes().decode()


def _planned(plan: Plan, one: Requested) -> bool:
    same = (kernel for kernel in plan.kernels if asked_as(kernel.name, kernel.kind) == one.name)
    return any(_fits(plan, one, kernel.target) for kernel in same)


def _fits(plan: Plan, one: Requested, target: str) -> bool:
    return one.architectures in {"", plan.targets[target].arch}


def _resolve(planning: Planning, missing: Sequence[Requested]) -> tuple[tuple[Resolved, ...], tuple[Unresolved, ...]]:
    plan = planning.plan
    known = offers(plan.server, plan.toolkit.home, next(iter(plan.targets)), plan.state)
    return resolve(missing, known, lambda entries: planning.of([kernel_of(entry) for entry in entries]))


@dataclass
class Planning:
    """What the planner said so far: nothing is planned twice in one import, since each question takes seconds."""

    plan: Plan
    _said: dict[str, dict[str, Record]] = field(default_factory=dict)  # by architecture set, then by op and parameters

    def of(self, kernels: Sequence[KernelConfig], which: str = "that the trace may mean") -> dict[str, list[Record]]:
        """The planner's records for each architecture set of the plan ("90a"). Raises EnvironmentProblem."""
        known = next(iter(self._said.values()), {})
        new = {key: kernel for kernel in kernels if (key := _key(kernel)) not in known}
        for arch, records in _ask(self.plan, [*new.values()], which).items() if new else ():
            self._said.setdefault(arch, {}).update(zip(new, records, strict=True))
        return {arch: [said[_key(kernel)] for kernel in kernels] for arch, said in self._said.items()}


def _key(kernel: KernelConfig) -> str:
    return json.dumps([kernel.op, kernel.params], sort_keys=True)


def _ask(plan: Plan, kernels: Sequence[KernelConfig], which: str) -> Mapping[str, list[Record]]:
    # The kernels are a trace's: data, which may name anything.
    targets, sm90 = tuple(plan.targets), plan.config.sm90
    with doing(f"planning {counted(len(kernels) * len(targets), 'kernel')} {which}", after=0):
        answers = planner.ask(plan.server, plan.toolkit.home, targets, kernels, sm90=sm90, recorded=True)
    return {answer["arch"]: answer["kernels"] for answer in answers.values()}


def kernel_of(entry: Entry) -> KernelConfig:
    """An entry as something to ask the planner about."""
    return KernelConfig(entry.op, entry.op, entry.op, dict(entry.params), _NOWHERE, {})


def _prove(planning: Planning, text: str, resolved: Sequence[Resolved]) -> None:
    """Plan the new entries as written: they must give exactly the modules that were asked for."""
    if not resolved:
        return
    before = {kernel.entry for kernel in planning.plan.config.kernels}
    kernels = [kernel for kernel in kernels_in(text) if kernel.entry not in before]
    for arch, records in planning.of(kernels, "as they would be written").items():
        given = {asked_as(str(record.get("name")), str(record.get("kind"))) for record in records}
        wanted = {one.requested.name for one in resolved if one.requested.architectures in {"", arch}}
        if len(records) > len(resolved) or not wanted <= given:
            raise EnvironmentProblem(f"{_unlike(wanted - given, records)}; nothing was written")


def _unlike(lost: set[str], records: Sequence[Record]) -> str:
    """Of entries that give other modules than were asked for: which they don't, and the planner's first word on it."""
    if not lost:
        return "the entries made from the trace would give more than was asked for"
    why = next((f": {record['error']['message']}" for record in records if record.get("error")), "")
    more = f" and {len(lost) - 1} more" * (len(lost) > 1)
    return f"the entries made from the trace wouldn't give {min(lost)}{more}{why}"


def kernels_in(text: str) -> tuple[KernelConfig, ...]:
    """The kernels of a kernels.yaml that isn't written yet. Raises EnvironmentProblem where it has mistakes."""
    from fitasks.config.load import load_config

    with temporary.directory("import") as directory:
        file = Path(directory, "kernels.yaml")
        file.write_text(text, encoding="utf-8")
        try:
            return load_config(file).kernels
        except ConfigError as error:
            shown = str(error).replace(str(file), "kernels.yaml with the trace")
            raise EnvironmentProblem(f"the trace doesn't fit into kernels.yaml:\n{shown}") from None
