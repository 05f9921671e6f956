"""Checks of what works row by row: norms, rotary embeddings, gated activations."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import flashinfer
import torch
from verify_inputs import HALVES, HEADS, KV_HEADS, UnsupportedError, afresh, poisoned, random, shuffled
from verify_reference import error, frequencies, llama31_frequencies, rms_norm, tolerance
from verify_reference import rope as turned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from verify_inputs import Check, Measured

_ROWS, _WIDTH, _HEAD = 99, 4096, 128
# Positions: kernels that compute frequencies do so to 3e-7, an error that positions multiply; tables have none.
_COMPUTED, _TABLE = 1024, 4096


def norm(_params: dict[str, Any]) -> Iterator[Check]:
    """RMS norms, plain and with the residual added, by weight and (Gemma) by 1 + weight; layer norm in bfloat16."""
    for dtype in HALVES:
        for name in ("rmsnorm", "gemma_rmsnorm"):
            yield f"{name}, {dtype}", partial(_rms, name, dtype)
        for name in ("fused_add_rmsnorm", "gemma_fused_add_rmsnorm"):
            yield f"{name}, {dtype}", partial(_fused_rms, name, dtype)
    yield "layernorm, torch.bfloat16", _layer


def _factor(name: str, weight: torch.Tensor) -> torch.Tensor:
    return weight.float() + (1.0 if name.startswith("gemma") else 0.0)


def _rms(name: str, dtype: torch.dtype) -> Measured:
    function = getattr(flashinfer, name)
    x, weight = random(_ROWS, _WIDTH, dtype=dtype), random(_WIDTH, dtype=dtype)
    out = poisoned(_ROWS, _WIDTH, dtype=dtype)
    function(x, weight, out=out)
    return error(out, rms_norm(x, _factor(name, weight))), tolerance(dtype), lambda: function(x, weight, out=out)


def _fused_rms(name: str, dtype: torch.dtype) -> Measured:
    """In place: the sum is left in the residual, its norm in the input."""
    function = getattr(flashinfer, name)
    x, residual, weight = (random(*shape, dtype=dtype) for shape in ((_ROWS, _WIDTH), (_ROWS, _WIDTH), (_WIDTH,)))
    total = x.float() + residual.float()
    function(x, residual, weight)
    worst = max(error(residual, total), error(x, rms_norm(total, _factor(name, weight))))
    return worst, tolerance(dtype), lambda: function(x, residual, weight)


def _layer() -> Measured:
    """FlashInfer takes bfloat16 inputs with float32 weights, nothing else."""
    x, weight, bias = random(_ROWS, _WIDTH, dtype=torch.bfloat16), random(_WIDTH), random(_WIDTH)
    out = afresh(flashinfer.layernorm, x, weight, bias)
    expected = torch.nn.functional.layer_norm(x.float(), (_WIDTH,), weight, bias, eps=1e-6)
    return error(out, expected), tolerance(x.dtype), lambda: flashinfer.layernorm(x, weight, bias)


def rope(_params: dict[str, Any]) -> Iterator[Check]:
    """Computed from positions, Llama 3.1's frequencies too, and from a cache of cosines and sines, as servers do."""
    for dtype, interleave in itertools.product(HALVES, (False, True)):
        kind = f"{'interleaved' if interleave else 'halves'}, {dtype}"
        for name in ("apply_rope_pos_ids", "apply_llama31_rope_pos_ids"):
            yield f"{name}, {kind}", partial(_computed, name, dtype, interleave)
        what = f"apply_rope_with_cos_sin_cache_inplace, {kind}"
        yield what, partial(_cached, dtype, interleave)


def _heads(dtype: torch.dtype) -> list[torch.Tensor]:
    """Queries and keys."""
    return [random(_ROWS, heads, _HEAD, dtype=dtype) for heads in (HEADS, KV_HEADS)]


def _computed(name: str, dtype: torch.dtype, interleave: bool) -> Measured:
    function, (q, k), places = getattr(flashinfer, name), _heads(dtype), shuffled(_COMPUTED)[:_ROWS]
    llama31 = llama31_frequencies(_HEAD, 5e5, scale=8, low=1, high=4, context=8192)  # FlashInfer's defaults
    pace = llama31 if "llama31" in name else frequencies(_HEAD, 1e4)
    out = afresh(function, q, k, places, interleave=interleave)
    expected = [turned(x, places, pace, interleave=interleave) for x in (q, k)]
    worst = max(error(*pair) for pair in zip(out, expected, strict=True))
    return worst, tolerance(dtype), lambda: function(q, k, places, interleave=interleave)


def _cached(dtype: torch.dtype, interleave: bool) -> Measured:
    """The whole head in halves, as Llama has it; half of the head interleaved. Positions are int64 in servers."""
    heads, places = _heads(dtype), shuffled(_TABLE)[:_ROWS].long()
    pace = frequencies(_HEAD // 2 if interleave else _HEAD, 1e4).to(places.device)
    angles = torch.arange(_TABLE + 1, device=places.device).float()[:, None] * pace  # kernels read past a row's end
    cache = torch.cat([angles.cos(), angles.sin()], dim=-1)
    expected = [turned(x, places, pace, interleave=interleave) for x in heads]
    flat = [x.flatten(1) for x in heads]

    def run() -> None:
        flashinfer.apply_rope_with_cos_sin_cache_inplace(places, *flat, _HEAD, cache, is_neox=not interleave)

    run()
    return max(error(x.view_as(one), one) for x, one in zip(flat, expected, strict=True)), tolerance(dtype), run


def activation(params: dict[str, Any]) -> Iterator[Check]:
    """A gate applied to one half of each row, times the other half."""
    gates = {
        "silu": (flashinfer.silu_and_mul, torch.nn.functional.silu),
        "gelu": (flashinfer.gelu_and_mul, torch.nn.functional.gelu),
        "gelu_tanh": (flashinfer.gelu_tanh_and_mul, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    }
    name = str(params.get("act_func_name"))
    if name not in gates:
        raise UnsupportedError(f"no reference for {name}")
    for dtype in HALVES:
        yield f"{name}_and_mul, {dtype}", partial(_gate, *gates[name], dtype)


def _gate(function: Callable[..., Any], gate: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> Measured:
    width = 1536
    x, out = random(65, 2 * width, dtype=dtype), poisoned(65, width, dtype=dtype)
    function(x, out=out)
    expected = gate(x[:, :width].float()) * x[:, width:].float()
    return error(out, expected), tolerance(dtype), lambda: function(x, out=out)
