"""Which toolkit kernels are compiled with, out of those that the server could use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitasks.base.environment import cache_home
from fitasks.base.errors import EnvironmentProblem, NoCompiler
from fitasks.cuda import chosen
from fitasks.cuda.toolkit import choose_toolkit

if TYPE_CHECKING:
    from collections.abc import Collection

    from fitasks.cuda.capability import Commands
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.cuda.toolkit import Choice
    from fitasks.plan.server import Server


def toolkit_of(server: Server, needs: Collection[str], probe: ProbeMemo, commands: Commands | None = None) -> Choice:
    """The first toolkit with the headers `needs` that can do `commands`. Raises EnvironmentProblem where none has."""
    return choose_toolkit(server.env, server.toolkit_places(), needs, probe, cache_home(server.env), commands=commands)


def choice_of(server: Server, cache: dict[str, Any], probe: ProbeMemo) -> Choice:
    """The toolkit; without a host compiler the one that the plan was made with.

    Where there is none, nor FlashInfer, as in a small environment of fitasks' own, it is the interpreter that is wrong.
    """
    try:
        return toolkit_of(server, cache.get("needs", ()), probe, cache.get("commands"))
    except EnvironmentProblem as error:
        if not server.imported_from("flashinfer-python"):
            remedy = "name the server's interpreter as serving.python in kernels.yaml, or install FlashInfer there"
            raise EnvironmentProblem(f"{server.python} has no FlashInfer", remedy=remedy) from None
        if not isinstance(error, NoCompiler):
            raise
        if same := chosen.again(cache.get("chosen", {}), server.env, probe):
            return same
        raise
