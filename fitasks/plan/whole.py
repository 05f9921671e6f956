"""What the scripts are asked that have an engine's own code plan, or build, a kernel in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.config.model import Scalar


def request_for(
    target: str, kernels: Mapping[int, tuple[str, Mapping[str, Scalar]]], *, recorded: bool = False
) -> dict[str, Any]:
    """A request about ops with their parameters, for a target of one architecture."""
    wanted = [{"id": index, "op": op, "params": params} for index, (op, params) in kernels.items()]
    return {"version": 1, "architecture": target, "recorded": recorded, "kernels": wanted}
