"""What the checks share: fresh random inputs, pages of a cache, and outputs that nothing may be left of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

DEVICE = "cuda"
HALVES = (torch.float16, torch.bfloat16)
HEADS, KV_HEADS, PAGE = 8, 2, 16

Measured = tuple[float, float, Callable[[], Any]]  # error, tolerance, what to time
Check = tuple[str, Callable[[], Measured]]  # what is computed, and the function that computes it


class UnsupportedError(Exception):
    """Nothing to compare with; the module is only loaded."""


def dtype_of(params: dict[str, Any], name: str) -> torch.dtype:
    """A parameter's type. Raises UnsupportedError if torch has none of that name."""
    found = getattr(torch, str(params[name]), None)
    if not isinstance(found, torch.dtype):
        raise UnsupportedError(f"{name} {params[name]}")
    return found


def random(*shape: int, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> torch.Tensor:
    """Fresh normal numbers with this standard deviation; by way of float32, because float8 has no generator."""
    return (torch.randn(*shape, device=DEVICE, dtype=torch.float32) * spread).to(dtype)


def shuffled(count: int) -> torch.Tensor:
    """The numbers below `count` in random order, int32."""
    return torch.randperm(count, device=DEVICE).int()


def indices(values: list[int]) -> torch.Tensor:
    """An int32 table."""
    return torch.tensor(values, device=DEVICE, dtype=torch.int32)


def by_turns(values: list[float], rows: int) -> torch.Tensor:
    """One value per row, again and again: int64 or float32."""
    return torch.tensor((values * rows)[:rows], device=DEVICE)


def cumulated(counts: list[int]) -> torch.Tensor:
    """Where each of several runs begins, and the last one ends: 0, a, a + b, …"""
    return indices([0, *itertools.accumulate(counts)])


def workspace() -> torch.Tensor:
    """What a wrapper of FlashInfer wants for its intermediate results, 256 MB."""
    return torch.zeros(256 << 20, device=DEVICE, dtype=torch.uint8)


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """An output that nothing may be left of: NaN all over."""
    return torch.full(shape, math.nan, device=DEVICE, dtype=torch.float32).to(dtype)


def afresh(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What the function returns, where it allocates its outputs itself: torch.empty is full of NaN meanwhile.

    Of the largest integer, where integers are. It is torch's own switch for finding uses of uninitialized memory.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        return function(*args, **options)
    finally:
        torch.use_deterministic_algorithms(False)


class Pages:
    """Which pages of a cache belong to requests of the given lengths: in random order, the last ones partly filled."""

    def __init__(self, lengths: list[int], size: int = PAGE) -> None:
        pages = [math.ceil(length / size) for length in lengths]
        self.lengths, self.size, self.count = lengths, size, sum(pages)
        self.indptr, self.indices = cumulated(pages), shuffled(sum(pages))
        self.last = indices([(length - 1) % size + 1 for length in lengths])

    def read(self, cache: torch.Tensor, request: int) -> torch.Tensor:
        """One request's tokens, (length, …), of a cache (pages, size, …)."""
        pages = self.indices[self.indptr[request] : self.indptr[request + 1]].long()
        return cache[pages].flatten(0, 1)[: self.lengths[request]]

    def read_all(self, cache: torch.Tensor) -> torch.Tensor:
        """All requests' tokens one after another, (sum of lengths, …), in float32."""
        return torch.cat([self.read(cache, request).float() for request in range(len(self.lengths))])
