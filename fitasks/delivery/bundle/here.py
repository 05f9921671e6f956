"""This machine, as bundles meet it: what is planned, and how kernels are judged, healed and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.plan.plan import Plan
    from fitasks.store.local import Store


@dataclass(frozen=True)
class Here:
    """Where a bundle is made, or taken. `judges` by target; `ninja` is the server's."""

    plan: Plan
    judges: Mapping[str, Judge]
    ninja: Ninja
    store: Store
