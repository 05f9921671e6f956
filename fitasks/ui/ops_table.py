"""`doit ops`: all ops as a list, or those that some words name, with every parameter."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.wording import counted
from fitasks.config.shorthands import FOLLOWED, FOLLOWS, HEAD_DIM, HEAD_DIMS, one_head_dim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.base.answers import Parameter
    from fitasks.config.model import Scalar
    from fitasks.plan.offers import Op

_MOST_VALUES = 14
# FlashInfer looks every dtype up in one table that names all of them. Of what it computes with, only these make sense.
_FLOATS, _INDICES = ("float", "bfloat"), ("int32", "int64")
_MEANT = {"dtype_q": _FLOATS, "dtype_o": _FLOATS, "dtype_idx": _INDICES}
_TYPES = {
    "dtype": "a dtype",
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "device": "a device, as in cuda",
}
# Kinds beside FlashInfer's nvcc modules, with what stands above them, and what they are counted as.
_KINDS = {
    "sglang": ("modules of SGLang's own JIT, each by its function:", "of SGLang's JIT"),
    "cute": ("CuTe-DSL objects that FlashInfer keeps, each by its function:", "of CuTe-DSL"),
}


def ops_lines(known: Sequence[Op], words: list[str], version: str) -> Iterator[str]:
    """The ops that have all `words` in their name, else in generator or description. Raises where none has."""
    chosen = chosen_ops(known, words)
    if words:
        yield from described(chosen)
        return
    kinds = {kind: [op for op in chosen if op.kind == kind] for kind in ("flashinfer", *_KINDS)}
    counts = [f"{counted(len(kinds['flashinfer']), 'op')} of FlashInfer {version}"]
    yield from listed(kinds["flashinfer"])
    for kind, (head, of_kind) in _KINDS.items():
        if kinds[kind]:
            yield from ("", head, *listed(kinds[kind]))
            counts.append(f"{len(kinds[kind])} {of_kind}")
    yield f"{', '.join(counts)}; `doit ops WORD …` shows their parameters"


def chosen_ops(known: Sequence[Op], words: Sequence[str]) -> list[Op]:
    """An exact name alone; else those of which the names match; else wider. Raises EnvironmentProblem for none."""
    exact = [op for op in known if list(words) == [op.name]]
    named = exact or [op for op in known if all(word.lower() in op.name.lower() for word in words)]
    wider = named or [op for op in known if all(word.lower() in f"{op.generator} {op.doc}".lower() for word in words)]
    if not wider:
        near = difflib.get_close_matches(" ".join(words), [op.name for op in known], n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise EnvironmentProblem(f"no op of this FlashInfer matches {' '.join(words)}{hint}", remedy="doit ops")
    return wider


def listed(ops: Sequence[Op]) -> Iterator[str]:
    """One line each: the op and the names of its parameters, those that may be left out in brackets, (!) for a note."""
    width = min(max(len(op.name) for op in ops), 44)
    for op in ops:
        names = (one.name if one.required else f"[{one.name}]" for one in _shown(op))
        mark = "  (!)" if op.note else ""
        yield f"{op.name:{width}}  {' '.join(names)}".rstrip() + mark


def described(ops: Sequence[Op]) -> Iterator[str]:
    """Everything about each op."""
    for op in ops:
        yield f"{op.name}  {op.doc or _place(op)}".rstrip()
        if op.note:
            yield f"  (!) {op.note}"
        if op.unsayable:
            yield f"  cannot be said in kernels.yaml: it needs {', '.join(op.unsayable)}"
        shown = list(_shown(op))
        width = max((len(one.name) for one in shown), default=0)
        for one in shown:
            yield f"  {one.name:{width}}  {_takes(one)}{_default(one)}"
        if not shown:
            yield "  takes no parameters"


def _place(op: Op) -> str:
    """Where its generator is, if its name doesn't say so."""
    return op.generator if op.generator != op.name else ""


def _shown(op: Op) -> Iterator[Parameter]:
    """The parameters as users write them: `head_dim` stands for both head dimensions."""
    from dataclasses import replace

    names = [one.name for one in op.parameters]
    both = one_head_dim(names)
    for one in op.parameters:
        if both and one.name == HEAD_DIMS[0]:
            yield replace(one, name=HEAD_DIM, type=f"int, or {' and '.join(HEAD_DIMS)}")
        elif not both or one.name != HEAD_DIMS[1]:
            yield one


def _takes(one: Parameter) -> str:
    if not one.accepted or one.type == "bool":
        return _TYPES.get(one.type, one.type.replace("int,", "an integer,") or "any value")
    accepted = _meant(one)
    values = [_yaml(value) for value in accepted[:_MOST_VALUES]]
    more = len(accepted) - len(values)
    return ", ".join(values) + (f", … ({more} more)" if more else "")


def _meant(one: Parameter) -> Sequence[Scalar]:
    """The values that fit what the parameter is for; all where none does."""
    kinds = _MEANT.get(one.name, ("",))
    return [value for value in one.accepted if str(value).startswith(kinds)] or one.accepted


def _default(one: Parameter) -> str:
    if one.required:
        return ""
    return f" (default: {FOLLOWED if one.default == FOLLOWS else _yaml(one.default)})"


def _yaml(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)
