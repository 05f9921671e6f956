"""Checks of attention: decode and prefill, over pages and over ragged tensors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import flashinfer
import torch
from verify_inputs import (
    HALVES,
    HEADS,
    KV_HEADS,
    PAGE,
    Pages,
    UnsupportedError,
    cumulated,
    dtype_of,
    poisoned,
    random,
    workspace,
)
from verify_reference import attention, error, tolerance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verify_inputs import Check, Measured

_WINDOW, _CAP = 37, 5.0
# Standard deviation of the scores. Twice the usual: an error in the mask or the scale then moves the result by far
# more than rounding does. Under a soft cap as far beyond it as an error in the cap needs in order to show.
_SPREAD, _CAPPED_SPREAD = 2.0, 10.0

_DECODED = [1, 17, 130, 777]
_QUERIES, _KEYS = [1, 33, 128, 200], [300, 33, 641, 200]
_CACHES = (*HALVES, torch.float8_e4m3fn, torch.float8_e5m2)


class _Variant:
    """A module's parameters: under which arguments a wrapper loads it, and what it should compute."""

    def __init__(self, params: dict[str, Any]) -> None:
        _refuse(params)
        self.backend = params.get("backend", "fa2")
        self.q, self.kv, self.o = (dtype_of(params, name) for name in ("dtype_q", "dtype_kv", "dtype_o"))
        self.dims: tuple[int, int] = params["head_dim_qk"], params["head_dim_vo"]
        self.window = _WINDOW if params["use_sliding_window"] else -1
        self.cap = _CAP if params["use_logits_soft_cap"] else 0.0
        self.limit = tolerance(self.q, self.o, cap=self.cap)
        # FlashInfer plans a window for causal attention, in which nothing after a query's own position is needed.
        self.masks = [True] if params["use_sliding_window"] else [True, False]

    def options(self) -> dict[str, Any]:
        """What `plan` is told."""
        types = {"q_data_type": self.q, "kv_data_type": self.kv, "o_data_type": self.o}
        return types | {"window_left": self.window, "logits_soft_cap": self.cap}

    def queries(self, count: int) -> torch.Tensor:
        spread = _CAPPED_SPREAD if self.cap else _SPREAD
        return random(count, HEADS, self.dims[0], dtype=self.q, spread=spread)

    def cache(self, pages: Pages) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values."""
        k, v = (random(pages.count, PAGE, KV_HEADS, dim, dtype=self.kv) for dim in self.dims)
        return k, v

    def output(self, count: int) -> torch.Tensor:
        return poisoned(count, HEADS, self.dims[1], dtype=self.o)

    def expected(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
        """One request's output; the scale is the wrappers' own default."""
        return attention(q, k, v, scale=self.dims[0] ** -0.5, causal=causal, window=self.window, cap=self.cap)


def _refuse(params: dict[str, Any]) -> None:
    """Raise UnsupportedError for what has no reference, or no wrapper that takes it."""
    if params.get("pos_encoding_mode"):
        raise UnsupportedError("a position encoding inside attention")
    if params.get("dtype_idx", "int32") != "int32":
        raise UnsupportedError(f"page tables of {params['dtype_idx']}: FlashInfer's wrappers keep theirs in int32")
    if dtype_of(params, "dtype_q") not in HALVES or dtype_of(params, "dtype_o") not in HALVES:
        raise UnsupportedError("quantized queries or outputs")
    if dtype_of(params, "dtype_kv") not in _CACHES:
        raise UnsupportedError(f"a cache of {params['dtype_kv']}")
    if params.get("use_fp16_qk_reduction") and params["dtype_q"] == "float16":
        raise UnsupportedError("scores summed up in float16, whose error grows with the head")


def batch_decode(params: dict[str, Any]) -> Iterator[Check]:
    """One query per request, over pages."""
    variant = _Variant(params)
    if variant.dims[0] != variant.dims[1]:
        raise UnsupportedError("head_dim_qk other than head_dim_vo")
    yield "paged, 4 requests of 1 to 777 tokens", lambda: _decode(variant)


def batch_prefill(params: dict[str, Any]) -> Iterator[Check]:
    """Several queries per request, over pages and ragged; for fa2 decode by tensor cores, which is the same module."""
    variant = _Variant(params)
    paged, ragged = variant.dims[0] == variant.dims[1], variant.kv == variant.q
    if not paged and not ragged:
        raise UnsupportedError("head_dim_qk other than head_dim_vo over a quantized cache")
    for causal in variant.masks if paged else []:
        yield f"paged, {_masked(causal)}", partial(_prefill_paged, params, variant, causal)
    for causal in variant.masks if ragged else []:
        yield f"ragged, {_masked(causal)}", partial(_prefill_ragged, params, variant, causal)
    if paged and variant.backend == "fa2" and not params.get("use_fp16_qk_reduction"):
        yield "decode by tensor cores", lambda: _decode(variant, tensor_cores=True)


def _masked(causal: bool) -> str:
    return "causal" if causal else "not causal"


def _decode(variant: _Variant, *, tensor_cores: bool = False) -> Measured:
    """With tensor cores FlashInfer runs its prefill module; told fa2, because over float8 it would choose fa3."""
    pages, count = Pages(_DECODED), len(_DECODED)
    (k, v), q, out = variant.cache(pages), variant.queries(count), variant.output(count)
    backend = "fa2" if tensor_cores else "auto"
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace(), "NHD", use_tensor_cores=tensor_cores, backend=backend
    )
    shape = (HEADS, KV_HEADS, variant.dims[0], PAGE)
    wrapper.plan(pages.indptr, pages.indices, pages.last, *shape, pos_encoding_mode="NONE", **variant.options())
    wrapper.run(q, (k, v), out=out)
    parts = [
        variant.expected(q[at : at + 1], pages.read(k, at), pages.read(v, at), causal=False) for at in range(count)
    ]
    return error(out, torch.cat(parts)), variant.limit, lambda: wrapper.run(q, (k, v), out=out)


def _prefill_options(params: dict[str, Any], variant: _Variant, causal: bool) -> dict[str, Any]:
    return variant.options() | {"causal": causal, "use_fp16_qk_reduction": bool(params.get("use_fp16_qk_reduction"))}


def _prefill_paged(params: dict[str, Any], variant: _Variant, causal: bool) -> Measured:
    pages, begin = Pages(_KEYS), cumulated(_QUERIES)
    (k, v), q, out = variant.cache(pages), variant.queries(sum(_QUERIES)), variant.output(sum(_QUERIES))
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace(), "NHD", backend=variant.backend)
    tables, shape = (begin, pages.indptr, pages.indices, pages.last), (HEADS, KV_HEADS, variant.dims[0], PAGE)
    wrapper.plan(*tables, *shape, **_prefill_options(params, variant, causal))
    wrapper.run(q, (k, v), out=out)
    parts = [
        variant.expected(q[begin[at] : begin[at + 1]], pages.read(k, at), pages.read(v, at), causal=causal)
        for at in range(len(_QUERIES))
    ]
    return error(out, torch.cat(parts)), variant.limit, lambda: wrapper.run(q, (k, v), out=out)


def _prefill_ragged(params: dict[str, Any], variant: _Variant, causal: bool) -> Measured:
    begin, keys, dims = cumulated(_QUERIES), cumulated(_KEYS), variant.dims
    q, out = variant.queries(sum(_QUERIES)), variant.output(sum(_QUERIES))
    k, v = (random(sum(_KEYS), KV_HEADS, dim, dtype=variant.kv) for dim in dims)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace(), "NHD", backend=variant.backend)
    shape = {"num_qo_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim_qk": dims[0], "head_dim_vo": dims[1]}
    wrapper.plan(begin, keys, **shape, **_prefill_options(params, variant, causal))
    wrapper.run(q, k, v, out=out)
    parts = [
        variant.expected(q[begin[at] : begin[at + 1]], *(x[keys[at] : keys[at + 1]] for x in (k, v)), causal=causal)
        for at in range(len(_QUERIES))
    ]
    return error(out, torch.cat(parts)), variant.limit, lambda: wrapper.run(q, k, v, out=out)
