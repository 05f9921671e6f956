"""Checks of what must be exact: entries appended to a paged cache, bits packed, the largest elements selected."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import flashinfer
import torch
from verify_inputs import HALVES, KV_HEADS, PAGE, Pages, afresh, cumulated, indices, poisoned, random
from verify_reference import error, exact, packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verify_inputs import Check, Measured


def page(_params: dict[str, Any]) -> Iterator[Check]:
    """Keys and values appended in both layouts, and MLA's; every other slot of the cache must stay as it was."""
    for dtype in (*HALVES, torch.float8_e4m3fn):
        for layout in ("NHD", "HND"):
            what = f"append_paged_kv_cache, {layout}, {dtype}"
            yield what, partial(_append, dtype, layout)
    for dtype in HALVES:
        yield f"append_paged_mla_kv_cache, {dtype}", partial(_append_mla, dtype)


def _places(pages: Pages) -> tuple[torch.Tensor, torch.Tensor]:
    """Each appended token's request, and its position there."""
    tokens = [(request, at) for request, length in enumerate(pages.lengths) for at in range(length)]
    requests, positions = zip(*tokens, strict=True)
    return indices(list(requests)), indices(list(positions))


def _stored(pages: Pages, cache: torch.Tensor, tokens: torch.Tensor) -> float:
    """Whether a cache (pages, size, …) that was NaN all over holds the tokens, and nothing else."""
    written = cache.numel() - cache.float().isnan().sum().item()
    return error(pages.read_all(cache), tokens) if written == tokens.numel() else math.inf


def _append(dtype: torch.dtype, layout: str) -> Measured:
    pages, dim = Pages([5, 40, 16]), 128
    shape = (PAGE, KV_HEADS, dim) if layout == "NHD" else (KV_HEADS, PAGE, dim)
    cache = tuple(poisoned(pages.count, *shape, dtype=dtype) for _ in range(2))
    tokens = [random(sum(pages.lengths), KV_HEADS, dim, dtype=dtype) for _ in range(2)]
    tables = (pages.indices, pages.indptr, pages.last)
    places = _places(pages)

    def run() -> None:
        flashinfer.append_paged_kv_cache(*tokens, *places, cache, *tables, kv_layout=layout)

    run()
    by_token = [one if layout == "NHD" else one.transpose(1, 2) for one in cache]
    return max(_stored(pages, *pair) for pair in zip(by_token, tokens, strict=True)), 0.0, run


def _append_mla(dtype: torch.dtype) -> Measured:
    pages = Pages([5, 40, 16])
    cache = [poisoned(pages.count, PAGE, dim, dtype=dtype) for dim in (512, 64)]
    tokens = [random(sum(pages.lengths), dim, dtype=dtype) for dim in (512, 64)]
    tables = (pages.indices, pages.indptr, pages.last)
    places = _places(pages)

    def run() -> None:
        flashinfer.append_paged_mla_kv_cache(*tokens, *places, *cache, *tables)

    run()
    return max(_stored(pages, *pair) for pair in zip(cache, tokens, strict=True)), 0.0, run


def quantization(_params: dict[str, Any]) -> Iterator[Check]:
    """Bits packed in both orders, and in segments that begin at a byte each."""
    for order in ("big", "little"):
        yield f"packbits, {order}", partial(_pack, order)
    yield "segment_packbits", _pack_segments


def _pack(order: str) -> Measured:
    bits = random(4099) > 0.3
    out = afresh(flashinfer.packbits, bits, order)
    return exact(out, packed(bits, little=order == "little")), 0.0, lambda: flashinfer.packbits(bits, order)


def _pack_segments() -> Measured:
    lengths = [3, 129, 64]
    bits, begin = random(sum(lengths)) > 0.3, cumulated(lengths)
    out, _ = afresh(flashinfer.segment_packbits, bits, begin, "little")
    expected = torch.cat([packed(bits[begin[at] : begin[at + 1]], little=True) for at in range(len(lengths))])
    return exact(out, expected), 0.0, lambda: flashinfer.segment_packbits(bits, begin, "little")


def topk(_params: dict[str, Any]) -> Iterator[Check]:
    """The largest elements, sorted or in any order, for each type of input; FlashInfer takes different kernels."""
    for dtype in (torch.float32, *HALVES):
        for ordered in (True, False):
            what = f"top_k, {'sorted' if ordered else 'unsorted'}, {dtype}"
            yield what, partial(_largest, dtype, ordered)


def _largest(dtype: torch.dtype, ordered: bool) -> Measured:
    """Of equal elements any may be taken, each once."""
    x, count = random(33, 50_000, dtype=dtype), 64
    values, places = afresh(flashinfer.top_k, x, count, sorted=ordered)

    def run() -> None:
        flashinfer.top_k(x, count, sorted=ordered)

    places = places.long()
    if ((places < 0) | (places >= x.shape[1])).any() or (places.sort(dim=1).values.diff(dim=1) == 0).any():
        return math.inf, 0.0, run
    found = values if ordered else values.sort(dim=1, descending=True).values
    expected = x.topk(count, sorted=True).values
    return max(exact(found, expected), exact(x.gather(1, places), values)), 0.0, run
