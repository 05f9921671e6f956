"""What kernels should compute, in float32 on the same device, as plainly as it can be written.

Tolerances are for the error |out - reference| / (1 + |reference|), the largest of all elements.
"""

from __future__ import annotations

import math

import torch

# Half a unit in the last place is 4.9e-4 (float16) and 3.9e-3 (bfloat16) relative; what is summed up before the last
# rounding adds as much again, and the probabilities of attention are rounded to the input's type once more.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

_TANH = 2**-11  # relative error of tanh.approx.f32, which every kernel with a soft cap uses (PTX ISA)


def tolerance(*dtypes: torch.dtype, cap: float = 0.0) -> float:
    """For a kernel that rounds to these types, whichever is the coarsest.

    A soft cap adds its approximate tanh: capped scores, and so the probabilities' logarithms, are off by up to
    cap * 2^-11, and a weighted mean of values within four standard deviations by up to four times that.
    """
    return max(TOLERANCE[dtype] for dtype in dtypes) + 4 * cap * _TANH


def error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest relative-or-absolute error; infinite where the kernel left anything unwritten (NaN)."""
    out, reference = out.float(), reference.float()
    if out.shape != reference.shape:
        return math.inf
    worst = ((out - reference).abs() / (1 + reference.abs())).max().item() if out.numel() else 0.0
    return worst if math.isfinite(worst) else math.inf


def exact(out: torch.Tensor, reference: torch.Tensor) -> float:
    """0 if they are equal to the bit, infinities too; else infinite."""
    return 0.0 if out.dtype == reference.dtype and torch.equal(out, reference) else math.inf


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, causal: bool, window: int = -1, cap: float = 0.0
) -> torch.Tensor:
    """Grouped attention of one request: q (n, heads, d), k (m, kv heads, d), v (m, kv heads, dv) → (n, heads, dv).

    The last query sits at the last key. `window` keys before a query's own position are seen, -1 for all.
    """
    group = q.shape[1] // k.shape[1]
    k, v = (tensor.float().repeat_interleave(group, dim=1) for tensor in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q.float(), k) * scale
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    at = torch.arange(q.shape[0], device=q.device)[:, None] + k.shape[0] - q.shape[0]
    keys = torch.arange(k.shape[0], device=q.device)[None, :]
    seen = torch.ones_like(scores[0], dtype=torch.bool)
    if causal:
        seen &= keys <= at
    if window >= 0:
        seen &= keys >= at - window
    weights = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)
    return torch.einsum("hnm,mhd->nhd", weights, v)


def merged(v: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention states joined: v (n, parts, heads, d) with log2 sums s (n, parts, heads)."""
    weights = torch.softmax(s.float() * math.log(2), dim=1)
    out = (v.float() * weights[..., None]).sum(1)
    return out, torch.logsumexp(s.float() * math.log(2), dim=1) / math.log(2)


def frequencies(dim: int, theta: float) -> torch.Tensor:
    """Radians per position of each of the dim / 2 pairs that a rotary embedding turns."""
    return theta ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def llama31_frequencies(dim: int, theta: float, *, scale: float, low: float, high: float, context: int) -> torch.Tensor:
    """Llama 3.1's: what turns less than `low` times in `context` is slowed by `scale`, above `high` not at all."""
    plain = frequencies(dim, theta)
    turns = context * plain / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * plain / scale + smooth * plain


def rope(x: torch.Tensor, positions: torch.Tensor, pace: torch.Tensor, *, interleave: bool = False) -> torch.Tensor:
    """Rotary embedding of x (n, heads, d) at `positions` (n) with frequencies `pace` (at most d / 2).

    The first 2 len(pace) elements of a head are turned, its halves against each other, or neighbours if `interleave`;
    the others stay.
    """
    half = pace.numel()
    x, rest = x.float().split([2 * half, x.shape[-1] - 2 * half], dim=-1)
    angles = positions.float()[:, None, None] * pace.to(x.device)
    first, second = (x[..., ::2], x[..., 1::2]) if interleave else (x[..., :half], x[..., half:])
    turned = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
    return torch.cat([torch.stack(turned, dim=-1).flatten(-2) if interleave else torch.cat(turned, dim=-1), rest], -1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each row over its root mean square, times weight; FlashInfer's default epsilon, 1e-6."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()


def packed(bits: torch.Tensor, *, little: bool) -> torch.Tensor:
    """Eight booleans a byte, the first in the lowest bit if `little`, zeros after the last."""
    padded = torch.nn.functional.pad(bits, (0, -bits.numel() % 8)).view(-1, 8).int()
    weights = 1 << torch.arange(8, device=bits.device).int()
    return (padded * (weights if little else weights.flip(0))).sum(1).to(torch.uint8)


def likeliest(probabilities: torch.Tensor, count: int) -> torch.Tensor:
    """Each row's `count` largest probabilities (n, size), the others 0, normalized."""
    kept = probabilities.topk(count, dim=-1)
    found = torch.zeros_like(probabilities).scatter(-1, kept.indices, kept.values)
    return found / found.sum(-1, keepdim=True)


def critical(freedom: int) -> float:
    """What chi-square exceeds once in a million draws, by Wilson and Hilferty's approximation: less often, for few."""
    return freedom * (1 - 2 / (9 * freedom) + 4.753 * math.sqrt(2 / (9 * freedom))) ** 3


def distribution_error(samples: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's chi-square of samples against probabilities, over what it may be once in a million fair draws (1.0).

    A sample where the probability is 0, or that is no token at all, is an infinite error.
    """
    samples, size = samples.flatten().long(), probabilities.numel()
    if samples.numel() == 0 or ((samples < 0) | (samples >= size)).any():
        return math.inf
    counts = torch.bincount(samples, minlength=size).float()
    likely = probabilities > 0
    if counts[~likely].any():
        return math.inf
    freedom = int(likely.sum().item()) - 1
    if freedom == 0:
        return 0.0  # one token only, and no other was drawn
    expected = probabilities[likely].float() * samples.numel()
    return float(((counts[likely] - expected) ** 2 / expected).sum().item()) / critical(freedom)
