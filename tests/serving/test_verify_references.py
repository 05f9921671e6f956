"""The references of `doit verify` against torch's own functions and plain arithmetic, on the CPU."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

SERVING = str(Path(__file__).resolve().parents[2] / "fitasks" / "serving" / "verify")


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SERVING)
    torch.manual_seed(0)
    return importlib.import_module("verify_reference")


def mask(queries: int, keys: int, *, causal: bool, window: int) -> Any:
    """Which keys a query sees, by counting."""
    offset = keys - queries
    seen = [
        [(not causal or k <= q + offset) and (window < 0 or k >= q + offset - window) for k in range(keys)]
        for q in range(queries)
    ]
    return torch.tensor(seen)


@pytest.mark.parametrize(("causal", "window"), [(False, -1), (True, -1), (True, 5), (False, 3), (True, 0)])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 23), (7, 7), (9, 40)])
def test_attention_is_torchs(reference: Any, queries: int, keys: int, causal: bool, window: int) -> None:
    q, k, v = torch.randn(queries, 6, 16), torch.randn(keys, 2, 16), torch.randn(keys, 2, 24)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (q, k, v)),
        attn_mask=mask(queries, keys, causal=causal, window=window),
        scale=0.3,
        enable_gqa=True,
    ).transpose(0, 1)
    out = reference.attention(q, k, v, scale=0.3, causal=causal, window=window)
    assert torch.allclose(out, expected, atol=1e-5)


def test_a_soft_cap_by_hand(reference: Any) -> None:
    q, k, v = torch.randn(1, 1, 4) * 8, torch.randn(3, 1, 4), torch.randn(3, 1, 4)
    weights = [math.exp(2 * math.tanh(0.5 * float(q[0, 0] @ one) / 2)) for one in k[:, 0]]
    expected = sum(weight * one for weight, one in zip(weights, v[:, 0], strict=True)) / sum(weights)
    out = reference.attention(q, k, v, scale=0.5, causal=True, cap=2.0)
    assert torch.allclose(out[0, 0], expected, atol=1e-6)


def test_states_merge_into_the_attention_over_all_keys(reference: Any) -> None:
    q, k, v = torch.randn(5, 2, 8), torch.randn(30, 2, 8), torch.randn(30, 2, 8)
    parts = [(k[a:b], v[a:b]) for a, b in ((0, 4), (4, 21), (21, 30))]
    values = [reference.attention(q, *part, scale=1.0, causal=False) for part in parts]
    sums = [torch.einsum("nhd,mhd->nhm", q, part).logsumexp(-1) / math.log(2) for part, _ in [*parts, (k, v)]]
    out, total = reference.merged(torch.stack(values, 1), torch.stack(sums[:3], 1))
    assert torch.allclose(out, reference.attention(q, k, v, scale=1.0, causal=False), atol=1e-5)
    assert torch.allclose(total, sums[3], atol=1e-5)


@pytest.mark.parametrize("interleave", [False, True])
def test_rope_by_hand(reference: Any, interleave: bool) -> None:
    x, pace = torch.randn(2, 1, 8), reference.frequencies(4, 100.0)
    assert pace.tolist() == pytest.approx([1.0, 0.1])
    out = reference.rope(x, torch.tensor([0, 3]), pace, interleave=interleave)
    assert torch.equal(out[0], x[0]), "at position 0 nothing turns"
    assert torch.equal(out[1, :, 4:], x[1, :, 4:]), "beyond the rotated part nothing turns"
    for pair, angle in enumerate((3.0, 0.3)):
        a, b = (2 * pair, 2 * pair + 1) if interleave else (pair, pair + 2)
        first, second = x[1, 0, a], x[1, 0, b]
        assert out[1, 0, a] == pytest.approx(float(first * math.cos(angle) - second * math.sin(angle)), abs=1e-6)
        assert out[1, 0, b] == pytest.approx(float(second * math.cos(angle) + first * math.sin(angle)), abs=1e-6)


def test_llama_31_slows_what_turns_slowly(reference: Any) -> None:
    plain = reference.frequencies(128, 5e5)
    found = reference.llama31_frequencies(128, 5e5, scale=8, low=1, high=4, context=8192)
    ratio = (found / plain).tolist()
    turns = (8192 * plain / (2 * math.pi)).tolist()
    assert all(one == pytest.approx(1) for one, count in zip(ratio, turns, strict=True) if count >= 4)
    assert all(one == pytest.approx(1 / 8) for one, count in zip(ratio, turns, strict=True) if count <= 1)
    assert all(1 / 8 < one < 1 for one, count in zip(ratio, turns, strict=True) if 1 < count < 4)
    assert sum(1 < count < 4 for count in turns) > 3


def test_norm_and_bits_are_torchs_and_pythons(reference: Any) -> None:
    x, weight = torch.randn(3, 50), torch.randn(50)
    expected = torch.nn.functional.rms_norm(x, (50,), weight, 1e-6)
    assert torch.allclose(reference.rms_norm(x, weight), expected, atol=1e-6)
    bits = torch.tensor([1, 0, 1, 1, 0, 0, 0, 0, 1, 1]) > 0
    assert reference.packed(bits, little=False).tolist() == [0b10110000, 0b11000000]
    assert reference.packed(bits, little=True).tolist() == [0b00001101, 0b00000011]
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert reference.likeliest(p, 2)[0].tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7])


def test_errors_see_what_is_unwritten_and_what_differs(reference: Any) -> None:
    ones = torch.ones(3)
    assert reference.error(ones, ones) == 0
    assert reference.error(ones * 1.5, ones) == pytest.approx(0.25)
    assert reference.error(torch.tensor([1, math.nan, 1]), ones) == math.inf
    assert reference.error(ones, torch.ones(2)) == math.inf
    edge = torch.tensor([-math.inf, 1.0])
    assert reference.exact(edge, edge) == 0
    assert reference.exact(edge, torch.tensor([-math.inf, 1.0000001])) == math.inf
    assert reference.exact(edge, edge.double()) == math.inf


def test_the_coarsest_type_decides(reference: Any) -> None:
    assert reference.tolerance(torch.float16) == 2e-3
    assert reference.tolerance(torch.float16, torch.bfloat16) == 1.6e-2
    assert reference.tolerance(torch.float16, cap=5.0) == pytest.approx(2e-3 + 20 / 2048)


@pytest.mark.parametrize("freedom", [2, 8, 10, 22, 62, 200])
def test_the_critical_value_is_exceeded_once_in_a_million(reference: Any, freedom: int) -> None:
    """For an even number the probability is a finite sum, that of a Poisson process."""
    half = reference.critical(freedom) / 2
    chance = sum(math.exp(-half + k * math.log(half) - math.lgamma(k + 1)) for k in range(freedom // 2))
    assert 1e-7 < chance < 1.1e-6


def test_fair_draws_pass_and_unfair_ones_do_not(reference: Any) -> None:
    p = torch.softmax(torch.linspace(-1.5, 1.5, 64), 0)
    fair = [reference.distribution_error(torch.multinomial(p, 10_000, replacement=True), p) for _ in range(300)]
    assert max(fair) < 1
    assert sum(fair) / 300 == pytest.approx(63 / reference.critical(63), rel=0.05)
    tilted = p * torch.linspace(0.9, 1.1, 64)
    drawn = torch.multinomial(tilted, 100_000, replacement=True)
    assert reference.distribution_error(drawn, p) > 1
    assert reference.distribution_error(drawn, tilted / tilted.sum()) < 1


def test_draws_of_one_token_only(reference: Any) -> None:
    p = torch.tensor([0.0, 1.0, 0.0])
    assert reference.distribution_error(torch.ones(100, dtype=torch.int32), p) == 0
    assert reference.distribution_error(torch.tensor([1, 1, 2]), p) == math.inf


@pytest.mark.parametrize("sample", [-1, 3, 2**31 - 1])
def test_a_sample_that_is_no_token(reference: Any, sample: int) -> None:
    p = torch.tensor([0.2, 0.3, 0.5])
    assert reference.distribution_error(torch.tensor([0, sample]), p) == math.inf
    assert reference.distribution_error(torch.tensor([]), p) == math.inf
