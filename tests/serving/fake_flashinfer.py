"""The functions of FlashInfer that the checks of `doit verify` call, in torch on the CPU: tests without a GPU.

`FAULTS` says what goes wrong; "unwritten" leaves the last row of every output as it was. `CALLS` has each call: a
dotted name, the number of positional arguments, the names of the others.
"""

# ruff: noqa: PLR0917, A002 -- the signatures are FlashInfer's

from __future__ import annotations

import functools
import itertools
import math
import sys
import types
from typing import Any

import torch
import verify_reference as reference

FAULTS: set[str] = set()
CALLS: set[tuple[str, int, tuple[str, ...]]] = set()


def install(monkeypatch: Any) -> None:
    """As `flashinfer`, `flashinfer.sampling` and `flashinfer.mla`."""
    package = types.ModuleType("flashinfer")
    for name, function in _FUNCTIONS.items():
        setattr(package, name, function)
    sampling, mla = types.ModuleType("flashinfer.sampling"), types.ModuleType("flashinfer.mla")
    vars(sampling).update(_SAMPLING)
    vars(mla)["BatchMLAPagedAttentionWrapper"] = BatchMLAPagedAttentionWrapper
    vars(package).update(sampling=sampling, mla=mla)
    for module in (package, sampling, mla):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    FAULTS.clear()


def _noted(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        method = "." in function.__qualname__
        name = f"{type(args[0]).__name__}.{function.__name__}" if method else function.__name__
        CALLS.add((name, len(args) - method, tuple(sorted(options))))
        return function(*args, **options)

    return call


def _written(out: torch.Tensor, result: torch.Tensor) -> None:
    rows = len(out) - ("unwritten" in FAULTS)
    out[:rows].copy_(result[:rows])


def _new(result: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(result.shape, dtype=dtype)
    _written(out, result)
    return out


def _attention(q, k, v, *, scale, causal, window=-1, cap=0.0):
    """Rounds like the kernels: an approximate tanh, and probabilities in the type of the queries."""
    k, v = (x.float().repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = scale * q.float().transpose(0, 1) @ k.permute(1, 2, 0)
    if cap:
        off = 1 + 2**-11 * (2 * torch.rand_like(scores) - 1)
        scores = cap * (torch.tanh(scores / cap) * off).clamp(-1, 1)
    distance = torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))
    hidden = (distance < 0) & causal | (distance > window) & (window >= 0)
    scores = scores.masked_fill(hidden, -math.inf)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True)).to(q.dtype).float()
    return (weights @ v.transpose(0, 1) / weights.sum(-1, keepdim=True)).transpose(0, 1)


class _Attention:
    """What all wrappers share: what was planned, and rows computed by request."""

    @_noted
    def __init__(self, workspace: torch.Tensor, layout: str = "NHD", **options: Any) -> None:
        assert workspace.dtype == torch.uint8
        assert layout == "NHD"

    def planned(self, options: dict[str, Any], causal: bool) -> None:
        window, cap = options["window_left"], options["logits_soft_cap"]
        self.types = [options[name] for name in ("q_data_type", "kv_data_type", "o_data_type")]
        self.options = {
            "causal": causal and "mask" not in FAULTS,
            "window": -1 if "no window" in FAULTS else window + 16 * ("page" in FAULTS) if window >= 0 else -1,
            "cap": 0.0 if "no cap" in FAULTS else cap * (1.5 if "cap" in FAULTS else 1),
        }

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert [q.dtype, k.dtype] == self.types[:2]
        scale = q.shape[-1] ** -0.5 * (1.2 if "scale" in FAULTS else 1)
        return _attention(q, k, v, scale=scale, **self.options)


def _gathered(cache: torch.Tensor, tables: tuple[torch.Tensor, ...], at: int) -> torch.Tensor:
    """A request's tokens, one after another, as a kernel would look for them."""
    indptr, indices, last = tables
    begin, end = (0, indptr[at + 1] - indptr[at]) if "table" in FAULTS else (indptr[at], indptr[at + 1])
    pages = [cache[int(indices[page])] for page in range(int(begin), int(end))]
    pages[-1] = pages[-1][: int(last[at])]
    return torch.cat([page.float() for page in pages]).to(cache.dtype)


