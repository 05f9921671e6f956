"""A request → what kernels.yaml would say for it: generator back to op, arguments without what goes without saying.

Candidates only. Which one is right is decided by planning them (resolve.py): a rule here that is wrong for some
version of FlashInfer costs a refusal, never a wrong kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.config.generators import may_be_called, may_make_object
from fitasks.config.problem import shown
from fitasks.config.shorthands import meant, shortened
from fitasks.trace.toolchains import CUTE, nameable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fitasks.config.model import Scalar
    from fitasks.plan.offers import Op
    from fitasks.trace.model import Requested

# `_gen_batch_prefill_primary_module` is what the planner resolves op batch_prefill to (plan_generators.py).
_PRIMARY = re.compile(r"_gen_(\w+)_primary_module")
# Values and names that generators get: FlashInfer makes names of modules and files of some of them.
_WORD = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,127}|")
_NAME = re.compile(r"[A-Za-z_]\w{0,127}", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One kernel as kernels.yaml would say it."""

    op: str
    params: dict[str, Scalar]

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.op}({said})"


def unsayable(one: Requested) -> str:
    """Why a request cannot be an entry whatever its op, "" where it may."""
    if one.unsaid:
        return one.unsaid
    if not nameable(one):
        return "neither FlashInfer nor SGLang's own JIT keeps it, so nothing can be compiled beforehand"
    if refused := _foreign(one):
        return f"{one.place}: {refused}" if one.place else refused
    lists = [name for name, value in one.arguments.items() if isinstance(value, (list, dict))]
    return f"{', '.join(lists)}: kernels.yaml has no way to say a list as one value" if lists else ""


def _foreign(one: Requested) -> str:
    """What a request says that no recorded server does, and that would run code of its choice; "" where nothing."""
    if one.generator and not may_be_called(one.generator) and not (one.kind == CUTE and may_make_object(one.generator)):
        said = f"generator {shown(one.generator)} is no gen_… function of FlashInfer, nor a function of SGLang's JIT"
        return f"{said}, and nothing else is called for a trace"
    if odd := [name for name in one.arguments if not _NAME.fullmatch(name)]:
        return f"arguments: {shown(odd[0])} is no parameter's name"
    words = {name: value for name, value in one.arguments.items() if isinstance(value, str)}
    odd = [name for name, value in words.items() if not _WORD.fullmatch(value)]
    return f"arguments: {odd[0]} is {shown(words[odd[0]])}, not one plain word" if odd else ""


def entries_of(one: Requested, known: Sequence[Op]) -> Iterator[Entry]:
    """What might give this module, likeliest first: its generator's op, then the generator by its place."""
    by_name = {op.name: op for op in known}
    by_place = {op.generator: op for op in known}
    primary = _PRIMARY.fullmatch(one.generator.partition(":")[2])
    op = by_name.get(primary[1]) if primary else by_place.get(one.generator)
    if op:
        yield Entry(op.name, brief(one.arguments, op))
    yield Entry(one.generator, brief(one.arguments, op))


def brief(arguments: Mapping[str, Any], op: Op | None) -> dict[str, Scalar]:
    """The arguments without those that are what the planner fills in anyway; `head_dim` for two equal ones."""
    defaults = {one.name: one.default for one in op.parameters if not one.required} if op else {}
    said: dict[str, Scalar] = {
        name: value
        for name, value in arguments.items()
        if name not in defaults or not _same(value, meant(defaults[name], arguments))
    }
    return shortened(said)


def _same(value: Any, other: Any) -> bool:
    """Equal as YAML sees it: 1, 1.0 and true are three values."""
    return type(value) is type(other) and bool(value == other)
