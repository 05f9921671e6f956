"""Modules that a wrapper of FlashInfer names itself, and no generator of its own does.

The attention sinks' wrapper hands its own name and additional tensors to a generator that makes modules of any name;
`gen_batch_prefill_attention_sink_module` makes another name, which FlashInfer's benchmark registry alone asks for. So
the wrapper is asked: constructed on the CPU, it gets as far as its module.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from typing import TYPE_CHECKING, Any

from plan_errors import PlanError, one_line
from plan_spec import replaced

if TYPE_CHECKING:
    from collections.abc import Callable

_WRAPPERS = {"gen_batch_prefill_attention_sink_module": "BatchAttentionWithAttentionSinkWrapper"}
_SAID = {"dtype_q": "q_data_type", "dtype_kv": "kv_data_type", "dtype_o": "o_data_type"}


class _Asked(Exception):
    """The wrapper has asked for this module."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec


def of_wrapper(generator: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a generator with the same parameters, of the module that the wrapper loads; None where there's no wrapper.

    It is called what the wrapper is, so that a record says what made its module.
    """
    wrapper = getattr(sys.modules.get("flashinfer.attention"), _WRAPPERS.get(generator.__name__, ""), None)
    if wrapper is None:
        return None

    @functools.wraps(generator)
    def ask(**arguments: Any) -> Any:
        return _asked_for(wrapper, arguments)

    ask.__module__, ask.__name__ = wrapper.__module__, wrapper.__name__
    return ask


def _asked_for(wrapper: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    import torch
    from flashinfer.jit import core

    options = _options(wrapper, arguments)

    def loads(spec: Any, *_args: Any, **_options: Any) -> None:
        raise _Asked(spec)

    with replaced(core.JitSpec, "build_and_load", loads):
        try:
            wrapper(torch.empty(1024, dtype=torch.uint8), **options)
        except _Asked as asked:
            return asked.spec
        except Exception as error:
            raise PlanError("generator", f"{wrapper.__name__} raised {one_line(error)}") from error
    raise PlanError("generator", f"{wrapper.__name__} loads no module when it is made")


def _options(wrapper: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The wrapper's own arguments. Raises PlanError for what it has no way to ask for."""
    accepted = inspect.signature(wrapper).parameters
    positions = importlib.import_module("flashinfer.utils").PosEncodingMode
    options: dict[str, Any] = {}
    for name, value in arguments.items():
        if name == "pos_encoding_mode":
            options[name] = positions(value).name
        elif name == "use_sliding_window":
            options["window_left"] = 0 if value else -1
        elif _SAID.get(name, name) in accepted:
            options[_SAID.get(name, name)] = value
        else:
            _needs_the_fixed(name, value, arguments, wrapper)
    return options


def _needs_the_fixed(name: str, value: Any, arguments: dict[str, Any], wrapper: Callable[..., Any]) -> None:
    """Raise PlanError unless a parameter that the wrapper doesn't have is what the wrapper takes anyway."""
    import torch

    fixed = {"dtype_o": arguments.get("dtype_q"), "dtype_idx": torch.int32}.get(name)
    if value == fixed:
        return
    shown = str(fixed).replace("torch.", "")
    message = f"{wrapper.__name__}, which loads this module, takes {shown} for {name} and nothing else"
    raise PlanError("bad_value", message, parameter=name, accepted=[shown])
