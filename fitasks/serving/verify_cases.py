"""What is computed to prove a module, by op: through FlashInfer's public API, compared with float32 in torch.

A case takes the module's parameters (as the planner reports them) and yields checks: what is computed, and a function
that computes it and returns (error, tolerance, function to time). A module whose op has no case is only loaded.
"""

from __future__ import annotations

import importlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import flashinfer
import torch
from verify_reference import attention, distribution_error, error, merged, poisoned, random, rope, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Measured = tuple[float, float, Callable[[], Any]]
    Check = tuple[str, Callable[[], Measured]]

_HALVES = (torch.float16, torch.bfloat16)
_PAGE = 16
_HEADS, _KV_HEADS = 8, 2
_WINDOW, _CAP = 37, 20.0
_WORKSPACE = 256 << 20  # bytes


class UnsupportedError(Exception):
    """Nothing to compare with; the module is only loaded."""


def checks_for(op: str, params: dict[str, Any]) -> Iterator[Check]:
    """The checks of an op. Raises UnsupportedError where there are none."""
    if op not in CASES:
        raise UnsupportedError(f"no reference for {op}")
    yield from CASES[op](params)


def _dtype(params: dict[str, Any], name: str) -> torch.dtype:
    found = getattr(torch, str(params[name]))
    if not isinstance(found, torch.dtype):
        raise UnsupportedError(f"{name} {params[name]}")
    return found


def _plain(params: dict[str, Any]) -> None:
    if params.get("pos_encoding_mode"):
        raise UnsupportedError("a position encoding inside attention")
    if _dtype(params, "dtype_q").itemsize < 2:
        raise UnsupportedError("quantized queries")
    if params.get("head_dim_qk") != params.get("head_dim_vo") and params.get("backend") != "fa3":
        raise UnsupportedError("head_dim_qk other than head_dim_vo")


