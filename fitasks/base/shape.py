"""Whether a value that was read as JSON is what a type says: asked of memos, and of what the scripts answer.

A type is a dataclass or a TypedDict, as JSON has it (tuples are lists, paths are texts), or made of list, tuple, dict,
Literal, unions and plain types. It is compiled once into functions, so that a plan of 655 kernels takes milliseconds;
pydantic, which reads kernels.yaml, takes longer to be imported than a warm `doit list` to answer.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

Check = Callable[[Any], bool]

MISSING = object()
_LARGEST = 1 << 62  # of sizes and of times in nanoseconds; os.utime takes no more than 63 bits


def fits(value: object, shape: Any, *, theirs: bool = False) -> bool:
    """Whether `value` is a `shape`. Texts can be encoded and hold no NUL, whole numbers have at most 62 bits.

    `theirs` is what a script of the serving interpreter says: a TypedDict may have more keys than are named, and a text
    may be the name of a file that is no UTF-8. Raises TypeError for a type that isn't known here.
    """
    return _check(shape, theirs)(value)


def misfit(value: object, shape: Any) -> tuple[list[str], object]:
    """The place in what a script says that doesn't fit, and what stands there; MISSING where it is a key that lacks."""
    for name, inner, part in _within(value, shape):
        if not fits(inner, part, theirs=True):
            place, found = misfit(inner, part)
            return [name, *place], found
    return [], value


def _within(value: object, shape: Any) -> Iterator[tuple[str, object, Any]]:
    origin, parts = get_origin(shape), get_args(shape)
    if type(value) is list and origin in {list, tuple}:
        each = parts if origin is tuple and len(parts) == len(value) else parts[:1] * len(value)
        yield from ((str(index), one, part) for index, (one, part) in enumerate(zip(value, each, strict=True)))
    elif type(value) is dict and origin is dict:
        yield from ((name, one, parts[1]) for name, one in value.items())
    elif type(value) is dict and (is_dataclass(shape) or is_typeddict(shape)):
        hints = _fields(shape)
        yield from (
            (name, value.get(name, MISSING), hint) for name, (hint, must) in hints.items() if must or name in value
        )


def _is_text(value: object) -> bool:
    """Half of a surrogate pair can be said in JSON, and NUL: neither can be part of a path, and nobody means them."""
    if type(value) is not str or "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False


def _is_whole(value: object) -> bool:
    return type(value) is int and -_LARGEST < value < _LARGEST


def _is_number(value: object) -> bool:
    return type(value) is float or _is_whole(value)


_PLAIN: dict[Any, Check] = {
    Any: lambda _: True,
    object: lambda _: True,
    str: _is_text,
    Path: _is_text,
    int: _is_whole,
    float: _is_number,
    bool: lambda value: type(value) is bool,
    type(None): lambda value: value is None,
}
_THEIRS = _PLAIN | {str: lambda value: type(value) is str}


@functools.cache
def _check(shape: Any, theirs: bool) -> Check:
    origin, parts = get_origin(shape), get_args(shape)
    if origin is None:
        return (_THEIRS if theirs else _PLAIN).get(shape) or _record(shape, theirs)
    if origin is Literal:
        return lambda value: type(value) is str and value in parts
    if origin in {Union, types.UnionType}:
        return _any_of([_check(part, theirs) for part in parts])
    if origin in {dict, Mapping}:
        return _table(_check(parts[0], theirs), _check(parts[1], theirs))
    if origin is tuple and ... not in parts:
        return _row([_check(part, theirs) for part in parts])
    return _many(_check(parts[0], theirs))


def _any_of(checks: Collection[Check]) -> Check:
    return lambda value: any(check(value) for check in checks)


def _table(key: Check, one: Check) -> Check:
    return lambda value: type(value) is dict and all(map(key, value)) and all(map(one, value.values()))


def _row(checks: Collection[Check]) -> Check:
    return lambda value: (
        type(value) is list
        and len(value) == len(checks)
        and all(check(one) for check, one in zip(checks, value, strict=True))
    )


def _many(one: Check) -> Check:
    return lambda value: type(value) is list and all(map(one, value))


def _record(shape: Any, theirs: bool) -> Check:
    """All fields, and none that isn't known. Raises TypeError for a type that is no record."""
    fields = _fields(shape)
    checks = {name: _check(hint, theirs) for name, (hint, _) in fields.items()}
    names, required = checks.keys(), {name for name, (_, must) in fields.items() if must}

    def check(value: object) -> bool:
        return type(value) is dict and value.keys() == names and all(checks[name](one) for name, one in value.items())

    def open_check(value: object) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        return all(check(value[name]) for name, check in checks.items() if name in value)

    return open_check if theirs and is_typeddict(shape) else check


def _fields(shape: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it must be there. Raises TypeError for a type that is no record."""
    if not is_dataclass(shape) and not is_typeddict(shape):
        raise TypeError(f"not a type that JSON can be compared with: {shape!r}")
    hints = get_type_hints(shape, include_extras=True)
    free = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    return {name: (get_args(hint)[0] if name in free else hint, name not in free) for name, hint in hints.items()}
