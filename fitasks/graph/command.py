"""`doit run` and `doit list` with options of ours. Found by doit through the entry point group doit.COMMAND.

--no-sm90 becomes FITASKS_SM90=0 before dodo.py is loaded, and `-n` MAX_JOBS. --shard chooses kernels, --workers who
compiles them.
It serves every dodo.py of this environment, ours or not, and otherwise does only what DOIT_CONFIG asks for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun

from fitasks.base import temporary
from fitasks.base.errors import FitasksError
from fitasks.base.limits import met
from fitasks.graph.words import kernels_named, resolved, taken
from fitasks.plan.hopper import VARIABLE
from fitasks.plan.names import UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_SM90 = {
    "name": "no_sm90",
    "short": "",
    "long": "no-sm90",
    "type": bool,
    "default": False,
    "help": "plan generic modules in place of Hopper's, as `sm90: false` in kernels.yaml does (fitasks)",
}
_WORD = "--no-sm90"
_SHARD = {
    "name": "shard",
    "short": "",
    "long": "shard",
    "type": str,
    "default": "",
    "help": "compile this machine's part of the kernels, e.g. 3/20: the third of twenty (fitasks)",
}
_SHARD_COSTS = {
    "name": "shard_costs",
    "short": "",
    "long": "shard-costs",
    "type": str,
    "default": "",
    "help": "divide by what kernels cost according to this costs.json, the same on every machine (fitasks)",
}
_WORKERS = {
    "name": "workers",
    "short": "",
    "long": "workers",
    "type": str,
    "default": "",
    "help": "have kernels compiled by the workers of a Dask scheduler, e.g. tcp://scheduler:8786 (fitasks)",
}
_OURS = (_SHARD, _SHARD_COSTS, _WORKERS)
_THREADS = 2  # of doit's, for each kernel that workers take at once: one may wait for a lock


@contextlib.contextmanager
def _within_limits() -> Iterator[None]:
    """End the program with status 2 where it met a limit of its shell, wherever that was, and say which."""
    try:
        yield
    except Exception as error:
        if problem := met(error):
            print(problem, file=sys.stderr)  # noqa: T201
            raise SystemExit(problem.exit_status) from None
        raise


class Run(DoitRun):  # type: ignore[misc]  # doit has no types
    """Also behind a task's name, where doit would take the option for one of the task's."""

    name = "run"
    cmd_options = (*DoitRun.cmd_options, _NO_SM90, *_OURS)

    def execute(self, params: Any, args: list[str]) -> Any:
        if params["no_sm90"] or _WORD in args:
            os.environ[VARIABLE] = "0"
        if params["num_process"] > 0:  # on the command line: dodo.py's own isn't loaded yet
            os.environ["MAX_JOBS"] = str(params["num_process"])
        args = taken(params, [word for word in args if word != _WORD], _OURS)
        self._named = bool(args)
        self._asked: dict[str, str] = {str(option["name"]): params[option["name"]] for option in _OURS}
        with _within_limits():
            return super().execute(params, args)

    @functools.wraps(DoitRun._execute)  # noqa: SLF001 - doit's own hook; doit reads the names of its parameters
    def _execute(self, *args: Any, **params: Any) -> Any:
        """Run the tasks of our dodo.py, unless something speaks against it, or of another one, as doit does."""
        config = self.loader.load_doit_config()
        self.reporters |= config.get("reporters", {})
        if any(self._asked.values()) and "problem" not in config:
            print("--shard and --workers are for kernels, and this dodo.py has none", file=sys.stderr)  # noqa: T201
            return 2
        if "problem" in config:
            if obstacle := self._obstacle(config["problem"], params):
                print(obstacle, file=sys.stderr)  # noqa: T201
                return 2
            if not self.sel_tasks:
                return 0  # more shards than kernels
            temporary.sweep()  # what killed runs left, also where this one needs nothing temporary
            temporary.sweep_files(Path(".fitasks"))
            if "store" in config:
                temporary.sweep(Path(config["store"]))
            params["reporter"] = self._with_progress(params["reporter"])
            if not isinstance(params["outfile"], str):  # doit looked before dodo.py made it whole, and clean
                params["outfile"] = sys.stdout
            # `-n` is how many compilers there are. Of doit's threads each may have to wait for a server's lock.
            params["num_process"] = params["num_process"] and max(params["num_process"], config["num_process"])
        return super()._execute(*args, **params)

    def _with_progress(self, reporter: Any) -> Any:
        """As doit takes it: a name, a class, or an object, which is left alone."""
        from fitasks.graph.reporting import with_progress

        chosen = self.reporters[reporter] if isinstance(reporter, str) else reporter
        return with_progress(chosen) if isinstance(chosen, type) else chosen

    def _obstacle(self, problem: str, params: dict[str, Any]) -> str:
        """Return why nothing is run; where nothing is in the way, each word is brought to what it stands for."""
        if params["par_type"] == "process":
            return "kernels are compiled from one process, which counts the compilers; leave out -P process"
        if params["num_process"] < 0:
            return f"-n {params['num_process']} is no number of compilers"
        try:
            tasks = {task.name: task for task in self.task_list}
            self.sel_tasks: list[str] = resolved(self.sel_tasks or (), tasks)
            if not problem:
                self._divide(tasks, params, **self._asked)
        except UnknownName as error:  # kernels that nobody could plan are no tasks: why there are none is told
            return f"{error.name}: {problem}" if problem and not error.meant else str(error)
        except FitasksError as error:
            return str(error)
        return ""

    def _divide(
        self, tasks: dict[str, Any], params: dict[str, Any], *, shard: str, shard_costs: str, workers: str
    ) -> None:
        """Choose this machine's kernels, and who compiles. Raises EnvironmentProblem."""
        if shard or shard_costs:
            from fitasks.graph.shard import this_shard

            self.sel_tasks = this_shard(self.sel_tasks if self._named else (), tasks, shard, shard_costs)
        if workers and self.sel_tasks:
            from fitasks.graph.fleet import hire

            params["num_process"] = max(params["num_process"], _THREADS * hire(workers))


class List(DoitList):  # type: ignore[misc]
    """So that the list shows what `doit --no-sm90` would do."""

    name = "list"
    cmd_options = (*DoitList.cmd_options, _NO_SM90)

    def execute(self, params: Any, args: list[str]) -> Any:
        if params["no_sm90"]:
            os.environ[VARIABLE] = "0"
        with _within_limits():
            return super().execute(params, args)

    @functools.wraps(DoitList._execute)  # noqa: SLF001
    def _execute(self, *args: Any, **params: Any) -> Any:
        config = self.loader.load_doit_config()
        self.outstream: Any = sys.stdout if "problem" in config else self.outstream or sys.stdout  # as above
        if "problem" in config and params["pos_args"] and not config["problem"]:
            tasks = {task.name: task for task in self.task_list}
            try:
                words = [names for word in params["pos_args"] for names in _listed(word, tasks)]
            except UnknownName as error:
                print(error, file=sys.stderr)  # noqa: T201
                return 2
            params["pos_args"] = words
        return super()._execute(*args, **params)


def _listed(word: str, tasks: dict[str, Any]) -> list[str]:
    return [word] if word in tasks else kernels_named(word, tasks)