class _Paged:
    """A paged cache of requests with the given lengths, filled at random, pages in random order."""

    def __init__(self, lengths: list[int], dim: int, dtype: torch.dtype) -> None:
        pages = [math.ceil(length / _PAGE) for length in lengths]
        self.lengths, self.dim = lengths, dim
        self.indptr = _cumulated(pages)
        self.indices = torch.randperm(sum(pages), device="cuda", dtype=torch.int32)
        self.last = torch.tensor([(length - 1) % _PAGE + 1 for length in lengths], device="cuda", dtype=torch.int32)
        self.k, self.v = (random(sum(pages), _PAGE, _KV_HEADS, dim, dtype=dtype) for _ in range(2))

    def of(self, request: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one request, (length, kv heads, dim)."""
        pages = self.indices[self.indptr[request] : self.indptr[request + 1]].long()
        length = self.lengths[request]
        return tuple(cache[pages].flatten(0, 1)[:length] for cache in (self.k, self.v))  # type: ignore[return-value]


def _cumulated(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(counts)], device="cuda", dtype=torch.int32)


def _variant(params: dict[str, Any]) -> dict[str, Any]:
    """The options of `plan` under which a wrapper loads this variant."""
    options: dict[str, Any] = {"q_data_type": _dtype(params, "dtype_q"), "kv_data_type": _dtype(params, "dtype_kv")}
    if params["use_sliding_window"]:
        options["window_left"] = _WINDOW
    if params["use_logits_soft_cap"]:
        options["logits_soft_cap"] = _CAP
    if params["dtype_o"] != params["dtype_q"]:
        options["o_data_type"] = _dtype(params, "dtype_o")
    return options


def _expected(
    params: dict[str, Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
) -> torch.Tensor:
    window = _WINDOW if params["use_sliding_window"] else -1
    cap = _CAP if params["use_logits_soft_cap"] else 0.0
    return attention(q, k, v, scale=q.shape[-1] ** -0.5, causal=causal, window=window, cap=cap)


def _workspace() -> torch.Tensor:
    return torch.zeros(_WORKSPACE, device="cuda", dtype=torch.uint8)


def _batch_decode(params: dict[str, Any]) -> Iterator[Check]:
    _plain(params)

    def paged() -> Measured:
        cache = _Paged([1, 17, 130, 777], params["head_dim_qk"], _dtype(params, "dtype_kv"))
        q = random(4, _HEADS, cache.dim, dtype=_dtype(params, "dtype_q"))
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(_workspace(), "NHD", use_tensor_cores=False)
        shape = (_HEADS, _KV_HEADS, cache.dim, _PAGE)
        wrapper.plan(cache.indptr, cache.indices, cache.last, *shape, pos_encoding_mode="NONE", **_variant(params))
        out = poisoned(4, _HEADS, cache.dim, dtype=_dtype(params, "dtype_o"))
        wrapper.run(q, (cache.k, cache.v), out=out)
        expected = [_expected(params, q[at : at + 1], *cache.of(at), causal=False) for at in range(4)]
        return error(out, torch.cat(expected)), tolerance(q.dtype), lambda: wrapper.run(q, (cache.k, cache.v), out=out)

    yield "paged, 4 requests of 1 to 777 tokens", paged


def _batch_prefill(params: dict[str, Any]) -> Iterator[Check]:
    _plain(params)
    if params["head_dim_qk"] == params["head_dim_vo"]:
        for causal in (True, False):
            yield f"paged, {'causal' if causal else 'not causal'}", lambda causal=causal: _prefill_paged(params, causal)
    if _dtype(params, "dtype_kv") == _dtype(params, "dtype_q"):
        yield "ragged, causal", lambda: _prefill_ragged(params)


_QUERIES, _KEYS = [1, 33, 128, 200], [300, 33, 641, 200]


def _prefill_options(params: dict[str, Any]) -> dict[str, Any]:
    fp16 = {"use_fp16_qk_reduction": True} if params.get("use_fp16_qk_reduction") else {}
    return _variant(params) | fp16


def _prefill_paged(params: dict[str, Any], causal: bool) -> Measured:
    cache = _Paged(_KEYS, params["head_dim_qk"], _dtype(params, "dtype_kv"))
    q = random(sum(_QUERIES), _HEADS, cache.dim, dtype=_dtype(params, "dtype_q"))
    indptr = _cumulated(_QUERIES)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(_workspace(), "NHD", backend=params["backend"])
    shape = (_HEADS, _KV_HEADS, cache.dim, _PAGE)
    tables = (indptr, cache.indptr, cache.indices, cache.last)
    wrapper.plan(*tables, *shape, causal=causal, **_prefill_options(params))
    out = poisoned(sum(_QUERIES), _HEADS, cache.dim, dtype=_dtype(params, "dtype_o"))
    wrapper.run(q, (cache.k, cache.v), out=out)
    parts = [
        _expected(params, q[indptr[at] : indptr[at + 1]], *cache.of(at), causal=causal) for at in range(len(_QUERIES))
    ]
    limit = tolerance(q.dtype) * (8 if params.get("use_fp16_qk_reduction") else 1)
    return error(out, torch.cat(parts)), limit, lambda: wrapper.run(q, (cache.k, cache.v), out=out)


def _prefill_ragged(params: dict[str, Any]) -> Measured:
    dtype, dims = _dtype(params, "dtype_q"), (params["head_dim_qk"], params["head_dim_vo"])
    q = random(sum(_QUERIES), _HEADS, dims[0], dtype=dtype)
    k, v = (random(sum(_KEYS), _KV_HEADS, dim, dtype=dtype) for dim in dims)
    begin, keys = _cumulated(_QUERIES), _cumulated(_KEYS)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(_workspace(), "NHD", backend=params["backend"])
    shape = {"num_qo_heads": _HEADS, "num_kv_heads": _KV_HEADS, "head_dim_qk": dims[0], "head_dim_vo": dims[1]}
    wrapper.plan(begin, keys, **shape, causal=True, **_prefill_options(params))
    out = poisoned(sum(_QUERIES), _HEADS, dims[1], dtype=_dtype(params, "dtype_o"))
    wrapper.run(q, k, v, out=out)
    parts = [
        _expected(params, q[begin[at] : begin[at + 1]], *(x[keys[at] : keys[at + 1]] for x in (k, v)), causal=True)
        for at in range(len(_QUERIES))
    ]
    limit = tolerance(dtype) * (8 if params.get("use_fp16_qk_reduction") else 1)
    return error(out, torch.cat(parts)), limit, lambda: wrapper.run(q, k, v, out=out)


def _batch_mla(params: dict[str, Any]) -> Iterator[Check]:
    dtype, page, heads = _dtype(params, "dtype_q"), 64, 16
    ckv_dim, kpe_dim = params["head_dim_ckv"], params["head_dim_kpe"]
    if dtype.itemsize < 2 or params["dtype_kv"] != params["dtype_q"] or params.get("use_profiler"):
        raise UnsupportedError("quantized or profiled MLA")

    def decode() -> Measured:
        lengths = [1, 64, 500]
        pages = [math.ceil(length / page) for length in lengths]
        begin, table = _cumulated(pages), torch.randperm(sum(pages), device="cuda", dtype=torch.int32)
        ckv, kpe = (random(sum(pages), page, dim, dtype=dtype) for dim in (ckv_dim, kpe_dim))
        q, q_pe = (random(len(lengths), heads, dim, dtype=dtype) for dim in (ckv_dim, kpe_dim))
        wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(_workspace(), backend=params["backend"])
        scale = (128 + kpe_dim) ** -0.5
        queries = torch.arange(len(lengths) + 1, device="cuda", dtype=torch.int32)
        length = torch.tensor(lengths, device="cuda", dtype=torch.int32)
        wrapper.plan(queries, begin, table, length, heads, ckv_dim, kpe_dim, page, False, scale, dtype, dtype)
        out = poisoned(len(lengths), heads, ckv_dim, dtype=dtype)
        wrapper.run(q, q_pe, ckv, kpe, out=out)
        parts = []
        for at, count in enumerate(lengths):
            rows = table[begin[at] : begin[at + 1]].long()
            values = ckv[rows].flatten(0, 1)[:count, None]
            keys = torch.cat([values, kpe[rows].flatten(0, 1)[:count, None]], dim=-1)
            query = torch.cat([q[at : at + 1], q_pe[at : at + 1]], dim=-1)
            parts.append(attention(query, keys, values, scale=scale, causal=False))
        return error(out, torch.cat(parts)), tolerance(dtype), lambda: wrapper.run(q, q_pe, ckv, kpe, out=out)

    yield "paged, 3 requests of 1 to 500 tokens", decode


def _cascade(_params: dict[str, Any]) -> Iterator[Check]:
    for dtype in _HALVES:

        def merge(dtype: torch.dtype = dtype) -> Measured:
            v, s = random(97, 2, _HEADS, 128, dtype=dtype), random(97, 2, _HEADS, dtype=torch.float32) * 4
            one, two = ((v[:, at].contiguous(), s[:, at].contiguous()) for at in (0, 1))
            out, sums = flashinfer.merge_state(*one, *two)
            expected, expected_sums = merged(v, s)
            worst = max(error(out, expected), error(sums, expected_sums))
            return worst, tolerance(dtype), lambda: flashinfer.merge_state(*one, *two)

        def merge_many(dtype: torch.dtype = dtype) -> Measured:
            v, s = random(97, 5, _HEADS, 128, dtype=dtype), random(97, 5, _HEADS, dtype=torch.float32) * 4
            out, sums = flashinfer.merge_states(v, s)
            expected, expected_sums = merged(v, s)
            worst = max(error(out, expected), error(sums, expected_sums))
            return worst, tolerance(dtype), lambda: flashinfer.merge_states(v, s)

        yield f"two states, {dtype}", merge
        yield f"five states, {dtype}", merge_many


def _page(_params: dict[str, Any]) -> Iterator[Check]:
    for dtype in _HALVES:

        def append(dtype: torch.dtype = dtype) -> Measured:
            cache = _Paged([5, 40, 16], 128, dtype)
            cache.k.fill_(math.nan), cache.v.fill_(math.nan)
            count = sum(cache.lengths)
            k, v = (random(count, _KV_HEADS, 128, dtype=dtype) for _ in range(2))
            length = torch.tensor(cache.lengths, device="cuda")
            batch = torch.repeat_interleave(torch.arange(3, device="cuda"), length).int()
            places = torch.cat([torch.arange(one, device="cuda") for one in cache.lengths]).int()
            tables = (cache.indices, cache.indptr, cache.last)

            def run() -> None:
                flashinfer.append_paged_kv_cache(k, v, batch, places, (cache.k, cache.v), *tables)

            run()
            got = [torch.cat(parts) for parts in zip(*(cache.of(at) for at in range(3)), strict=True)]
            untouched = cache.k.isnan().sum().item() == (cache.k.shape[0] * _PAGE - count) * _KV_HEADS * 128
            worst = max(error(got[0], k), error(got[1], v))
            return worst if untouched else math.inf, 0.0, run

        yield f"append, exact, {dtype}", append


def _quantization(_params: dict[str, Any]) -> Iterator[Check]:
    def packed(bits: torch.Tensor, *, little: bool) -> torch.Tensor:
        padded = torch.nn.functional.pad(bits, (0, -bits.numel() % 8)).view(-1, 8).int()
        weights = 1 << torch.arange(8, device="cuda").int()
        return (padded * (weights if little else weights.flip(0))).sum(1).to(torch.uint8)

    for order in ("big", "little"):

        def pack(order: str = order) -> Measured:
            bits = torch.rand(4099, device="cuda") < 0.4
            out = flashinfer.packbits(bits, order)
            return error(out, packed(bits, little=order == "little")), 0.0, lambda: flashinfer.packbits(bits, order)

        yield f"packbits, exact, {order}", pack

    def segments() -> Measured:
        lengths = [3, 129, 64]
        bits, begin = torch.rand(sum(lengths), device="cuda") < 0.4, _cumulated(lengths)
        out, _ = flashinfer.segment_packbits(bits, begin, "little")
        expected = torch.cat([packed(bits[begin[at] : begin[at + 1]], little=True) for at in range(3)])
        return error(out, expected), 0.0, lambda: flashinfer.segment_packbits(bits, begin, "little")

    yield "segment_packbits, exact", segments


def _sampling(_params: dict[str, Any]) -> Iterator[Check]:
    sampling = importlib.import_module("flashinfer.sampling")
    rows, size = 100_000, 64

    def probabilities() -> torch.Tensor:
        return torch.softmax(random(size, dtype=torch.float32), dim=0)

    def kept(p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, p, 0) / p[mask].sum()

    def plain() -> Measured:
        p = probabilities()
        many = p.expand(rows, size).contiguous()
        out = sampling.sampling_from_probs(many)
        return distribution_error(out, p), 1.0, lambda: sampling.sampling_from_probs(many)

    def top_p() -> Measured:
        p = probabilities()
        ordered, order = p.sort(descending=True)
        mask = torch.zeros_like(p, dtype=torch.bool)
        mask[order] = ordered.cumsum(0) - ordered < 0.7
        many = p.expand(rows, size).contiguous()
        out = sampling.top_p_sampling_from_probs(many, 0.7)
        return distribution_error(out, kept(p, mask)), 1.0, lambda: sampling.top_p_sampling_from_probs(many, 0.7)

    def top_k() -> Measured:
        p = probabilities()
        many = p.expand(rows, size).contiguous()
        out = sampling.top_k_sampling_from_probs(many, 10)
        mask = p >= p.topk(10).values[-1]
        return distribution_error(out, kept(p, mask)), 1.0, lambda: sampling.top_k_sampling_from_probs(many, 10)

    def min_p() -> Measured:
        p = probabilities()
        many = p.expand(rows, size).contiguous()
        out = sampling.min_p_sampling_from_probs(many, 0.2)
        return distribution_error(out, kept(p, p >= 0.2 * p.max())), 1.0, lambda: None

    def softmax() -> Measured:
        logits = random(37, 32_003, dtype=torch.float32)
        out = sampling.softmax(logits, temperature=0.7)
        return error(out, torch.softmax(logits / 0.7, dim=-1)), tolerance(torch.float32), lambda: None

    for name, check in {"from probs": plain, "top-p": top_p, "top-k": top_k, "min-p": min_p}.items():
        yield f"{name}, distribution of {rows} samples (chi-square)", check
    if hasattr(sampling, "softmax"):
        yield "softmax", softmax


def _norm(_params: dict[str, Any]) -> Iterator[Check]:
    def expected(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()

    for dtype in _HALVES:

        def plain(dtype: torch.dtype = dtype) -> Measured:
            x, weight, out = random(99, 4096, dtype=dtype), random(4096, dtype=dtype), poisoned(99, 4096, dtype=dtype)
            flashinfer.rmsnorm(x, weight, out=out)
            return error(out, expected(x, weight)), tolerance(dtype), lambda: flashinfer.rmsnorm(x, weight, out=out)

        def fused(dtype: torch.dtype = dtype) -> Measured:
            x, residual, weight = (random(*shape, dtype=dtype) for shape in ((99, 4096), (99, 4096), (4096,)))
            total = x.float() + residual.float()
            flashinfer.fused_add_rmsnorm(x, residual, weight)
            worst = max(error(residual, total), error(x, expected(total, weight)))
            return worst, tolerance(dtype), lambda: flashinfer.fused_add_rmsnorm(x, residual, weight)

        yield f"rmsnorm, {dtype}", plain
        yield f"fused_add_rmsnorm, {dtype}", fused


def _rope(_params: dict[str, Any]) -> Iterator[Check]:
    for dtype, interleave in itertools.product(_HALVES, (False, True)):

        def apply(dtype: torch.dtype = dtype, interleave: bool = interleave) -> Measured:
            q, k = random(61, _HEADS, 128, dtype=dtype), random(61, _KV_HEADS, 128, dtype=dtype)
            places = torch.randint(0, 4000, (61,), device="cuda", dtype=torch.int32)
            out = flashinfer.apply_rope_pos_ids(q, k, places, interleave=interleave)
            worst = max(error(got, rope(x, places, interleave=interleave)) for got, x in zip(out, (q, k), strict=True))
            return worst, tolerance(dtype), lambda: flashinfer.apply_rope_pos_ids(q, k, places, interleave=interleave)

        yield f"{'interleaved' if interleave else 'halves'}, {dtype}", apply


def _activation(params: dict[str, Any]) -> Iterator[Check]:
    functions = {
        "silu": (flashinfer.silu_and_mul, torch.nn.functional.silu),
        "gelu": (flashinfer.gelu_and_mul, torch.nn.functional.gelu),
        "gelu_tanh": (flashinfer.gelu_tanh_and_mul, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    }
    name = str(params.get("act_func_name"))
    if name not in functions:
        raise UnsupportedError(f"no reference for {name}")
    function, reference = functions[name]
    for dtype in _HALVES:

        def gate(dtype: torch.dtype = dtype) -> Measured:
            x, out = random(65, 2 * 1536, dtype=dtype), poisoned(65, 1536, dtype=dtype)
            function(x, out=out)
            expected = reference(x[:, :1536].float()) * x[:, 1536:].float()
            return error(out, expected), tolerance(dtype), lambda: function(x, out=out)

        yield f"{name}_and_mul, {dtype}", gate


def _topk(_params: dict[str, Any]) -> Iterator[Check]:
    def largest() -> Measured:
        x = random(33, 50_000, dtype=torch.float32)
        values, indices = flashinfer.top_k(x, 64, sorted=True)
        expected = x.topk(64, sorted=True).values
        worst = max(error(values, expected), error(x.gather(1, indices.long()), expected))
        return worst, 0.0, lambda: flashinfer.top_k(x, 64, sorted=True)

    yield "top 64 of 50000, exact", largest


CASES: dict[str, Callable[[dict[str, Any]], Iterator[Check]]] = {
    "batch_decode": _batch_decode,
    "batch_prefill": _batch_prefill,
    "batch_mla": _batch_mla,
    "cascade": _cascade,
    "page": _page,
    "quantization": _quantization,
    "sampling": _sampling,
    "norm": _norm,
    "rope": _rope,
    "act_and_mul": _activation,
    "topk": _topk,
}
