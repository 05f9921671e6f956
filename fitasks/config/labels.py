"""Names for kernels: short, stable, valid as doit's subtask names.

A label is made from one point of a matrix alone, so that adding a value to a list renames nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.config.dtypes import SHORT
from fitasks.config.shorthands import HEAD_DIM, HEAD_DIMS, goes_without_saying

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.config.model import Scalar

_WORDS = {
    "pos_encoding_mode": "pos",
    "use_sliding_window": "swa",
    "use_logits_soft_cap": "cap",
    "use_fp16_qk_reduction": "f16qk",
}
_UNUSABLE = re.compile(r"[^A-Za-z0-9_.+-]+")


def label(entry: str, params: Mapping[str, Scalar]) -> str:
    """`prefill-fa3-bf16-d128`: the entry's name and what is worth telling of each parameter, in order.

    What the entry's name says already isn't said again: `fa3-bf16-d128` of the entry `fa3`, whose backend is fa3.
    """
    parts = (_part(name, value, params) for name, value in params.items())
    return "-".join([entry, *(part for part in parts if part and part not in entry.split("-"))])


def _part(name: str, value: Scalar, params: Mapping[str, Scalar]) -> str:
    if "dtype" in name and isinstance(value, str) and value in SHORT:
        return _dtype(name, value, params)
    if name.startswith(HEAD_DIM):
        return _head_dim(name, value, params)
    match value:
        case bool():
            return _WORDS.get(name, name.removeprefix("use_").replace("_", "-")) if value else ""
        case str():
            return _UNUSABLE.sub("-", value).strip("-")
        case int() | float() if value:
            return f"{_WORDS.get(name, name)}{value}"
        case _:
            return ""


def _dtype(name: str, value: str, params: Mapping[str, Scalar]) -> str:
    """`bf16` for dtype_q, `kv_e4m3` for dtype_kv, `out_bf16` for out_dtype."""
    if goes_without_saying(name, value, params):
        return ""
    whose = name.removeprefix("dtype").removesuffix("dtype").strip("_")
    return f"{whose}_{SHORT[value]}" if whose not in {"", "q"} else SHORT[value]


def _head_dim(name: str, value: Scalar, params: Mapping[str, Scalar]) -> str:
    """`d128`, `d192x128` where both are given, `ckv512` for MLA's."""
    if set(HEAD_DIMS) <= params.keys() and name in HEAD_DIMS:
        qk, vo = (params[one] for one in HEAD_DIMS)
        first = next(key for key in params if key in HEAD_DIMS)
        size = f"d{qk}" if qk == vo else f"d{qk}x{vo}"
        return _UNUSABLE.sub("-", size) if name == first else ""
    which = name.removeprefix(HEAD_DIM).strip("_")
    return _UNUSABLE.sub("-", f"{which or 'd'}{value}")
