"""What kernels.yaml says about an op, turned into the arguments of its generator and back into JSON."""

from __future__ import annotations

import contextlib
import enum
import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from plan_errors import PlanError, did_you_mean, near
from plan_generators import op_of

_HEAD_DIMS = ("head_dim_qk", "head_dim_vo")
_POSITION = "pos_encoding_mode"  # pod's are pos_encoding_mode_p and pos_encoding_mode_d
_POSITIONS = {"NONE": 0, "ROPE_LLAMA": 1, "ALIBI": 2}  # flashinfer.utils.PosEncodingMode
_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
_COLLECTIONS = (list, tuple, dict, set, Callable, Sequence, Mapping)


def arguments_for(generator: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `generator`: shorthands expanded, defaults filled in, names turned into values.

    Raises PlanError for the first mistake, with the others in its `more`.
    """
    errors: list[PlanError] = []
    parameters = inspect.signature(generator).parameters
    hints = _hints(generator)
    named = {name: one for name, one in parameters.items() if not one.kind.name.startswith("VAR_")}
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        errors += _unknown(op_of(generator), given, named)
    values = {}
    for name, value in given.items():
        try:
            values[name] = _converted(name, value, hints.get(_HEAD_DIMS[0] if name == "head_dim" else name))
        except PlanError as error:
            errors.append(error)
            values[name] = value
    values = _shorthand(values, named)
    values = {**_defaults(values, named, hints), **values}
    meant = {error.fields["suggestion"] for error in errors}
    errors += _missing(op_of(generator), {*values, *meant}, named)
    if errors:
        errors[0].more = tuple(errors[1:])
        raise errors[0]
    return values


def as_json(generator: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """All arguments, the generator's own defaults included, with values that JSON can hold."""
    bound = inspect.signature(generator).bind_partial(**arguments)
    bound.apply_defaults()
    return {name: _plain(value) for name, value in bound.arguments.items()}


def _plain(value: Any) -> Any:
    import torch

    if isinstance(value, torch.dtype):
        return str(value).replace("torch.", "", 1)
    if isinstance(value, enum.Enum):
        return value.name
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def _hints(generator: Callable[..., Any]) -> dict[str, Any]:
    """Of each parameter; an annotation that does not evaluate here says nothing about our values.

    SGLang's functions return a Module that only a type checker imports.
    """
    function: Any = inspect.unwrap(generator)
    hints = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        with contextlib.suppress(Exception):
            hints[name] = typing.get_type_hints(_Annotated(name, annotation), vars(sys.modules[function.__module__]))[
                name
            ]
    return hints


class _Annotated:
    """Something with one annotation, as typing.get_type_hints takes it."""

    def __init__(self, name: str, annotation: Any) -> None:
        self.__annotations__ = {name: annotation}


def _shorthand(given: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """`head_dim: 128` stands for both head dimensions, unless the generator itself has a head_dim."""
    if "head_dim" not in given or not _has_head_dims(parameters):
        return given
    both = dict.fromkeys(_HEAD_DIMS, given["head_dim"])
    return {**both, **{name: value for name, value in given.items() if name != "head_dim"}}


def _has_head_dims(parameters: Iterable[str]) -> bool:
    return "head_dim" not in parameters and all(name in parameters for name in _HEAD_DIMS)


def _accepted(parameters: Iterable[str]) -> list[str]:
    names = list(parameters)
    if _has_head_dims(names):
        names.insert(names.index(_HEAD_DIMS[0]), "head_dim")
    return names


def _unknown(op: str, given: Iterable[str], parameters: dict[str, Any]) -> list[PlanError]:
    accepted = _accepted(parameters)
    takes = f"takes {', '.join(accepted)}" if accepted else "takes no parameters"
    errors = []
    for name in given:
        if name not in accepted:
            suggestion = near(name, accepted)
            message = f"unknown parameter; {op} {takes}{did_you_mean(suggestion)}"
            errors.append(
                PlanError("unknown_parameter", message, parameter=name, accepted=accepted, suggestion=suggestion)
            )
    return errors


def _missing(op: str, present: set[str], parameters: dict[str, Any]) -> list[PlanError]:
    """One error that names all that is missing; both head dimensions are the head_dim that users write."""
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [name for name in required if name not in present]
    if _has_head_dims(missing):
        both = "head_dim" in present
        missing = [name for name in _accepted(missing) if name not in _HEAD_DIMS and not (both and name == "head_dim")]
    if not missing:
        return []
    message = f"missing parameter; {op} needs {', '.join(missing)}"
    return [PlanError("missing_parameter", message, parameter=missing[0], accepted=_accepted(parameters))]


def _defaults(values: dict[str, Any], parameters: dict[str, Any], hints: dict[str, Any]) -> dict[str, Any]:
    """What a user need not say. A default of the generator's own stays untouched."""
    import torch

    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    defaults: dict[str, Any] = {}
    for name in required:
        if name in ("dtype_kv", "dtype_o") and "dtype_q" in values:
            defaults[name] = values["dtype_q"]
        elif name == "dtype_idx":
            defaults[name] = torch.int32
        elif name.startswith(_POSITION):
            defaults[name] = 0
        elif hints.get(name) is bool or name.startswith("use_"):
            defaults[name] = False
    return defaults


def _converted(name: str, value: Any, hint: Any) -> Any:
    import torch

    hint = _without_none(hint)
    if value is None:
        return None
    if name.startswith(_POSITION):
        return _position(name, value)
    if hint is torch.dtype or (hint is None and name.startswith("dtype")):
        return _dtype(name, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _member(name, value, hint)
    if typing.get_origin(hint) is typing.Literal:
        return _one_of(name, value, typing.get_args(hint))
    return _scalar(name, value, hint)


def _without_none(hint: Any) -> Any:
    """The X of Optional[X]; None for a union of more, which is left to the generator to judge."""
    options = typing.get_args(hint)
    if type(None) not in options:
        return hint
    rest = [option for option in options if option is not type(None)]
    return rest[0] if len(rest) == 1 else None


def _position(name: str, value: Any) -> int:
    if isinstance(value, str):
        value = _POSITIONS.get(value.upper(), value)
    if value in _POSITIONS.values() and not isinstance(value, bool):
        return int(value)
    raise _bad_value(name, value, [*_POSITIONS, *map(str, _POSITIONS.values())])


def _dtype(name: str, value: Any) -> Any:
    import torch

    found = getattr(torch, str(value).replace("torch.", "", 1), None)
    if isinstance(found, torch.dtype):
        return found
    dtypes = {_plain(item) for item in vars(torch).values() if isinstance(item, torch.dtype)}
    raise _bad_value(name, value, sorted(dtypes), what="a dtype")


def _member(name: str, value: Any, members: Any) -> Any:
    if value in members.__members__:
        return members[value]
    for member in members:
        if value == member.value and not isinstance(value, bool):
            return member
    raise _bad_value(name, value, list(members.__members__))


def _one_of(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    if value in options:
        return value
    raise _bad_value(name, value, [str(option) for option in options])


def _scalar(name: str, value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) in _COLLECTIONS or hint in _COLLECTIONS:
        raise PlanError("bad_value", f"{name} takes {hint}, which kernels.yaml cannot say", parameter=name)
    if hint not in _SCALARS:
        return value
    fits = isinstance(value, (int, float) if hint is float else hint)
    if fits and isinstance(value, bool) == (hint is bool):
        return value
    raise _bad_value(name, value, [], what=_SCALARS[hint])


def _bad_value(name: str, value: Any, accepted: list[str], what: str = "") -> PlanError:
    suggestion = near(str(value), accepted)
    takes = what or f"one of {', '.join(accepted)}"
    return PlanError(
        "bad_value",
        f"{value!r} is no value for {name}; it takes {takes}{did_you_mean(suggestion)}",
        parameter=name,
        accepted=accepted,
        suggestion=suggestion,
    )
