"""The tasks of the group `ask`: what a server will do, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.doing import doing
from fitasks.base.errors import EnvironmentProblem, Silent
from fitasks.base.streams import show, show_for_shell, show_lines, show_text
from fitasks.base.wording import counted
from fitasks.graph.actions.build import NONE_YET
from fitasks.graph.session import current

if TYPE_CHECKING:
    from fitasks.graph.session import Session
    from fitasks.plan.kernel import Kernel
    from fitasks.server.verdict import Verdict


def check(json: str, trace: str, verbose: bool, names: list[str]) -> None:
    """what the server will do with each kernel; fails if it would compile"""
    from fitasks.delivery.wheel.install import damaged, notice
    from fitasks.server.check import check as predict_all
    from fitasks.server.conditions import conditions
    from fitasks.ui.check_table import show_verdicts, write_verdicts

    session = current().asking
    with doing(f"looking at {counted(len(session.plan.chosen(names)), 'kernel')} as the server will"):
        verdicts = in_stores(session, predict_all(session, names))
        needed = conditions(session, verdicts)
    others = () if names else session.plan.not_loaded
    show_verdicts(verdicts, needed, others, whole=verbose)
    damage = damaged(session.plan.server)
    if told := damage or notice(session.plan):
        show(told)
    show_lines(NONE_YET if not verdicts else ())
    if json:
        write_verdicts(Path(json), verdicts, needed, others)
    if damage or (trace and not covers(session, Path(trace))) or not all(verdict.good for verdict in verdicts):
        raise Silent


def in_stores(session: Session, verdicts: list[Verdict]) -> list[Verdict]:
    """Say of what would be compiled which store has it; no store is asked where nothing would be."""
    from fitasks.server.verdict import stored

    lacking = {verdict.label for verdict in verdicts if verdict.state == "would compile"}
    if not lacking or session.problem:
        return verdicts
    kernels = [kernel for kernel in session.plan.buildable() if kernel.label in lacking and not kernel.built_whole]
    there = session.stores.holding(kernels, session.judges)
    return [stored(verdict, there.get(verdict.label, "")) for verdict in verdicts]


def covers(session: Session, trace: Path) -> bool:
    """Compare a trace with the plan and say what differs; whether everything that was asked for is there beforehand."""
    from fitasks.trace.coverage import coverage, packaged_names, planned_names
    from fitasks.trace.sources import read_sources
    from fitasks.ui.trace_table import covered

    plan = session.plan
    found = coverage(read_sources([trace]).requested, planned_names(plan), packaged_names(plan.server))
    show_lines(covered(found, plan.config.file))
    return not found.missing


def why(verbose: bool, names: list[str]) -> None:
    """why each kernel that isn't fresh isn't"""
    from fitasks.ui.show import why_lines

    session = current()
    chosen = session.plan.chosen(names)
    if session.problem:
        raise session.problem
    shown = [kernel for kernel in chosen if names or kernel.problem or session.judge(kernel).verdict != "fresh"]
    told = [(kernel.label, _reasons(session, kernel)) for kernel in shown]
    show_lines(why_lines(told, whole=verbose or bool(names)))
    if not shown and not names:
        show(f"{counted(len(chosen), 'kernel')}, all fresh" if len(chosen) != 1 else "1 kernel, fresh")


def _reasons(session: Session, kernel: Kernel) -> tuple[str, ...]:
    """In lines."""
    from fitasks.ui.show import reasons

    if kernel.problem:
        return tuple(kernel.problem.splitlines())
    judged = session.judge(kernel)
    return reasons(
        kernel.label, kernel.name, judged, session.stores.explain(kernel, session.judges[kernel.target], judged)
    )


def doctor(json: str, verbose: bool) -> None:
    """what is wrong with this machine, and what to do"""
    from fitasks.doctor.examine import examine
    from fitasks.ui.doctor_table import show_findings, write_findings

    findings = examine(current())
    show_findings(findings, whole=verbose)
    if json:
        write_findings(Path(json), findings)
    if any(finding.state == "problem" for finding in findings):
        raise Silent


def verify(names: list[str], force: bool) -> None:
    """prove the kernels on all GPUs of this machine"""
    from fitasks.ui.verify_table import line, summary
    from fitasks.verify.verify import verify as prove

    plan = current().plan
    plan.chosen(names)  # a wrong name is told where there is no GPU, too
    verdicts = prove(plan, names, force=force, say=show, told=lambda verdict: show(line(verdict)))
    show(summary(verdicts))
    if verdicts and all(verdict.outcome == "no GPU" for verdict in verdicts):
        raise EnvironmentProblem(
            "none of these GPUs is of an architecture that kernels.yaml names", remedy="see targets:"
        )
    if not all(verdict.good or verdict.outcome == "no GPU" for verdict in verdicts):
        raise Silent


def env() -> None:
    """the export lines that the server needs"""
    from fitasks.server.exports import export_lines

    for line in export_lines(current().plan, current().ninja.executable.parent):
        show_for_shell(line)


def report(names: list[str]) -> None:
    """the last run as a page: what was compiled when, and why"""
    from fitasks.ui.report import kernels_on_disk, report_last_run

    session = current()
    labels = {kernel.label for kernel in session.plan.chosen(names)} if names else None
    known = kernels_on_disk(session.kernels, session.judge)
    show_lines(map(str, report_last_run(session.root / ".fitasks", known, labels)))


def jitlog(files: list[str]) -> None:
    """what servers compiled at run time, by FlashInfer's own log"""
    from fitasks.server.jitlog import logs_of, read_logs
    from fitasks.ui.jitlog_table import lines

    session = current()
    named = {os.path.realpath(file): Path(file) for file in files}
    logs = tuple(named.values()) or logs_of(session.plan, session.server)
    found = read_logs(logs, None if session.problem else session.kernels)
    show_lines(lines(found, logs))
    if found and session.problem:
        raise EnvironmentProblem(f"coverage unknown: {session.problem.message}", remedy=session.problem.remedy)
    if any(one.accuses for one in found):
        raise Silent


def cudart() -> None:
    """the toolkit's libcudart and the server's, side by side"""
    from fitasks.server.cudart_policy import foretold
    from fitasks.ui.show import cudart_lines

    session = current()
    show_lines(cudart_lines(session.plan.notes, session.runtime))
    failed, then = foretold(session.plan, session.runtime)
    show_lines(failed)
    if then:
        show_text(f"after the next build: {then}")
    if failed and session.plan.config.cudart != "ignore":
        raise Silent
