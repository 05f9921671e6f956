"""Checks of cascade: attention states (a value and the log2 sum of its weights) merged."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import flashinfer
import torch
from verify_inputs import HALVES, HEADS, afresh, random
from verify_reference import error, merged, tolerance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verify_inputs import Check, Measured

_ROWS, _DIM = 97, 128


def cascade(_params: dict[str, Any]) -> Iterator[Check]:
    """All three functions of the module."""
    for dtype in HALVES:
        yield f"merge_state, {dtype}", partial(_two, dtype)
        yield f"merge_state_in_place, {dtype}", partial(_in_place, dtype)
        yield f"merge_states, five, {dtype}", partial(_five, dtype)


def _states(count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return random(_ROWS, count, HEADS, _DIM, dtype=dtype), random(_ROWS, count, HEADS, spread=4.0)


def _worst(out: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> float:
    return max(error(*pair) for pair in zip(out, expected, strict=True))


def _two(dtype: torch.dtype) -> Measured:
    v, s = _states(2, dtype)
    parts = [part[:, at].contiguous() for at in (0, 1) for part in (v, s)]
    out = afresh(flashinfer.merge_state, *parts)
    return _worst(out, merged(v, s)), tolerance(dtype), lambda: flashinfer.merge_state(*parts)


def _in_place(dtype: torch.dtype) -> Measured:
    """Rows whose mask is 0 stay as they are."""
    v, s = _states(2, dtype)
    ours, sums, others, other_sums = (part[:, at].contiguous() for at in (0, 1) for part in (v, s))
    mask = (random(_ROWS) > 0).to(torch.uint8)
    expected, expected_sums = merged(v, s)
    expected = torch.where(mask.bool()[:, None, None], expected, ours.float())
    expected_sums = torch.where(mask.bool()[:, None], expected_sums, sums)

    def run() -> None:
        flashinfer.merge_state_in_place(ours, sums, others, other_sums, mask)

    run()
    return _worst((ours, sums), (expected, expected_sums)), tolerance(dtype), run


def _five(dtype: torch.dtype) -> Measured:
    v, s = _states(5, dtype)
    out = afresh(flashinfer.merge_states, v, s)
    return _worst(out, merged(v, s)), tolerance(dtype), lambda: flashinfer.merge_states(v, s)
