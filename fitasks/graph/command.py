"""What `doit run` and `doit list` do for our dodo.py beyond what doit does, and both with options of ours.

`take_over` is called when our dodo.py is loaded, and changes these two commands in this process: doit has no hook for
it, and as plugins of the environment (entry points) they would serve, and burden, every other dodo.py too. The classes
with the options are for `python -m fitasks`, and for whoever names them in doit.cfg or pyproject.toml.
--no-sm90 becomes FITASKS_SM90=0 before dodo.py is loaded, and --fetch-only FITASKS_FETCH_ONLY=1; --shard chooses
kernels, --workers who compiles them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun
from doit.cmdparse import CmdParseError

from fitasks.base import temporary
from fitasks.base.errors import FitasksError
from fitasks.base.limits import met
from fitasks.compile.fetching import FETCH_ONLY
from fitasks.graph.words import kernels_named, resolved, taken
from fitasks.plan.hopper import VARIABLE
from fitasks.plan.names import UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def _option(name: str, text: str, kind: type = bool) -> dict[str, Any]:
    """One of ours; the value of one that isn't given is None: "" is a mistake, a variable that isn't set."""
    default = False if kind is bool else None
    long = name.replace("_", "-")
    return {"name": name, "short": "", "long": long, "type": kind, "default": default, "help": f"{text} (fitasks)"}


_NO_SM90 = _option("no_sm90", "plan generic modules in place of Hopper's, as `sm90: false` in kernels.yaml does")
_FETCH_ONLY = _option("fetch_only", "compile nothing: what no store has fails")
_SHARD = _option("shard", "compile this machine's part of the kernels, e.g. 3/20: the third of twenty", str)
_SHARD_COSTS = _option(
    "shard_costs", "divide by what kernels cost according to this costs.json, the same on every machine", str
)
_WORKERS = _option(
    "workers", "have kernels compiled by the workers of a Dask scheduler, e.g. tcp://scheduler:8786", str
)
# Each with the variable that it becomes.
_SWITCHES = {"--no-sm90": (VARIABLE, "0"), "--fetch-only": (FETCH_ONLY, "1")}
_VALUES = (_SHARD, _SHARD_COSTS, _WORKERS)
_THREADS = 2  # of doit's, for each kernel that workers take at once: one may wait for a lock
_OWN = (
    "subtasks",
    "quiet",
    "status",
    "private",
    "list_deps",
    "template",
    "pos_args",
)  # who gives one wants doit's list


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """End the program with status 2 where it met a limit of its shell, wherever that was, and say which."""
    try:
        yield
    except Exception as error:
        if problem := met(error):
            print(problem, file=sys.stderr)  # noqa: T201
            raise SystemExit(problem.exit_status) from None
        raise


class _Helpful:
    """A command that answers --help, and says of a wrong option what is wrong, where doit shows its own objects."""

    def parse_execute(self: Any, words: list[str]) -> Any:
        if words and words[0] in {"--help", "-h"}:
            print(self.help())  # noqa: T201
            return 0
        try:
            return super().parse_execute(words)  # type: ignore[misc]
        except CmdParseError as error:
            said = str(error).partition(" (parsing options")[0]
            raise CmdParseError(f"{said}; see `doit help {self.name}`") from None


class Run(_Helpful, DoitRun):  # type: ignore[misc]  # doit has no types
    """Takes our options also behind a task's name, where doit would take them for some of the task's."""

    name = "run"
    cmd_options = (*DoitRun.cmd_options, _NO_SM90, _FETCH_ONLY, *_VALUES)
    named = False  # whether tasks stand on the command line
    asked: Mapping[str, str] = MappingProxyType({})  # values of options by name, as far as they are given
    threads = 0  # of doit's, for what others compile

    def execute(self, params: Any, args: list[str]) -> Any:
        for word, (variable, value) in _SWITCHES.items():
            if params[word[2:].replace("-", "_")] or word in args:
                os.environ[variable] = value
        args = taken(params, [word for word in args if word not in _SWITCHES], _VALUES)
        given = {str(one["name"]): params[one["name"]] for one in _VALUES}
        self.named, self.asked = bool(args), {name: value for name, value in given.items() if value is not None}
        with within_limits():
            return super().execute(params, args)


class List(_Helpful, DoitList):  # type: ignore[misc]
    """Shows what `--no-sm90` would do."""

    name = "list"
    cmd_options = (*DoitList.cmd_options, _NO_SM90)

    def execute(self, params: Any, args: list[str]) -> Any:
        if params["no_sm90"]:
            os.environ[VARIABLE] = "0"
        with within_limits():
            return super().execute(params, args)


class Default(int):
    """A number of threads that nobody asked for: doit doesn't tell its -n from dodo.py's num_process."""


def take_over() -> None:
    """Let doit's own `run` and `list` do what ours is about, in this process, for a dodo.py with our DOIT_CONFIG."""
    for command, ours in ((DoitRun, _run), (DoitList, _list)):
        doits = command._execute  # noqa: SLF001 - the one method that doit has for it
        if not hasattr(doits, "__wrapped__"):
            command._execute = _around(doits, ours)  # noqa: SLF001


