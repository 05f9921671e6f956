"""Checks of multi-head latent attention: one query per request, and several with a causal mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flashinfer
import torch
from verify_inputs import HALVES, Pages, UnsupportedError, cumulated, dtype_of, indices, poisoned, random, workspace
from verify_reference import attention, error, tolerance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verify_inputs import Check, Measured

_HEADS, _PAGE = 16, 64


def batch_mla(params: dict[str, Any]) -> Iterator[Check]:
    """Over pages of compressed keys, which are the values as well, and of rotary keys."""
    if params["dtype_kv"] != params["dtype_q"] or params.get("use_profiler"):
        raise UnsupportedError("quantized or profiled MLA")
    if params.get("dtype_idx", "int32") != "int32":
        raise UnsupportedError(f"page tables of {params['dtype_idx']}: FlashInfer's wrappers keep theirs in int32")
    if dtype_of(params, "dtype_q") not in HALVES:
        raise UnsupportedError(f"queries of {params['dtype_q']}")
    yield "paged, 3 requests of 1 to 500 tokens", lambda: _mla(params, [1, 1, 1], [1, 64, 500], causal=False)
    yield "paged, causal, 1 to 40 queries each", lambda: _mla(params, [3, 1, 40], [64, 65, 500], causal=True)


def _mla(params: dict[str, Any], queries: list[int], lengths: list[int], *, causal: bool) -> Measured:
    dtype, pages, begin = dtype_of(params, "dtype_q"), Pages(lengths, _PAGE), cumulated(queries)
    ckv_dim, kpe_dim = dims = params["head_dim_ckv"], params["head_dim_kpe"]
    ckv, kpe = (random(pages.count, _PAGE, dim, dtype=dtype) for dim in dims)
    q, q_pe = (random(sum(queries), _HEADS, dim, dtype=dtype) for dim in dims)
    scale = (128 + kpe_dim) ** -0.5
    wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(workspace(), backend=params["backend"])
    tables = (begin, pages.indptr, pages.indices, indices(lengths))
    wrapper.plan(*tables, _HEADS, ckv_dim, kpe_dim, _PAGE, causal, scale, dtype, dtype)
    out = poisoned(sum(queries), _HEADS, ckv_dim, dtype=dtype)
    wrapper.run(q, q_pe, ckv, kpe, out=out)
    parts = []
    for at in range(len(lengths)):
        values = pages.read(ckv, at)[:, None]
        keys = torch.cat([values, pages.read(kpe, at)[:, None]], dim=-1)
        query = torch.cat([one[begin[at] : begin[at + 1]] for one in (q, q_pe)], dim=-1)
        parts.append(attention(query, keys, values, scale=scale, causal=causal))
    return error(out, torch.cat(parts)), tolerance(dtype), lambda: wrapper.run(q, q_pe, ckv, kpe, out=out)
