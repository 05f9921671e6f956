"""What `doit import_trace` and `doit check --trace` say, in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.trace.coverage import Coverage
    from fitasks.trace.importing import Proposal
    from fitasks.trace.model import Requested


def proposed(proposal: Proposal) -> Iterator[str]:
    """What isn't in the diff, and why."""
    counts = f"{len(proposal.resolved)} modules to add, {len(proposal.present)} in {proposal.file.name} already"
    yield f"{counts}, {len(proposal.refused)} not expressible"
    for refused in proposal.refused:
        yield f"  not expressible: {refused.requested.name}: {refused.reason}"
    yield from _outside(proposal.uncompiled, proposal.unused)


def covered(found: Coverage, file: str) -> Iterator[str]:
    """Counts first; then each module that isn't covered."""
    yield f"{len(found.not_planned)} of {found.total} requested modules are not covered by {file}"
    yield from (f"  {one.name}{_waited(one)}" for one in found.not_planned)
    if found.not_packaged is not None:
        yield f"{len(found.not_packaged)} of {found.total} are not in the installed flashinfer-jit-cache"
        yield from (f"  {one.name}" for one in found.not_packaged)
    if found.not_planned:
        yield "`doit import_trace` adds what kernels.yaml can say"
    yield from _outside(found.uncompiled, found.unused)


def _outside(uncompiled: Sequence[Requested], unused: Sequence[Requested]) -> Iterator[str]:
    """What precompilation has no part in."""
    if uncompiled:
        total = sum(one.seconds for one in uncompiled)
        yield f"not covered by precompilation: {len(uncompiled)} modules, {total:.1f} s in the server"
        yield from (f"  {one.name} ({one.kind}){_waited(one)}" for one in uncompiled)
    if unused:
        yield f"{len(unused)} modules were generated but never loaded, and are left out"


def _waited(one: Requested) -> str:
    return f", {one.seconds:.1f} s" if one.seconds else ""