class BatchDecodeWithPagedKVCacheWrapper(_Attention):
    @_noted
    def plan(self, indptr, indices, last, heads, kv_heads, dim, page, *, pos_encoding_mode, **options):
        assert pos_encoding_mode == "NONE"
        self.tables = indptr, indices, last
        self.planned(options, causal=False)

    @_noted
    def run(self, q, cache, out):
        rows = [self.attend(q[at : at + 1], *(_gathered(x, self.tables, at) for x in cache)) for at in range(len(q))]
        assert out.dtype == self.types[2]
        _written(out, torch.cat(rows))


class BatchPrefillWithPagedKVCacheWrapper(_Attention):
    @_noted
    def plan(self, queries, indptr, indices, last, heads, kv_heads, dim, page, *, use_fp16_qk_reduction, **options):
        self.queries, self.tables = queries, (indptr, indices, last)
        self.planned(options, options["causal"])

    @_noted
    def run(self, q, cache, out):
        parts = [q[begin:end] for begin, end in torch.stack([self.queries[:-1], self.queries[1:]], 1).tolist()]
        rows = [self.attend(one, *(_gathered(x, self.tables, at) for x in cache)) for at, one in enumerate(parts)]
        assert out.dtype == self.types[2]
        _written(out, torch.cat(rows))


class BatchPrefillWithRaggedKVCacheWrapper(_Attention):
    @_noted
    def plan(self, queries, keys, *, num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo, **options):
        self.begins = queries.tolist(), keys.tolist()
        self.planned(options, options["causal"])

    @_noted
    def run(self, q, k, v, out):
        runs = zip(*(itertools.pairwise(begins) for begins in self.begins), strict=True)
        _written(out, torch.cat([self.attend(q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in runs]))


class BatchMLAPagedAttentionWrapper:
    @_noted
    def __init__(self, workspace, backend):
        assert backend in ("fa2", "fa3")

    @_noted
    def plan(self, queries, indptr, indices, lengths, heads, ckv_dim, kpe_dim, page, causal, scale, q_type, kv_type):
        self.queries, self.scale, self.causal = queries.tolist(), scale, causal and "mask" not in FAULTS
        self.tables = indptr, indices, (lengths - 1) % page + 1

    @_noted
    def run(self, q, q_pe, ckv, kpe, out):
        parts = []
        for at, (begin, end) in enumerate(itertools.pairwise(self.queries)):
            v, pe = (_gathered(cache, self.tables, at)[:, None] for cache in (ckv, kpe))
            query, k = torch.cat([q, q_pe], -1)[begin:end], torch.cat([v, pe], -1)
            parts.append(_attention(query, k, v, scale=self.scale, causal=self.causal))
        _written(out, torch.cat(parts))


def merge_state(v_a, s_a, v_b, s_b):
    v, s = torch.stack([v_a, v_b], 1), torch.stack([s_a, s_b], 1)
    return merge_states(v, s)


def merge_states(v, s):
    weights = torch.exp2(s - s.amax(1, keepdim=True)) * (1.05 if "weights" in FAULTS else 1)
    total = weights.sum(1)
    merged = (v.float() * weights[..., None]).sum(1) / total[..., None]
    return _new(merged, v.dtype), _new(total.log2() + s.amax(1), torch.float32)


def merge_state_in_place(v, s, v_other, s_other, mask=None):
    merged, sums = merge_state(v, s, v_other, s_other)
    rows = torch.ones(len(v), dtype=torch.bool) if mask is None or "masked" in FAULTS else mask.bool()
    rows = rows ^ ("unwritten" in FAULTS)
    v[rows], s[rows] = merged.nan_to_num()[rows], sums.nan_to_num()[rows]


def append_paged_kv_cache(k, v, batch, places, cache, indices, indptr, last, kv_layout="NHD"):
    for tokens, whole in zip((k, v), cache, strict=True):
        _append(tokens, batch, places, whole if kv_layout == "NHD" else whole.transpose(1, 2), indices, indptr)


def append_paged_mla_kv_cache(ckv, kpe, batch, places, ckv_cache, kpe_cache, indices, indptr, last):
    for tokens, cache in ((ckv, ckv_cache), (kpe, kpe_cache)):
        _append(tokens, batch, places, cache, indices, indptr)


def _append(tokens, batch, places, cache, indices, indptr):
    for token, request, place in zip(tokens, batch.tolist(), places.tolist(), strict=True):
        page = indices[indptr[request] + place // cache.shape[1]]
        cache[page, place % cache.shape[1]] = token
    if "unwritten" in FAULTS:
        cache[page, place % cache.shape[1]] = float("nan")
    if "beside" in FAULTS:
        cache[indices[0], -1] = 0.0


def packbits(bits, order="big"):
    return _new(reference.packed(bits, little=order == "little"), torch.uint8)


def segment_packbits(bits, indptr, order="big"):
    begins = indptr.tolist()
    runs = [bits[begin:end] for begin, end in itertools.pairwise(begins)]
    out = torch.cat([reference.packed(run, little=order == "little") for run in runs])
    return _new(out, torch.uint8), indptr


def top_k(x, k, sorted=False):
    values, places = x.float().sort(dim=1, descending=True, stable=True)
    values, places = values[:, :k].to(x.dtype), places[:, :k]
    if not sorted:
        values, places = values.flip(1), places.flip(1)
    if "twice" in FAULTS:
        places[:, 0] = places[:, 1]
    return _new(values, x.dtype), _new(places, torch.int32)


def rmsnorm(x, weight, eps=1e-6, out=None):
    _written(out, torch.nn.functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps))


def gemma_rmsnorm(x, weight, eps=1e-6, out=None):
    rmsnorm(x, weight.float() + ("gemma" not in FAULTS), eps, out)


def fused_add_rmsnorm(x, residual, weight, eps=1e-6):
    total = x.float() + residual.float()
    _written(residual, total)
    rmsnorm(total, weight, eps, x)


def gemma_fused_add_rmsnorm(x, residual, weight, eps=1e-6):
    fused_add_rmsnorm(x, residual, weight.float() + ("gemma" not in FAULTS), eps)


def layernorm(x, weight, bias, eps=1e-6):
    assert x.dtype == torch.bfloat16
    return _new(torch.nn.functional.layer_norm(x.float(), x.shape[-1:], weight, bias, eps), x.dtype)


def _rotated(x, angles, interleave):
    """By complex numbers: another way than the reference's."""
    dim = 2 * angles.shape[-1]
    head, rest = x[..., :dim].float(), x[..., dim:]
    pairs = head.unflatten(-1, (-1, 2)) if interleave else head.unflatten(-1, (2, -1)).transpose(-1, -2)
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]
    real = torch.view_as_real(turned)
    return torch.cat([real.flatten(-2) if interleave else real.transpose(-1, -2).flatten(-2), rest], dim=-1)


