"""Which stores elsewhere a run asks: those of FITASKS_STORE, then those of kernels.yaml."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.base.environment import switch
from fitasks.base.errors import EnvironmentProblem
from fitasks.config.stores import StoreRequest, is_key, shortest, unusable
from fitasks.store.local import SHARED, VARIABLE, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TRUST, PUSH = "FITASKS_STORE_TRUST", "FITASKS_STORE_PUSH"


def requested(configured: Iterable[StoreRequest], env: Mapping[str, str]) -> tuple[StoreRequest, ...]:
    """Return the stores in the order in which they are asked, each once. Raises EnvironmentProblem.

    What FITASKS_STORE names is held to the keys of FITASKS_STORE_TRUST, or without those to all that kernels.yaml
    trusts, so that a machine whose kernels.yaml asks for signatures doesn't stop asking because of a variable.
    """
    configured = tuple(configured)
    keys = trusted(env) or tuple(dict.fromkeys(key for one in configured for key in one.trust))
    push = switch(env, PUSH)
    named = [StoreRequest(_usable(word), push, keys) for word in words(env) if word != SHARED]
    known = {shortest(one.url): one for one in configured}
    merged = [_merged(one, known.get(shortest(one.url))) for one in named]
    return tuple(
        {shortest(one.url): one for one in (*configured, *merged)}[place] for place in _places(merged, configured)
    )


def _places(named: Iterable[StoreRequest], configured: Iterable[StoreRequest]) -> list[str]:
    return list(dict.fromkeys(shortest(one.url) for one in (*named, *configured)))


def _merged(named: StoreRequest, configured: StoreRequest | None) -> StoreRequest:
    """One that stands in both: what kernels.yaml says of it holds as well."""
    if configured is None:
        return named
    return replace(named, push=named.push or configured.push, trust=configured.trust or named.trust)


def _usable(word: str) -> str:
    if why := unusable(word):
        raise EnvironmentProblem(f"{VARIABLE} names a store that can't be used: {why}", remedy=f"correct {VARIABLE}")
    return word


def trusted(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of FITASKS_STORE_TRUST. Raises EnvironmentProblem."""
    keys = tuple(env.get(TRUST, "").replace(",", " ").split())
    if wrong := next((key for key in keys if not is_key(key)), ""):
        raise EnvironmentProblem(
            f"{TRUST}: {wrong[:80]!r} is no public key; expected ed25519: and 44 letters",
            remedy="doit keygen says yours",
        )
    return keys
