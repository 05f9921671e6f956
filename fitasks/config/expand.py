"""Entries → KernelConfigs: the matrix written out, each point with its label."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING

from fitasks.config.dtypes import SHORT, suggestion
from fitasks.config.generators import is_named_like_one, may_be_called, may_make_object
from fitasks.config.labels import label
from fitasks.config.model import KernelConfig
from fitasks.config.problem import MOST, Problem, did_you_mean, found, shorten, shown
from fitasks.config.schema import OP, PARAMETER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fitasks.config.model import Scalar
    from fitasks.config.problem import Path
    from fitasks.config.schema import EntryModel
    from fitasks.config.source import Document

MOST_POINTS = 10_000
_LONGEST_LABEL = 160  # labels become file names, with more before and behind
Values = dict[str, list["Scalar"]]


def expand(
    entries: dict[str, EntryModel], document: Document, unsound: set[str], generators: Sequence[str] = ()
) -> tuple[tuple[KernelConfig, ...], list[Problem]]:
    """The kernels of all entries, in file order, and what is wrong with them.

    `unsound` names the entries of which something is missing already: their parameters are looked at, but
    they make no kernels, because what they would be called is unknown.
    """
    problems: list[Problem] = []
    kernels: list[KernelConfig] = []
    for name, entry in entries.items():
        values: Values = entry.model_extra or {}
        mistakes = [*itertools.islice(_entry_problems(name, values, document), MOST + 1)]
        mistakes += _op_problems(name, entry.op, generators, document)
        mistakes += _size_problems(name, values, len(kernels), document)
        if not mistakes and name not in unsound:
            kernels += _points(name, entry.op or name, values, document)
        problems += mistakes
    return tuple(kernels), [*problems, *_label_problems(kernels, document)]


def _entry_problems(name: str, values: Values, document: Document) -> Iterator[Problem]:
    path: Path = ("kernels", name)
    if (*path, "op") not in document.spots and not re.fullmatch(OP, name):
        text = "its name is no op, so it needs `op:`, the middle of gen_<op>_module, such as batch_prefill"
        yield Problem(document.spot(path).key, path, text)
    for parameter, its_values in values.items():
        yield from _parameter_problems((*path, parameter), parameter, its_values, document)


def _op_problems(name: str, op: str, generators: Sequence[str], document: Document) -> Iterator[Problem]:
    """`module:function` is called: it must make a module of FlashInfer, SGLang, or a package that the file names."""
    module, colon, function = op.partition(":")
    if not colon or may_be_called(op, generators) or may_make_object(op):
        return
    path: Path = ("kernels", name, "op")
    if module.partition(".")[0] == "sglang":
        own = "those are in sglang.jit_kernel or sglang.kernels, or called _jit_…"
        text = f"{shown(op)} is no function of SGLang's JIT: {own}"
    elif not is_named_like_one(function):
        text = f"{shown(op)} is no generator, and only generators are called: functions named gen_…"
    else:
        package = module.partition(".")[0]
        text = (
            f"{shown(op)} isn't FlashInfer's; to have its generators called, write at the top: generators: [{package}]"
        )
    yield Problem(document.spot(path).value, path, text)


def _parameter_problems(path: Path, name: str, values: list[Scalar], document: Document) -> Iterator[Problem]:
    if not re.fullmatch(PARAMETER, name):
        text = "not a parameter's name; those are letters, digits and `_`"
        yield Problem(document.spot(path).key, path, text + did_you_mean(name, [re.sub("[^A-Za-z0-9_]+", "_", name)]))
    seen: set[tuple[type, Scalar]] = set()
    for index, value in enumerate(values):
        spot = document.spot((*path, index))
        if (type(value), value) in seen:
            yield Problem(spot.value, path, f"{shorten(spot.text)} stands twice in the list; keep one")
        elif name.startswith("dtype") and value not in SHORT:
            yield Problem(spot.value, path, _unknown_dtype(value, spot.text))
        seen.add((type(value), value))


def _unknown_dtype(value: Scalar, text: str) -> str:
    if not isinstance(value, str):
        return f"{found(value, text)}; expected a data type such as bfloat16"
    return f"unknown data type {shown(value)}; known are {', '.join(SHORT)}{suggestion(value)}"


def _size_problems(name: str, values: Values, already: int, document: Document) -> Iterator[Problem]:
    points = math.prod(map(len, values.values()))
    if already + points > MOST_POINTS:
        path: Path = ("kernels", name)
        whole = f", {already + points:,} with the entries before" if already else ""
        text = f"its lists make {points:,} kernels{whole}; {MOST_POINTS:,} is the limit, shorten a list"
        yield Problem(document.spot(path).key, path, text)


def _points(name: str, op: str, values: Values, document: Document) -> Iterator[KernelConfig]:
    places = {parameter: document.spot(("kernels", name, parameter)).key for parameter in values}
    place = document.spot(("kernels", name)).key
    for point in itertools.product(*values.values()):
        params = dict(zip(values, point, strict=True))
        yield KernelConfig(name, op, label(name, params), params, place, places)


def _label_problems(kernels: Iterable[KernelConfig], document: Document) -> Iterator[Problem]:
    first: dict[str, KernelConfig] = {}
    for kernel in kernels:
        if len(kernel.label) > _LONGEST_LABEL:
            text = f"its name {shown(kernel.label)} has {len(kernel.label)} characters; shorten the entry's"
            yield Problem(kernel.place, ("kernels", kernel.entry), text)
        other = first.setdefault(kernel.label, kernel)
        if other is not kernel:
            yield _same_label(kernel, other, document)


def _same_label(kernel: KernelConfig, other: KernelConfig, document: Document) -> Problem:
    path: Path = ("kernels", kernel.entry)
    if kernel.entry != other.entry:
        twin = f"kernels.{other.entry} at {other.place}"
        text = f"makes a kernel named {kernel.label}, as does {twin}; rename one of the entries"
        return Problem(kernel.place, path, text)
    name = next(name for name, value in kernel.params.items() if value is not other.params[name])
    values = f"{other.params[name]!r} and {kernel.params[name]!r}"
    first = document.spot((*path, name)).value
    text = f"{values} at {first} make two kernels named {kernel.label}; move one of them to an entry of its own"
    return Problem(first, (*path, name), text)
