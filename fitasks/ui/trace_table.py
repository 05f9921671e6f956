"""What `doit import_trace` and `doit check --trace` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.errors import EnvironmentProblem
from fitasks.streams import show as _print
from fitasks.streams import show_text
from fitasks.trace.coverage import Coverage, coverage, packaged_names, planned_names
from fitasks.trace.importing import Proposal, propose, write
from fitasks.trace.sources import read_sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fitasks.session import Session
    from fitasks.trace.model import Requested


def import_files(session: Session, files: Sequence[Path], *, to_write: bool) -> None:
    """Show what the files ask for beyond kernels.yaml as a diff, and write it if asked to. Raises FitasksError."""
    sources = read_sources(files)
    proposal = propose(session.plan, session.root / session.plan.config.file, sources.requested)
    for note in sources.notes:
        _print(note)
    if proposal.diff:
        show_text(proposal.diff)
    for line in proposed(proposal):
        _print(line)
    if not proposal.diff:
        return
    if to_write:
        write(proposal)
        _print(f"{proposal.file.name} written; `doit` compiles")
    else:
        _print(f"nothing written yet: {proposal.file.name} gets this with --write")


def proposed(proposal: Proposal) -> Iterator[str]:
    """What isn't in the diff, and why."""
    counts = f"{len(proposal.resolved)} modules to add, {len(proposal.present)} in {proposal.file.name} already"
    yield f"{counts}, {len(proposal.refused)} not expressible"
    for refused in proposal.refused:
        yield f"  not expressible: {refused.requested.name}: {refused.reason}"
    yield from _outside(proposal.uncompiled, proposal.unused)


def show_coverage(session: Session, file: Path) -> bool:
    """Compare a trace with the plan; whether everything that was asked for is there beforehand."""
    requested = read_sources([file]).requested
    found = coverage(requested, planned_names(session.plan), packaged_names(session.plan.server))
    for line in covered(found, session.plan.config.file):
        _print(line)
    return not found.missing


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


def files_of(words: Sequence[str], root: Path) -> list[Path]:
    """Paths as given on the command line. Raises EnvironmentProblem for one that isn't there."""
    files = [root / word for word in words]
    for word, file in zip(words, files, strict=True):
        if not file.exists():
            raise EnvironmentProblem(f"{word}: no such file", remedy="doit import_trace trace.jsonl")
    return files
