"""Finds the function of FlashInfer that makes a CuTe-DSL kernel, and turns what kernels.yaml says into its arguments.

An op is `module:function`, as in `flashinfer.norm.kernels.rmsnorm_sigmoid_gate:_get_compiled`: most are private, cached
functions that take what a kernel is compiled for. What is found is called, so it must be a function of FlashInfer's, in
a module that compiles with CuTe-DSL by its source, which is read before the module is imported.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plan_parameters as parameters
from plan_errors import PlanError, did_you_mean, near, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

_OP = re.compile(r"(flashinfer(?:\.\w+)+):(\w+)", re.ASCII)
_COMPILES = re.compile(rb"\bcute\.compile\b|\bbuild_and_load_cute_dsl_kernel\(")


def find_function(op: str) -> Callable[..., Any]:
    """The function of an op, its cache taken off: what it makes is made again. Raises PlanError."""
    match = _OP.fullmatch(op)
    if not match or match.group(1).startswith("flashinfer.jit"):
        raise PlanError("unknown_op", f"{op} is no function of FlashInfer that makes CuTe-DSL kernels: {_FORM}")
    module_name, name = match.groups()
    if not _COMPILES.search(_source(module_name)):
        raise PlanError("unknown_op", f"{module_name} makes no CuTe-DSL kernels, or isn't in this FlashInfer; {_FORM}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PlanError("unknown_op", f"{module_name} cannot be imported: {one_line(error)}") from error
    function = inspect.unwrap(vars(module).get(name, find_function))
    if not inspect.isfunction(function) or function.__globals__ is not vars(module):
        raise _no_function(module, name)
    return function


_FORM = "write `module:function`, like flashinfer.norm.kernels.rmsnorm_sigmoid_gate:_get_compiled"


def _source(module: str) -> bytes:
    """The source of a module of FlashInfer; empty where there is none. Nothing is imported for it."""
    file = Path(str(sys.modules["flashinfer"].__file__)).parent.joinpath(*module.split(".")[1:])
    for path in (file.with_suffix(".py"), file / "__init__.py"):
        if path.is_file():
            return path.read_bytes()
    return b""


def _no_function(module: Any, name: str) -> PlanError:
    functions = sorted(key for key, value in vars(module).items() if _is_own(value, module))
    suggestion = near(name, functions)
    message = f"unknown op; {module.__name__} has no function {name}{did_you_mean(suggestion)}"
    full = suggestion and f"{module.__name__}:{suggestion}"
    return PlanError("unknown_op", message, accepted=functions, suggestion=full)


def _is_own(value: Any, module: Any) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module.__name__ and not inspect.isclass(value)


def arguments_for(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the function, dtypes of torch and CuTe-DSL made of their names. Raises PlanError."""
    hints = parameters._hints(function)
    return parameters.arguments_for(
        function, {name: _value(name, value, hints.get(name)) for name, value in given.items()}
    )


def _value(name: str, value: Any, hint: Any) -> Any:
    """What a text stands for: a device, or a dtype where the function doesn't say that it takes a text."""
    import torch

    if not isinstance(value, str):
        return value
    if hint is torch.device:
        return torch.device(value)
    return _dtype(name, value) if hint is None and name.endswith("dtype") else value


def _dtype(parameter: str, name: str) -> Any:
    known = _dtypes()
    if name in known:
        return known[name]
    suggestion = near(name, known)
    message = (
        f"{name!r} is no value for {parameter}; it takes a dtype of torch or of CuTe-DSL{did_you_mean(suggestion)}"
    )
    raise PlanError("bad_value", message, parameter=parameter, accepted=sorted(known), suggestion=suggestion)


def _dtypes() -> dict[str, Any]:
    """By name: torch's have small letters (float32), CuTe-DSL's don't (Float32)."""
    import cutlass
    import torch

    numerics = {key: value for key, value in vars(cutlass).items() if inspect.isclass(value)}
    dtypes = {key: value for key, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return {**{key: value for key, value in numerics.items() if issubclass(value, cutlass.Numeric)}, **dtypes}


def as_json(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """All arguments, defaults included, as kernels.yaml would say them."""
    said = parameters.as_json(function, arguments)
    return said | {name: value.__name__ for name, value in arguments.items() if inspect.isclass(value)}
