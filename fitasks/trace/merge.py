"""Single kernels → entries with lists, where a matrix says exactly them and nothing else.

`batch_prefill` with four data types and head dimensions is four kernels of a trace, and one entry of kernels.yaml if
all four combinations are there. With three of them it is two entries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.config.generators import may_make_object
from fitasks.config.labels import label
from fitasks.config.shorthands import FOLLOWED, FOLLOWERS, FOLLOWS, HEAD_DIM, HEAD_DIMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitasks.config.model import Scalar
    from fitasks.trace.entries import Entry

_LONGEST_LABEL = 150  # kernels.yaml allows 160 (config/expand.py); a number may follow the name
_SAY_NOTHING = {"cached", "compile", "compiled", "cute", "dsl", "get", "kernel", "kernels", "load", "variant"}
_LAST = ("use_", "pos_encoding_mode")  # what users would write at the end


@dataclass(frozen=True)
class Matrix:
    """An entry to be written: its name, and one or more values for each parameter."""

    name: str
    op: str
    params: dict[str, tuple[Scalar, ...]]


_Box = dict[str, tuple["Scalar", ...]]


def merge(entries: Iterable[Entry], taken: Iterable[str]) -> tuple[Matrix, ...]:
    """As few matrices as merging along one parameter at a time gives, named so that no name of `taken` is used."""
    names = set(taken)
    matrices = []
    for op, points in _by_op(entries).items():
        for box in _boxes(points):
            name = _name(op, box, names)
            names.add(name)
            matrices.append(Matrix(name, op, box))
    return tuple(matrices)


def _by_op(entries: Iterable[Entry]) -> dict[str, list[_Box]]:
    grouped: dict[str, dict[str, _Box]] = {}
    for entry in entries:
        point: _Box = {name: (value,) for name, value in entry.params.items()}
        if FOLLOWED in point:
            point |= {name: (FOLLOWS,) for name in FOLLOWERS if name not in point}
        grouped.setdefault(entry.op, {})[_key(point)] = point
    return {op: list(points.values()) for op, points in grouped.items()}


def _boxes(points: list[_Box]) -> list[_Box]:
    """The smaller of what merging along the parameters in either order gives."""
    tried = [_united(points, _axes(points, backwards=backwards)) for backwards in (False, True)]
    best = min(tried, key=len)
    return [_said(part) for box in best for part in _split(box)]


def _axes(points: Sequence[_Box], *, backwards: bool) -> list[str]:
    names = list(dict.fromkeys(name for point in points for name in point))
    return names[::-1] if backwards else names


def _united(boxes: list[_Box], axes: Sequence[str]) -> list[_Box]:
    """Boxes that differ in one parameter only are one box; again, until nothing changes."""
    while True:
        before = len(boxes)
        for axis in axes:
            boxes = _along(boxes, axis)
        if len(boxes) == before:
            return boxes


def _along(boxes: list[_Box], axis: str) -> list[_Box]:
    groups: dict[str, _Box] = {}
    for box in boxes:
        rest = _key({name: values for name, values in box.items() if name != axis}) if axis in box else _key(box)
        key = f"{axis in box} {rest}"
        if key in groups and axis in box:
            groups[key] = groups[key] | {axis: groups[key][axis] + box[axis]}
        else:
            groups.setdefault(key, box)
    return list(groups.values())


def _key(box: _Box) -> str:
    """Tells 1, 1.0 and true apart, and not the order of values."""
    return json.dumps({name: sorted(map(json.dumps, values)) for name, values in sorted(box.items())})


def _split(box: _Box) -> list[_Box]:
    """`dtype_kv` as dtype_q and others besides can be said in one entry only where dtype_q is one value."""
    for name in FOLLOWERS:
        values = box.get(name, ())
        if FOLLOWS in values and len(values) > 1 and len(box[FOLLOWED]) > 1:
            others = tuple(value for value in values if value != FOLLOWS)
            return [*_split(box | {name: (FOLLOWS,)}), *_split(box | {name: others})]
    return [box]


def _said(box: _Box) -> _Box:
    """As users write it: what follows dtype_q left out, or spelled out among others; sorted numbers; flags last."""
    said: _Box = {}
    for name in sorted(box, key=lambda name: (name.startswith(_LAST), name in (HEAD_DIM, *HEAD_DIMS))):
        if box[name] != (FOLLOWS,):
            said[name] = _ordered(tuple(box[FOLLOWED][0] if value == FOLLOWS else value for value in box[name]))
    return said


def _ordered(values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    numbers = [value for value in values if isinstance(value, int | float)]
    return tuple(sorted(numbers)) if len(numbers) == len(values) else values


def _name(op: str, box: _Box, taken: set[str]) -> str:
    """`prefill` for batch_prefill, as people call it; initials where kernels would be called too long a name."""
    stem = _family(op) if may_make_object(op) else _function(op)
    longest = {name: max(values, key=lambda value: len(str(value))) for name, values in box.items()}
    if len(label(stem, longest)) > _LONGEST_LABEL:
        stem = "".join(word if any(map(str.isdigit, word)) else word[:1] for word in stem.split("_"))
    if stem not in taken:
        return stem
    return next(f"{stem}-{count}" for count in range(2, len(taken) + 3) if f"{stem}-{count}" not in taken)


def _function(op: str) -> str:
    """`page` for …:gen_page_module, `all_reduce` for …:get_all_reduce_module."""
    stem = op.rpartition(":")[2].lstrip("_")
    for prefix in ("gen_", "jit_", "get_", "batch_"):
        stem = stem.removeprefix(prefix)
    return stem.removesuffix("_module")


def _family(op: str) -> str:
    """`gated_residual_rmsnorm` for a CuTe-DSL function `_get_compiled` in a module of that name: many are called so.

    What the function's name says beyond that follows: `topk_varlen_gvr` for …topk_varlen:_compile_gvr.
    """
    module, _, function = op.partition(":")
    part = [part for part in module.split(".") if _telling(part)][-1]
    return "_".join([part, *(word for word in _telling(function) if word not in part.split("_"))])


def _telling(name: str) -> list[str]:
    """The words that say something of what is compiled."""
    return [word for word in name.split("_") if word and word not in _SAY_NOTHING]
