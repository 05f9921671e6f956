"""What doit tells of a run: its reporters, who hear what the builder does and says; and what it counts as a failure."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from doit import Globals, exceptions, runner

from fitasks.compile.ninja.ninja import read_log
from fitasks.compile.pool.usage import usage
from fitasks.graph.session import current
from fitasks.processes import sessions, signals
from fitasks.ui.aside import Aside
from fitasks.ui.machine import JsonReporter
from fitasks.ui.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitasks.graph.session import Session


class UnmetDependency(exceptions.TaskFailed, exceptions.UnmetDependency):  # type: ignore[misc]
    """A task was not done because one that it needs failed: a failed task like that one (exit status 1).

    doit's own counts as an error (2), decided before any reporter could object; there is no hook for it but the name.
    """


class Lines(Reporter):
    """For people."""

    def initialize(self, tasks: Any, selected_tasks: Any) -> None:
        _attach(self, _kernels_among(tasks, selected_tasks))


class Json(JsonReporter):
    """For machines."""

    def initialize(self, tasks: Any, selected_tasks: Any) -> None:
        _attach(self, _kernels_among(tasks, selected_tasks))


def with_progress(chosen: type[Any]) -> type[Any]:
    """The reporter's class; beside one that isn't ours, what is built is heard on standard error.

    Whichever it is, the session learns which kernels this run is about.
    """
    if issubclass(chosen, Lines | Json):
        return chosen

    class WithProgress(chosen):  # type: ignore[misc]
        def initialize(self, tasks: Any, selected_tasks: Any) -> None:
            _attach(Aside(sys.stderr), _kernels_among(tasks, selected_tasks))
            if hasattr(chosen, "initialize"):  # doit demands none
                super().initialize(tasks, selected_tasks)

    return WithProgress


def configuration() -> dict[str, Any]:
    """The part of DOIT_CONFIG that is about reporters; `reporters` is read by fitasks/graph/command.py."""
    runner.UnmetDependency = UnmetDependency
    return {"reporter": Lines, "reporters": {"json": Json}}


def _attach(reporter: Lines | Json | Aside, wanted: frozenset[str]) -> None:
    session = current()
    session.wanted = reporter.progress.wanted = wanted
    session.say = reporter.write
    session.observers.append(reporter.observe)
    signals.before_words(reporter.stop)
    reporter.progress.files_done = functools.partial(_files_done, session)
    reporter.progress.usage = lambda: session.fleet.usage() if session.fleet else usage(sessions.live())


def _kernels_among(tasks: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """The labels of the kernels that doit will come to: the tasks of these names, and what they depend on.

    Twins are none of their own: nothing is done for them. Nor is anything for those of `doit ignore`.
    """
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen and name in tasks:
            seen.add(name)
            waiting += tasks[name].task_dep
    kernels = (name for name in seen if name.startswith("kernel:") and tasks[name].actions)
    ignored = Globals.dep_manager.status_is_ignore
    return frozenset(name.removeprefix("kernel:") for name in kernels if not ignored(tasks[name]))


def _files_done(session: Session, label: str) -> int:
    """Its objects that ninja has made and that are there; the log also has the library, and what is lost."""
    if session.fleet and (told := session.fleet.files(label)):
        return told
    kernel = next(kernel for kernel in session.kernels if kernel.label == label)
    try:
        outputs = read_log(kernel.build_dir)
    except OSError:
        return 0
    made = (kernel.build_dir / output for output in outputs)  # absolute, or relative to the module's directory
    return sum(path != kernel.library and path.exists() for path in made)