def apply_rope_pos_ids(q, k, pos_ids, *, interleave=False, pace=None):
    dim = q.shape[-1]
    pace = 10000.0 ** (-torch.arange(0, dim, 2) / dim) if pace is None else pace
    angles = pos_ids.float()[:, None] * pace
    return tuple(_new(_rotated(x, angles, interleave), x.dtype) for x in (q, k))


def apply_llama31_rope_pos_ids(q, k, pos_ids, *, interleave=False):
    pace = 500000.0 ** (-torch.arange(0, q.shape[-1], 2) / q.shape[-1])
    wave = 2 * torch.pi / pace
    smooth = (8192 / wave - 1) / (4 - 1)
    between = (1 - smooth) * pace / 8 + smooth * pace
    slowed = torch.where(wave > 8192, pace / 8, torch.where(wave < 2048, pace, between))
    return apply_rope_pos_ids(q, k, pos_ids, interleave=interleave, pace=pace if "llama31" in FAULTS else slowed)


def apply_rope_with_cos_sin_cache_inplace(positions, query, key, head_size, cos_sin_cache, is_neox=True):
    cos, sin = cos_sin_cache[positions].chunk(2, dim=-1)
    for flat in (query, key):
        x = flat.view(len(flat), -1, head_size)
        _written(x, _rotated(x, torch.atan2(sin, cos), not is_neox))


def silu_and_mul(x, out):
    gate, up = x.float().chunk(2, dim=-1)
    _written(out, gate * gate.sigmoid() * up)


def gelu_and_mul(x, out):
    gate, up = x.float().chunk(2, dim=-1)
    _written(out, gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * up)


def gelu_tanh_and_mul(x, out):
    gate, up = x.float().chunk(2, dim=-1)
    _written(out, torch.nn.functional.gelu(gate, approximate="tanh") * up)


