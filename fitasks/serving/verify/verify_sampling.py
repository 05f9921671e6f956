"""Checks of sampling: the distribution of many samples, probabilities filtered and normalized, logits masked."""

from __future__ import annotations

import importlib
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from verify_inputs import afresh, by_turns, random, shuffled
from verify_reference import distribution_error, error, exact, likeliest, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from verify_inputs import Check, Measured

_ROWS, _SIZE, _LIKELY = 30_000, 6_000, 64  # samples, tokens (more than a block reads at once), tokens worth drawing
_MANY, _FEW = 24, 10  # how many tokens a filter keeps, by turns
_BATCH, _VOCABULARY = 33, 32_000


def sampling(_params: dict[str, Any]) -> Iterator[Check]:
    """Every function of the module that this FlashInfer has, each named by it."""
    module = importlib.import_module("flashinfer.sampling")
    for name, (check, remark) in _CHECKS.items():
        if hasattr(module, name):
            yield f"{name}{remark}", partial(check, getattr(module, name))


def _ladder() -> torch.Tensor:
    """64 probabilities in random order, no two nearer than 1.9 %, the largest about 20 times the smallest.

    So no filter's cut depends on rounding, every filter keeps several tokens, and each is drawn often.
    """
    order = shuffled(_LIKELY).float()
    logits = (order + 0.6 * torch.rand_like(order)) * 3 / _LIKELY
    return torch.softmax(logits, dim=0)


def _probabilities() -> torch.Tensor:
    """A vocabulary's, of which all but 64 tokens have none, at random places."""
    places = shuffled(_SIZE)[:_LIKELY].long()
    found = torch.zeros(_SIZE, device=places.device)
    found[places] = _ladder()
    return found


def _top_p(p: torch.Tensor, count: int) -> torch.Tensor:
    """The top-p under which each row keeps its `count` likeliest tokens, in the middle of the last one's step."""
    ordered = p.sort(dim=-1, descending=True).values
    return ordered[..., :count].sum(-1) - ordered[..., count - 1] / 2


def _drawn(sample: Callable[[torch.Tensor], torch.Tensor], row: torch.Tensor, *expected: torch.Tensor) -> Measured:
    """One sample for each of many equal rows, which take turns in what distribution is expected."""
    rows = row.expand(_ROWS, -1).contiguous()
    samples = afresh(sample, rows)
    worst = max(distribution_error(samples[at :: len(expected)], one) for at, one in enumerate(expected))
    return worst, 1.0, lambda: sample(rows)


def _from_probs(function: Callable[..., Any]) -> Measured:
    p = _probabilities()
    return _drawn(function, p, p)


def _from_logits(function: Callable[..., Any]) -> Measured:
    p = _probabilities()
    return _drawn(function, p.clamp_min(1e-18).log(), p)


def _from_top_p(function: Callable[..., Any]) -> Measured:
    p = _probabilities()
    top_p = by_turns([_top_p(p, count).item() for count in (_MANY, _FEW)], _ROWS)
    return _drawn(lambda rows: function(rows, top_p), p, likeliest(p, _MANY), likeliest(p, _FEW))


def _from_top_k(function: Callable[..., Any]) -> Measured:
    p = _probabilities()
    top_k = by_turns([_MANY, _FEW], _ROWS)
    return _drawn(lambda rows: function(rows, top_k), p, likeliest(p, _MANY), likeliest(p, _FEW))


def _from_both(function: Callable[..., Any]) -> Measured:
    """Now top-k is the narrower filter, now top-p."""
    p = _probabilities()
    top_k = by_turns([_FEW, _MANY], _ROWS)
    top_p = by_turns([_top_p(p, count).item() for count in (_MANY, _FEW + 2)], _ROWS)

    def sample(rows: torch.Tensor) -> torch.Tensor:
        return function(rows, top_k, top_p, filter_apply_order="joint")

    return _drawn(sample, p, likeliest(p, _FEW), likeliest(p, _FEW + 2))


def _from_min_p(function: Callable[..., Any]) -> Measured:
    """Relative to the likeliest; each cut half way, in logarithms, between the last token kept and the next."""
    p = _probabilities()
    ordered = p.sort(descending=True).values
    cuts = [((ordered[count - 1] * ordered[count]).sqrt() / ordered[0]).item() for count in (_MANY, _FEW)]
    min_p = by_turns(cuts, _ROWS)
    return _drawn(lambda rows: function(rows, min_p), p, likeliest(p, _MANY), likeliest(p, _FEW))


