"""The tasks of the group `know`: what belongs into kernels.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.streams import show, show_lines, show_text
from fitasks.graph.session import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.graph.session import Session


def ops(words: list[str]) -> None:
    """what may be written below `kernels:`, with parameters"""
    from fitasks.plan.offers import offers
    from fitasks.ui.ops_table import ops_lines

    plan = current().plan
    known = offers(plan.server, plan.toolkit.home, next(iter(plan.targets)), plan.state)
    show_lines(ops_lines(known, words, plan.server.version("flashinfer-python")))


def explain_models() -> None:
    """what each model below `models:` needs, and why"""
    from fitasks.models.kernels import answers
    from fitasks.ui.models_table import NONE, lines

    plan = current().plan
    for request in plan.config.models:
        for target, told in answers(request, tuple(plan.targets)).items():
            for answer in told:
                show_lines(lines(request, target, answer, plan.not_loaded))
    if not plan.config.models:
        show(NONE)


def import_trace(files: list[str], write: bool) -> None:
    """what a recorded server asked for, for kernels.yaml"""
    from fitasks.trace.sources import files_of

    import_files(current(), files_of(files, Path.cwd()), to_write=write)


def import_files(session: Session, files: Sequence[Path], *, to_write: bool) -> None:
    """Show what the files ask for beyond kernels.yaml as a diff, and write it if asked to. Raises FitasksError."""
    from fitasks.trace.importing import propose, write
    from fitasks.trace.sources import read_sources
    from fitasks.ui.trace_table import proposed

    sources = read_sources(files)
    proposal = propose(session.plan, session.root / session.plan.config.file, sources.requested)
    show_lines(sources.notes)
    if proposal.diff:
        show_text(proposal.diff)
    show_lines(proposed(proposal))
    if proposal.diff and to_write:
        write(proposal)
        show(f"{proposal.file.name} written; `doit` compiles")
    elif proposal.diff:
        show(f"nothing written yet: {proposal.file.name} gets this with --write")
