"""The borders of what is remembered: the plan, and every other memo of a project."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.mutants_worlds import Border, fitasks_errors, remove, tools


def _project(world: Path) -> Any:
    """A planned and built project; what its commands remember is made by running them."""
    from tests.doit_project import Project

    project = Project.make(world, "targets: ['9.0a']\nkernels:\n  page:\n  quantization:\n")
    project.doit()
    project.doit("check")
    project.doit("ops")
    return project


def _memos(world: Path, chosen: Callable[[str], bool]) -> Border:
    project = _project(world)
    os.environ.clear()
    os.environ.update(project.env)
    os.chdir(project.root)
    state = project.root / ".fitasks"
    found = [*state.glob("*.json*"), *(world / "xdg" / "fitasks").glob("*.json"), *_beside_libraries(project)]
    files = sorted({path.resolve() for path in found if path.is_file() and chosen(path.name)})
    before = [file.read_bytes() for file in files]

    def renew() -> None:
        for file, data in zip(files, before, strict=True):
            remove(file)
            file.write_bytes(data)

    programs = {str(project.tools / "nvcc"), sys.executable, str(Path(sys.executable).resolve()), *tools(project.env)}
    asks = frozenset({"ninja"})  # what remains of a build that was begun
    return Border(before, files[0], _run_like_check, renew=renew, programs=frozenset(programs), asks=asks, files=files)


def _beside_libraries(project: Any) -> list[Path]:
    """What lies beside a library besides its receipt: what was begun, what failed, what is proven."""
    from fitasks.base.answers import Checked
    from fitasks.compile import begun
    from fitasks.compile.failure import failed
    from fitasks.graph.session import Session
    from fitasks.verify import proof

    session = Session.load(project.root)
    page, begins = session.plan.buildable()
    judge = session.judges[page.target]
    failed.remember(page, judge, "nvcc fatal: made up")
    checks = (Checked("made up", 0.1, 0.2, None),)
    proof.add(page.build_dir, proof.Proof("0" * 64, "9.0", "gpu", "1", "2", "3", "numerical", checks, "", "2026"))
    begun.begin(begins, judge, session.ninja, ())
    return [*page.build_dir.glob("fitasks-*.json"), *begins.build_dir.glob("fitasks-*.json")]


def _run_like_check(_: Path) -> None:
    """As much of list, why, check, ops and report as happens in one process."""
    from fitasks.compile import begun
    from fitasks.compile.failure import failed
    from fitasks.graph.session import Session
    from fitasks.plan import offers
    from fitasks.verify import proof

    session = Session.load(Path.cwd())
    if session.problem:
        raise session.problem
    print(session.runtime, session.loader, session.jobs)
    for kernel in session.plan.buildable():
        judged, judge = session.judge(kernel), session.judges[kernel.target]
        print(judged, *judged.reasons, session.costs.of(kernel), session.costs.files(kernel))
        print(begun.most_threads(kernel), failed.remembered(kernel, judge), proof.read(kernel.build_dir, "0" * 64))
    plan = session.plan
    session.contents.save()
    for target in [*plan.targets][:1]:  # none where the remembered kernels.yaml says none
        print(offers.offers(plan.server, plan.toolkit.home, target, plan.state))
    with fitasks_errors():
        _checked(session)
    _reported(session)
    print(*(begun.remaining(kernel, session.judges[kernel.target], session.ninja, ()) for kernel in session.kernels))


def _checked(session: Any) -> None:
    from fitasks.server.loadable import provisos, refused_by

    print(provisos(session), *(refused_by(session, kernel.library) for kernel in session.plan.buildable()))


def _reported(session: Any) -> None:
    from fitasks.ui.report.model import last_run

    print(last_run(session.root / ".fitasks" / "journal.jsonl"))


def plan(world: Path) -> Border:
    """.fitasks/plan.json, as every command begins."""
    return _memos(world, lambda name: name == "plan.json")


def memos(world: Path) -> Border:
    """Everything else that is remembered: below .fitasks, in the user's cache, beside a library."""
    return _memos(world, lambda name: name not in {"plan.json", "fitasks-receipt.json"})
