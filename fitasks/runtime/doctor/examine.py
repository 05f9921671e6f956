"""All of it, in the order in which it is shown. What can't be examined is a finding, and doesn't keep the rest away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.cuda.cudart import discover
from fitasks.errors import ConfigError, EnvironmentProblem, FitasksError
from fitasks.plan.hopper import left_out
from fitasks.plan.plan import configuration, targets_of
from fitasks.plan.server import find_server
from fitasks.runtime.doctor import caches, machine, packages, toolkits, trial
from fitasks.runtime.doctor.finding import Finding

if TYPE_CHECKING:
    from fitasks.config.model import Config
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server
    from fitasks.session import Session


def examine(session: Session) -> list[Finding]:
    """Every finding; works where no plan can be made."""
    try:
        config = configuration(session.root)
        server = find_server(config, session.probe)
    except ConfigError:
        raise
    except FitasksError as error:
        return [packages.failed(error)]
    found, toolkit = toolkits.examine(server, session.probe)
    findings = [*found, *packages.examine(server, toolkit, sm90=_sm90(config, server))]
    if toolkit:
        findings += _cudart(session, server, toolkit)
    findings += [*machine.examine(server, toolkit, session.probe), *caches.examine(server)]
    if session.problem:
        findings.append(Finding("plan", "not made", session.problem.message, "problem", session.problem.remedy))
    session.probe.save()
    return [*findings, *_trial(config, server, toolkit)]


def _sm90(config: Config, server: Server) -> bool:
    try:
        return not left_out(config, targets_of(config, server))
    except EnvironmentProblem:  # of `targets: auto`; the trial says it
        return True


def _cudart(session: Session, server: Server, toolkit: Toolkit) -> list[Finding]:
    memo = session.root / ".fitasks" / "cudart.json"
    try:
        runtime = discover(server.python, server.env, server.site_packages, toolkit.cudart, memo)
    except EnvironmentProblem as error:
        return [packages.failed(error)]
    return list(packages.examine_cudart(runtime))


def _trial(config: Config, server: Server, toolkit: Toolkit | None) -> list[Finding]:
    """With the first target; nothing to try without a toolkit or FlashInfer, which has been said by then."""
    if toolkit is None or not server.version("flashinfer-python"):
        return []
    try:
        target = targets_of(config, server)[0]
    except EnvironmentProblem as error:
        return [Finding("trial", "targets", error.message, "problem", error.remedy)]
    return trial.examine(server, toolkit, target)
