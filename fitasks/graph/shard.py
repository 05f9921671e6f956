"""`fitasks --shard 3/20`: which of the kernels are this machine's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.streams import tell
from fitasks.compile.pool.costs import Costs, guess
from fitasks.compile.pool.shards import Shard, divide
from fitasks.graph.session import current
from fitasks.plan.names import GROUP, PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.compile.pool.shards import Division


def this_shard(words: Sequence[str], tasks: Mapping[str, Any], shard: str | None, shard_costs: str | None) -> list[str]:
    """Return the tasks of this machine's part of the kernels that the words name, of all without words.

    What comes after all kernels isn't among them, since no machine of these has all. Raises EnvironmentProblem.
    """
    if shard is None:
        raise EnvironmentProblem("--shard-costs says by what to divide, and nothing is", remedy="add --shard 1/20")
    part = Shard.of(shard)
    labels = _labels(words, tasks)
    kernels = [kernel for kernel in current().kernels if kernel.label in labels]
    division = divide(kernels, part.count, Costs.given(Path(shard_costs)).of if shard_costs is not None else guess)
    tell(_told(part, division, len(kernels)))
    return [f"{PREFIX}{label}" for label in division.shards[part.number - 1]]


def _labels(words: Sequence[str], tasks: Mapping[str, Any]) -> set[str]:
    """Of the kernels meant; of one that is the same module as another, the other's. Raises EnvironmentProblem."""
    everything = [name for name in tasks if name.startswith(PREFIX)]
    named = [name for word in words or [GROUP] for name in (everything if word == GROUP else [word])]
    if other := next((name for name in named if not name.startswith(PREFIX)), None):
        raise EnvironmentProblem(
            f"--shard divides kernels among machines, and {other!r} is none",
            remedy=f"fitasks run --shard …, and doit {other} where all kernels are",
        )
    owners = (name if tasks[name].actions else tasks[name].task_dep[0] for name in named)
    return {name.removeprefix(PREFIX) for name in owners}


def _told(shard: Shard, division: Division, total: int) -> str:
    """One line, by which people can see that all machines divided alike, and that more of them would be of no use."""
    own, seconds = division.shards[shard.number - 1], division.seconds[shard.number - 1]
    label, longest = division.largest
    line = (
        f"shard {shard}: {len(own)} of {total} kernels, about {seconds:,.0f} of {sum(division.seconds):,.0f} s of CPU"
    )
    if longest > division.even and total > 1:
        line += f"; {label} alone takes {longest:,.0f} s, more than an even share"
    return f"{line}; division {division.digest}, which must be the same on every machine"
