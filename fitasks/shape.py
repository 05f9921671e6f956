"""Whether a value that was read as JSON is what a type says: asked of everything that is read from a file again.

A type is a dataclass or a TypedDict, as JSON has it (tuples are lists, paths are texts), or made of list, tuple, dict,
Literal, unions and plain types. It is compiled once into functions, so that a plan of 655 kernels takes milliseconds;
pydantic, which reads kernels.yaml, takes longer to be imported than a warm `doit list` to answer.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

Check = Callable[[Any], bool]

_LARGEST = 1 << 62  # of sizes and of times in nanoseconds; os.utime takes no more than 63 bits


def fits(value: object, shape: Any) -> bool:
    """Whether `value` is a `shape`. Texts can be encoded and hold no NUL, whole numbers have at most 62 bits.

    Raises TypeError for a type that isn't known here.
    """
    return _check(shape)(value)


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


@functools.cache
def _check(shape: Any) -> Check:
    origin, parts = get_origin(shape), get_args(shape)
    if origin is None:
        return _PLAIN.get(shape) or _record(shape)
    if origin is Literal:
        return lambda value: type(value) is str and value in parts
    if origin in {Union, types.UnionType}:
        return _any_of([_check(part) for part in parts])
    if origin in {dict, Mapping}:
        return _table(*map(_check, parts))
    if origin is tuple and ... not in parts:
        return _row([_check(part) for part in parts])
    return _many(_check(parts[0]))


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


def _record(shape: Any) -> Check:
    """All fields, and none that isn't known. Raises TypeError for a type that is no record."""
    if not is_dataclass(shape) and not is_typeddict(shape):
        raise TypeError(f"not a type that JSON can be compared with: {shape!r}")
    checks = {name: _check(hint) for name, hint in get_type_hints(shape).items()}
    names = checks.keys()

    def check(value: object) -> bool:
        return type(value) is dict and value.keys() == names and all(checks[name](one) for name, one in value.items())

    return check