def _around(doits: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(doits)  # doit reads the names of its parameters
    def execute(self: Any, *args: Any, **params: Any) -> Any:
        config = self.loader.load_doit_config()
        if "problem" not in config:
            if _asked(self):
                print("--shard and --workers are for kernels, and this dodo.py has none", file=sys.stderr)  # noqa: T201
                return 2
            return doits(self, *args, **params)
        with within_limits():
            return ours(self, config, functools.partial(doits, self, *args), params)

    return execute


def _run(command: Any, config: dict[str, Any], doits: Callable[..., Any], params: dict[str, Any]) -> Any:
    """Run the tasks, unless something speaks against it."""
    command.reporters |= config.get("reporters", {})
    if obstacle := _obstacle(command, config["problem"], params):
        print(obstacle, file=sys.stderr)  # noqa: T201
        return 2
    if not command.sel_tasks and _asked(command):
        return 0  # more shards than kernels
    temporary.sweep()  # what killed runs left, also where this one needs nothing temporary
    temporary.sweep_files(Path(".fitasks"))
    if "store" in config:
        temporary.sweep(Path(config["store"]))
    params["reporter"] = _with_progress(command, params["reporter"])
    if not isinstance(params["outfile"], str):  # doit looked before dodo.py made it whole, and clean
        params["outfile"] = sys.stdout
    # `-n` is how many compilers there are. Of doit's threads each may have to wait for a server's lock.
    if params["num_process"] and not isinstance(params["num_process"], Default):
        os.environ["MAX_JOBS"] = str(params["num_process"])
        params["num_process"] = max(params["num_process"], config["num_process"])
    params["num_process"] = max(params["num_process"], getattr(command, "threads", 0))
    return doits(**params)


def _with_progress(command: Any, reporter: Any) -> Any:
    """As doit takes it: a name, a class, or an object, which is left alone."""
    from fitasks.graph.reporting import with_progress

    chosen = command.reporters[reporter] if isinstance(reporter, str) else reporter
    return with_progress(chosen) if isinstance(chosen, type) else chosen


def _obstacle(command: Any, problem: str, params: dict[str, Any]) -> str:
    """Return why nothing is run; where nothing is in the way, each word is brought to what it stands for."""
    if params["par_type"] == "process":
        return "kernels are compiled from one process, which counts the compilers; leave out -P process"
    if params["num_process"] < 0:
        return f"-n {params['num_process']} is no number of compilers"
    try:
        tasks = {task.name: task for task in command.task_list}
        command.sel_tasks = resolved(command.sel_tasks or (), tasks)
        if isinstance(command, Run) and not problem:
            _divide(command, tasks, **command.asked)
    except UnknownName as error:  # kernels that nobody could plan are no tasks: why there are none is told
        return f"{error.name}: {problem}" if problem and not error.meant else str(error)
    except FitasksError as error:
        return str(error)
    return ""


def _asked(command: Any) -> Mapping[str, str]:
    """The values of our options; doit's own `run` and `list` have none."""
    return command.asked if isinstance(command, Run) else {}


def _divide(
    command: Run,
    tasks: dict[str, Any],
    *,
    shard: str | None = None,
    shard_costs: str | None = None,
    workers: str | None = None,
) -> None:
    """Choose this machine's kernels, and who compiles. Raises EnvironmentProblem."""
    if shard is not None or shard_costs is not None:
        from fitasks.graph.shard import this_shard

        command.sel_tasks = this_shard(command.sel_tasks if command.named else (), tasks, shard, shard_costs)
    if workers is not None and command.sel_tasks:
        from fitasks.graph.fleet import hire

        command.threads = _THREADS * hire(workers)


def _list(command: Any, config: dict[str, Any], doits: Callable[..., Any], params: dict[str, Any]) -> Any:
    """List what the words stand for; without words and options, the kernels and what can be done."""
    command.outstream = sys.stdout  # as above
    if params["pos_args"] and not config["problem"]:
        tasks = {task.name: task for task in command.task_list}
        try:
            params["pos_args"] = [names for word in params["pos_args"] for names in _listed(word, tasks)]
        except UnknownName as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 2
    if any(params[name] for name in _OWN):
        return doits(**params)
    from fitasks.graph.listing import overview
    from fitasks.graph.session import current

    for line in overview(current(), command.task_list):
        command.outstream.write(f"{line}\n")
    return 0


def _listed(word: str, tasks: dict[str, Any]) -> list[str]:
    return [word] if word in tasks else kernels_named(word, tasks)