def _speculative(function: Callable[..., Any]) -> Measured:
    """Whatever a draft model proposes, the target model's distribution results, for the bonus token as well.

    A rejected token may count as accepted, because FlashInfer then asks once more, as of a draft by itself.
    """
    draft, *targets = (_ladder() for _ in range(3))
    proposed = torch.multinomial(draft, _ROWS, replacement=True)[:, None].int()
    drafts = draft.expand(_ROWS, 1, -1).contiguous()
    target = torch.stack(targets).expand(_ROWS, -1, -1).contiguous()
    tokens, accepted, emitted = afresh(function, drafts, proposed, target)
    bonus = tokens[:, 1][emitted == 1]
    counted = bool((accepted >= emitted).all() and (tokens[:, 1][emitted == 0] == -1).all())
    worst = max(distribution_error(tokens[:, 0], targets[0]), distribution_error(bonus, targets[1]))
    return worst if counted else math.inf, 1.0, lambda: function(drafts, proposed, target)


def _softmax(function: Callable[..., Any]) -> Measured:
    """Scaled by the vocabulary, because a probability is small beside the tolerance."""
    logits = random(_BATCH, _VOCABULARY + 3)
    out = afresh(function, logits, temperature=0.7)
    expected = torch.softmax(logits / 0.7, dim=-1)
    worst = error(out * _VOCABULARY, expected * _VOCABULARY)
    return worst, tolerance(torch.float32), lambda: function(logits, temperature=0.7)


def _peaked() -> torch.Tensor:
    """Rows of probabilities of which 64 tokens have nine tenths, all the others together the rest."""
    rest = torch.rand_like(random(_BATCH, _VOCABULARY))
    places = torch.stack([shuffled(_VOCABULARY)[:_LIKELY] for _ in range(_BATCH)]).long()
    likely = torch.stack([_ladder() for _ in range(_BATCH)])
    found = (0.1 * rest / rest.sum(-1, keepdim=True)).scatter(1, places, 0.9 * likely)
    return found / found.sum(-1, keepdim=True)


def _renormalized(function: Callable[..., Any], p: torch.Tensor, cuts: torch.Tensor) -> Measured:
    expected = torch.where(_turn(_BATCH, p), likeliest(p, _FEW), likeliest(p, _MANY))
    out = afresh(function, p, cuts)
    worst = error(out * _VOCABULARY, expected * _VOCABULARY)
    return worst, tolerance(torch.float32), lambda: function(p, cuts)


def _turn(rows: int, like: torch.Tensor) -> torch.Tensor:
    """Whether a row is the second, the fourth, …, as a column."""
    return (torch.arange(rows, device=like.device) % 2 == 1)[:, None]


def _renorm_top_p(function: Callable[..., Any]) -> Measured:
    p = _peaked()
    cuts = torch.where(_turn(_BATCH, p)[:, 0], _top_p(p, _FEW), _top_p(p, _MANY))
    return _renormalized(function, p, cuts)


def _renorm_top_k(function: Callable[..., Any]) -> Measured:
    return _renormalized(function, _peaked(), by_turns([_MANY, _FEW], _BATCH))


def _mask_top_k(function: Callable[..., Any]) -> Measured:
    """Logits that all differ; exact."""
    ranks = torch.stack([shuffled(_VOCABULARY) for _ in range(_BATCH)])
    logits, kept = ranks.float() / _VOCABULARY * 8 - 4, by_turns([1000, _FEW], _BATCH)
    expected = torch.where(ranks >= _VOCABULARY - kept[:, None], logits, -math.inf)
    return exact(afresh(function, logits, kept), expected), 0.0, lambda: function(logits, kept)


_SAMPLES = f", {_ROWS} samples (chi-square)"
_CHECKS: dict[str, tuple[Callable[[Callable[..., Any]], Measured], str]] = {
    "top_k_top_p_sampling_from_probs": (_from_both, f", joint{_SAMPLES}"),
    "sampling_from_probs": (_from_probs, _SAMPLES),
    "sampling_from_logits": (_from_logits, _SAMPLES),
    "top_p_sampling_from_probs": (_from_top_p, _SAMPLES),
    "top_k_sampling_from_probs": (_from_top_k, _SAMPLES),
    "min_p_sampling_from_probs": (_from_min_p, _SAMPLES),
    "chain_speculative_sampling": (_speculative, _SAMPLES),
    "top_p_renorm_probs": (_renorm_top_p, ""),
    "top_k_renorm_probs": (_renorm_top_k, ""),
    "top_k_mask_logits": (_mask_top_k, ", exact"),
    "softmax": (_softmax, ""),
}
