"""Whether a run may compile at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.environment import switch

if TYPE_CHECKING:
    from collections.abc import Mapping

FETCH_ONLY = "FITASKS_FETCH_ONLY"  # what `doit --fetch-only` becomes (graph/command.py)


def fetch_only(env: Mapping[str, str]) -> bool:
    """Return whether nothing is to be compiled: what no store has fails. Raises EnvironmentProblem."""
    return switch(env, FETCH_ONLY)
