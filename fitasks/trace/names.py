"""The name of a module → what kernels.yaml might say for it.

Names aren't meant to be read back, and each FlashInfer version makes them differently. So whatever op and parameters
the name could speak of is a candidate; resolve.py plans them all and believes one only if it gives exactly this name,
and no other kernel does.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING

from fitasks.config.dtypes import SHORT
from fitasks.config.shorthands import FOLLOWS
from fitasks.trace.entries import Entry, brief

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.base.answers import Parameter
    from fitasks.config.model import Scalar
    from fitasks.plan.offers import Op

_MOST = 64  # combinations of one op that are tried for one name
# What names call a parameter, where it isn't the parameter's own name (0.6.7 to 0.7.2: jit/attention, xqa, mamba).
_WORDS = {
    "pos_encoding_mode": ("posenc",),
    "use_sliding_window": ("use_swa",),
    "use_logits_soft_cap": ("use_logits_cap",),
    "use_fp16_qk_reduction": ("f16qk",),
    "use_profiler": ("profiler",),
    "input_dtype": ("input", "i"),
    "kv_cache_dtype": ("kv_cache",),
    "output_dtype": ("output",),
    "q_seq_len": ("spec_q_seq_len",),
    "state_dtype": ("s",),
    "weight_dtype": ("w",),
    "matrixA_dtype": ("a",),
    "stateIndex_dtype": ("si",),
    "state_scale_dtype": ("sc",),
    "dim": ("d",),
    "dstate": ("ds",),
    "ntokens_mtp": ("nt",),
    "cu_seqlens_dtype": ("cs",),
    "num_accepted_tokens_dtype": ("na",),
    "philox_rounds": ("pr",),
}
_DTYPES = {short: name for name, short in SHORT.items()} | {
    "fp4_e2m1": "float4_e2m1fn_x2",
    "fp4x2_e2m1": "float4_e2m1fn_x2",
}
_VALUES = {
    "dtype": "|".join(sorted(_DTYPES, key=len, reverse=True)),
    "bool": "True|False|true|false",
    "int": r"\d+",
}


def entries_of_name(name: str, known: Sequence[Op]) -> Iterator[Entry]:
    """All that might be called so, of FlashInfer's nvcc modules."""
    for op in known:
        if op.kind == "flashinfer" and not op.unsayable and _related(op, name):
            yield from _entries(op, name)


def _related(op: Op, name: str) -> bool:
    """Ops with many parameters say all their words in their names; others at least one."""
    words = set(re.sub(r"^gen_|_module\b", "", op.name.rpartition(":")[2]).split("_"))
    said = set(name.split("_"))
    spelled_out = any(one.required and not one.accepted for one in op.parameters)
    return words <= said if spelled_out else any(_begins_alike(word, said) for word in words)


def _begins_alike(word: str, said: set[str]) -> bool:
    """`dequantization` and `dequant`."""
    return len(word) > 1 and any(len(other) > 1 and (word.startswith(other) or other in word) for other in said)


def _entries(op: Op, name: str) -> Iterator[Entry]:
    choices = {one.name: _choices(one, name) for one in op.parameters}
    if all(choices.values()) and math.prod(map(len, choices.values())) <= _MOST:
        for values in itertools.product(*choices.values()):
            yield Entry(op.name, brief(_settled(dict(zip(choices, values, strict=True))), op))


def _settled(values: dict[str, Scalar]) -> dict[str, Scalar]:
    """A default that follows dtype_q is left to the planner."""
    return {name: value for name, value in values.items() if value != FOLLOWS}


def _choices(one: Parameter, name: str) -> list[Scalar]:
    """What the name says of a parameter; where it says nothing, everything that it may be."""
    if one.type == "list":  # kernels.yaml can't say one: its default it is, or this op can't be meant
        return [] if one.required else [one.default]
    said = [value for word in (one.name, *_WORDS.get(one.name, ())) for value in _said(word, one.type, name)]
    if said:
        return said[:1]
    return list(dict.fromkeys([*([] if one.required else [one.default]), *one.accepted]))


def _said(word: str, kind: str, name: str) -> Iterator[Scalar]:
    if kind in _VALUES and (found := re.search(rf"(?:^|_){word}_({_VALUES[kind]})(?=_|$)", name)):
        value = found[1]
        yield _DTYPES[value] if kind == "dtype" else int(value) if kind == "int" else value.lower() == "true"