def _draws(p):
    """One token a row, of rows that need not be normalized."""
    return _new(torch.multinomial(p, 1)[:, 0], torch.int32)


def _ranks(p):
    return p.argsort(dim=-1, descending=True).argsort(dim=-1)


def _top_k(p, top_k):
    limit = torch.as_tensor(top_k + ("filter" in FAULTS)).view(-1, 1)
    return torch.where(_ranks(p) < limit, p, 0)


def _top_p(p, top_p):
    ordered = p.sort(dim=-1, descending=True).values
    before = (ordered.cumsum(-1) - ordered).gather(-1, _ranks(p))
    return torch.where(before < torch.as_tensor(top_p).view(-1, 1) + 0.03 * ("filter" in FAULTS), p, 0)


def sampling_from_probs(p):
    return _draws(p + 0.005 * ("uniform" in FAULTS) * (p > 0))


def sampling_from_logits(logits):
    return sampling_from_probs(torch.where(logits > -40, logits, -torch.inf).exp())


def top_p_sampling_from_probs(p, top_p):
    return _draws(_top_p(p, top_p))


def top_k_sampling_from_probs(p, top_k):
    return _draws(_top_k(p, top_k))


def min_p_sampling_from_probs(p, min_p):
    limit = torch.as_tensor(min_p).view(-1, 1) * (0.9 if "filter" in FAULTS else 1)
    return _draws(torch.where(p >= limit * p.amax(-1, keepdim=True), p, 0))


def top_k_top_p_sampling_from_probs(p, top_k, top_p, *, filter_apply_order):
    assert filter_apply_order == "joint"
    return _draws(torch.where(_top_k(p, top_k) > 0, _top_p(p, top_p), 0))


def chain_speculative_sampling(drafts, proposed, target):
    rows, token = torch.arange(len(proposed)), proposed[:, 0].long()
    chance = target[rows, 0, token] / drafts[rows, 0, token]
    taken = torch.rand(len(rows)) < chance * (1.5 if "uniform" in FAULTS else 1)
    first = torch.where(taken, token, torch.multinomial((target[:, 0] - drafts[:, 0]).clamp_min(1e-9), 1)[:, 0])
    second = torch.where(taken, torch.multinomial(target[:, 1], 1)[:, 0], -1)
    again = taken | (torch.rand(len(rows)) < chance)
    return _new(torch.stack([first, second], 1), torch.int32), again.int(), taken.int()


def top_p_renorm_probs(p, top_p):
    kept = _top_p(p, top_p)
    return _new(kept / kept.sum(-1, keepdim=True), p.dtype)


def top_k_renorm_probs(p, top_k):
    kept = _top_k(p, top_k)
    return _new(kept / kept.sum(-1, keepdim=True), p.dtype)


def top_k_mask_logits(logits, top_k):
    limit = torch.as_tensor(top_k + ("filter" in FAULTS)).view(-1, 1)
    return _new(torch.where(_ranks(logits) < limit, logits, -torch.inf), logits.dtype)


def softmax(logits, temperature):
    return _new(torch.softmax(logits / temperature * (1.001 if "filter" in FAULTS else 1), -1), torch.float32)


_FUNCTIONS = {
    function.__name__: _noted(function)
    for function in (
        merge_state,
        merge_states,
        merge_state_in_place,
        append_paged_kv_cache,
        append_paged_mla_kv_cache,
        packbits,
        segment_packbits,
        top_k,
        rmsnorm,
        gemma_rmsnorm,
        fused_add_rmsnorm,
        gemma_fused_add_rmsnorm,
        layernorm,
        apply_rope_pos_ids,
        apply_llama31_rope_pos_ids,
        apply_rope_with_cos_sin_cache_inplace,
        silu_and_mul,
        gelu_and_mul,
        gelu_tanh_and_mul,
    )
} | {wrapper.__name__: wrapper for wrapper in _Attention.__subclasses__()}
_SAMPLING = {
    function.__name__: _noted(function)
    for function in (
        sampling_from_probs,
        sampling_from_logits,
        top_p_sampling_from_probs,
        top_k_sampling_from_probs,
        min_p_sampling_from_probs,
        top_k_top_p_sampling_from_probs,
        chain_speculative_sampling,
        top_p_renorm_probs,
        top_k_renorm_probs,
        top_k_mask_logits,
        softmax,
    )
}
