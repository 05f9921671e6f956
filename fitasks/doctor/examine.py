"""All of it, in the order in which it is shown. What can't be examined is a finding, and doesn't keep the rest away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fitasks.base.environment import problems
from fitasks.base.errors import ConfigError, EnvironmentProblem, FitasksError, Unbuildable
from fitasks.cuda.capability import of_targets
from fitasks.cuda.cudart import discover
from fitasks.doctor import caches, machine, packages, stores, toolkits, trial
from fitasks.doctor.finding import Finding, failure, kept
from fitasks.plan.hopper import left_out
from fitasks.plan.plan import configuration, targets_of
from fitasks.plan.server import Server
from fitasks.server.loadable import remedy
from fitasks.server.place import place_of
from fitasks.server.user import user_of
from fitasks.store.elsewhere import requested
from fitasks.store.local import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.config.model import Config
    from fitasks.cuda.capability import Commands
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.plan import Plan


class Examined(Protocol):
    """What is known of a run; `problem` is why there is no plan, or why nothing can be built by it."""

    root: Path
    problem: FitasksError | None

    @property
    def plan(self) -> Plan: ...
    @property
    def probe(self) -> ProbeMemo: ...
    @property
    def server(self) -> Server: ...


def examine(run: Examined) -> list[Finding]:
    """Every finding; works where no plan can be made, or no serving interpreter is found. Raises ConfigError alone."""
    config = configuration(run.root)
    try:
        server = run.server
    except ConfigError:
        raise
    except (FitasksError, OSError) as error:
        return list(_without_interpreter(config, run, error))
    found, toolkit = toolkits.examine(server, run.probe, _commands(config, run))
    findings = [*found, *kept("packages", packages.examine(server, toolkit, sm90=_sm90(config, server)))]
    if toolkit:
        findings += kept("libcudart", _cudart(run, server, toolkit))
    findings += _around(config, run, server, toolkit)
    if run.problem and not any(run.problem.message == finding.value for finding in findings):
        what = "where FlashInfer builds" if isinstance(run.problem, Unbuildable) else "not made"
        findings.append(Finding("plan", what, run.problem.message, "problem", run.problem.remedy))
    run.probe.save()
    return [*findings, *kept("trial", _trial(config, server, toolkit), section="trial")]


def _without_interpreter(config: Config, run: Examined, error: Exception) -> Iterator[Finding]:
    """Why there is none, and what is to be said of the rest: toolkits of this environment, the machine and caches."""
    env = dict(os.environ) | config.serving.env
    server = Server(Path(config.serving.python), config.serving.engine, Path(), (), env, ())
    found, toolkit = toolkits.examine(server, run.probe, _commands(config, run))
    yield from found
    yield failure("serving environment", "python", error)
    yield from _around(config, run, server, toolkit)


def _around(config: Config, run: Examined, server: Server, toolkit: Toolkit | None) -> Iterator[Finding]:
    """What no package of the server decides."""
    for problem in problems(server.env):
        yield Finding("machine", "environment", problem.message, "problem", problem.remedy)
    yield from kept("machine", machine.examine(server, toolkit, run.probe), section="machine")
    yield from kept("in use", _caches(config, server), section="caches")
    yield from kept("store", _elsewhere(config), section=stores.SECTION)


def _store(server: Server) -> Iterator[Finding]:
    yield from caches.examine_store(Store.of(server.env))


def _elsewhere(config: Config) -> Iterator[Finding]:
    yield from stores.examine(requested(config.stores, os.environ), os.environ)


def _caches(config: Config, server: Server) -> Iterator[Finding]:
    with place_of(config) as place:
        yield from caches.examine(server, place)
    yield from kept("store", _store(server), section="caches")


def _commands(config: Config, run: Examined) -> Commands:
    """What each nvcc is tried with: the planned modules' flags, or without a plan the targets' architectures."""
    return {"": of_targets(config.targets)} if run.problem else run.plan.commands


def _sm90(config: Config, server: Server) -> bool:
    try:
        return not left_out(config, targets_of(config, server))
    except EnvironmentProblem:  # of `targets: auto`; the trial says it
        return True


def _cudart(run: Examined, server: Server, toolkit: Toolkit) -> Iterator[Finding]:
    memo = run.root / ".fitasks" / "cudart.json"
    runtime = discover(server.python, server.env, server.site_packages, toolkit.cudart, memo)
    yield from packages.examine_cudart(runtime, remedy(server, toolkit, runtime.toolkit.soname))


def _trial(config: Config, server: Server, toolkit: Toolkit | None) -> Iterator[Finding]:
    """With the first target; nothing to try without a toolkit or FlashInfer, which has been said by then."""
    if toolkit is None or not server.version("flashinfer-python"):
        return
    user = user_of(config.serving.user, config.file)
    yield from trial.examine(server, toolkit, targets_of(config, server)[0], user)
