"""What kernels should compute, in float32 on the same GPU, as plainly as it can be written.

Tolerances are for the error |out - reference| / (1 + |reference|), the largest of all elements.
"""

from __future__ import annotations

import math
from typing import Any

import torch

# Half a unit in the last place is 4.9e-4 (float16) and 3.9e-3 (bfloat16) relative; what is summed up before the last
# rounding adds as much again, and the probabilities of attention are rounded to the input's type once more.
TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1.6e-2}


def tolerance(dtype: torch.dtype) -> float:
    """For a kernel whose inputs or outputs are of this type, whichever is the coarser."""
    return TOLERANCE.get(str(dtype).removeprefix("torch."), 6.5e-2)  # float8_e4m3fn has a mantissa of 3 bits


def error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest relative-or-absolute error; infinite where the kernel left anything unwritten (NaN)."""
    out, reference = out.float(), reference.float()
    if out.shape != reference.shape:
        return math.inf
    worst = ((out - reference).abs() / (1 + reference.abs())).max().item() if out.numel() else 0.0
    return worst if math.isfinite(worst) else math.inf


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


def rope(x: torch.Tensor, positions: torch.Tensor, *, interleave: bool = False, theta: float = 1e4) -> torch.Tensor:
    """Rotary embedding over the whole head: x (n, heads, d) at `positions` (n)."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions.float()[:, None, None] * frequencies
    x = x.float()
    first, second = (x[..., ::2], x[..., 1::2]) if interleave else (x[..., :half], x[..., half:])
    turned = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
    return torch.stack(turned, dim=-1).flatten(-2) if interleave else torch.cat(turned, dim=-1)


def merged(v: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention states joined: v (n, parts, heads, d) with log2 sums s (n, parts, heads)."""
    weights = torch.softmax(s.float() * math.log(2), dim=1)
    out = (v.float() * weights[..., None]).sum(1)
    return out, torch.logsumexp(s.float() * math.log(2), dim=1) / math.log(2)


def distribution_error(samples: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's chi-square of samples against probabilities, over what it may be once in a million fair draws (1.0).

    The critical value is Wilson and Hilferty's approximation. A sample where the probability is 0 is an infinite error.
    """
    counts = torch.bincount(samples.flatten().long(), minlength=probabilities.numel()).float()
    if counts[probabilities == 0].any():
        return math.inf
    likely = probabilities > 0
    expected = probabilities[likely].float() * samples.numel()
    statistic = ((counts[likely] - expected) ** 2 / expected).sum().item()
    freedom = int(likely.sum().item()) - 1
    critical = freedom * (1 - 2 / (9 * freedom) + 4.753 * math.sqrt(2 / (9 * freedom))) ** 3
    return statistic / critical


def random(*shape: int, dtype: torch.dtype, **options: Any) -> torch.Tensor:
    """Fresh random numbers of unit variance; by way of float32, because float8 has no generator."""
    return torch.randn(*shape, device="cuda", dtype=torch.float32, **options).to(dtype)


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """An output that nothing may be left of."""
    return torch.full(shape, math.nan, device="cuda", dtype=dtype)
