"""What `doit import_trace` and `doit check --trace` say, in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.trace.coverage import Coverage
    from fitasks.trace.importing import Proposal
    from fitasks.trace.model import Requested
    from fitasks.trace.toolchains import Compiler, Waited

_SHORTEST = 0.05  # seconds; what rounds to 0.0 is no wait
_LOOKS = "ninja"  # FlashInfer has it look at each module that it loads, and find nothing to do
_MOST = 20  # modules of other toolchains that are named: Triton has hundreds


def proposed(proposal: Proposal) -> Iterator[str]:
    """What isn't in the diff, and why."""
    new, refused_ones = counted(len(proposal.resolved), "module"), len(proposal.refused)
    yield f"{new} to add, {len(proposal.present)} in {proposal.file.name} already, {refused_ones} not expressible"
    for refused in proposal.refused:
        yield f"  not expressible: {refused.requested.name}: {refused.reason}"
    yield from _outside(proposal.uncompiled, proposal.unused)


def covered(found: Coverage, file: str) -> Iterator[str]:
    """Counts first; then each module that isn't covered."""
    there = found.total - len(found.not_planned)
    yield f"{file} covers {there} of {counted(found.total, 'requested module')}{'; not' if found.not_planned else ''}"
    yield from (f"  {one.name}{_waited(one)}" for one in found.not_planned)
    if found.not_packaged is not None:
        packaged = found.total - len(found.not_packaged)
        yield f"the installed flashinfer-jit-cache has {packaged} of them{'; not' if found.not_packaged else ''}"
        yield from (f"  {one.name}" for one in found.not_packaged)
    if found.not_planned:
        yield "`doit import_trace` adds what kernels.yaml can say"
    yield from _outside(found.uncompiled, found.unused)
    yield from _waits(found)


def _waits(found: Coverage) -> Iterator[str]:
    """By toolchain: what made this server wait, and what can be done about it."""
    if any(one.seconds >= _SHORTEST or one.unfinished for one in found.waited):
        yield from _waits_by_toolchain(found)
        yield from _compilers(found.compilers)
    elif any(one.name != _LOOKS for one in found.compilers):
        yield "this server started compilers, for whichever toolchain:"
        yield from _compilers(found.compilers)


def _waits_by_toolchain(found: Coverage) -> Iterator[str]:
    yield "what this server waited for, each module by the process that waited longest:"
    for one in found.waited:
        late = _late(one.late)
        made = f", {one.compiled} of them compiled in {one.seconds:.1f} s{late}" if one.compiled else ""
        advice = _advice(one) if made or one.unfinished else ""
        yield f"  {one.toolchain.title}: {counted(one.modules, 'module')}{made}{_unfinished(one)}{advice}"


def _unfinished(one: Waited) -> str:
    """What killed processes were at; since when, where the launcher's watcher said when the server ended."""
    if not one.unfinished:
        return ""
    if not one.left:
        return f", {one.unfinished} of them begun and never finished"
    up_to = "up to " if one.unfinished > 1 else ""
    return f", {one.unfinished} of them not finished when the server ended, after {up_to}{one.left:.1f} s"


def _compilers(found: Sequence[Compiler]) -> Iterator[str]:
    """Processes by name; one waits for those that it starts, so that their seconds are its own, too."""
    if not found:
        return
    if found[0].seconds is None:
        yield f"  compilers that Python started: {', '.join(f'{one.name} {one.processes}' for one in found)}"
        return
    yield "  compilers' processes, each with the seconds of those that it started:"
    yield from (f"    {one.name}: {one.processes} in {one.seconds:.1f} s{_late(one.late)}" for one in found)


def _late(seconds: float) -> str:
    return f", {seconds:.1f} s of it while it was already answering" if seconds >= _SHORTEST else ""


def _advice(one: Waited) -> str:
    if one.toolchain.ahead:
        return ""
    if one.toolchain.kept == "":
        return "; each process compiles it anew"
    return "; nothing compiles it beforehand yet" + (f", kept in {one.toolchain.kept}" if one.toolchain.kept else "")


def _outside(uncompiled: Sequence[Requested], unused: Sequence[Requested]) -> Iterator[str]:
    """What precompilation has no part in."""
    if uncompiled:
        total = sum(one.longest for one in uncompiled)
        yield f"not covered by precompilation: {counted(len(uncompiled), 'module')}, {total:.1f} s in the server"
        longest = sorted(uncompiled, key=lambda one: -one.longest)
        yield from (f"  {one.name} ({one.kind}){_waited(one)}" for one in longest[:_MOST])
        if len(longest) > _MOST:
            yield f"  and {len(longest) - _MOST} more, {sum(one.longest for one in longest[_MOST:]):.1f} s"
    if unused:
        yield f"left out: {counted(len(unused), 'module')}, generated and never loaded"


def _waited(one: Requested) -> str:
    seconds = f", {one.longest:.1f} s" if one.longest else ""
    return seconds + ", not finished" * (one.unfinished and not one.compiled)
