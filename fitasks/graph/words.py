"""The words of a `doit` command line: which are tasks, which are kernels, and which belong to the task before them.

doit itself gives all words behind a task to it if it has a `pos_arg`, and runs them as further tasks if it has none; a
wildcard that fits nothing it passes over. So `doit env kernel:page` would compile page, and `doit 'perfill*'` succeed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from doit.cmdparse import CmdOption, CmdParseError, TaskParse

from fitasks.graph.options import NAMES, NOTHING
from fitasks.graph.outputs import refuse_unwritable
from fitasks.plan.names import PREFIX, is_task_name, named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def resolved(words: Sequence[str], tasks: Mapping[str, Any]) -> list[str]:
    """Return what doit is to be given for `words`, after each task was given those that are its own.

    Raises UnknownName for a word that is neither a task, nor a file that one makes, nor a kernel, and
    EnvironmentProblem for a file of a task's options that can't be written.
    """
    waiting, said = list(words), list[str]()
    while waiting:
        word = waiting.pop(0)
        if word in tasks:
            options = _options(tasks[word], waiting)
            said += [word, *options]
            given = _give(tasks[word], waiting, tasks)
            refuse_unwritable(tasks[word], [*options, *given])
        elif word.startswith("-") or any(word in task.targets for task in tasks.values()):
            said.append(word)
        else:
            said += kernels_named(word, tasks)
    return said


def kernels_named(word: str, tasks: Mapping[str, Any]) -> list[str]:
    """Return the names of the kernels' tasks that `word` stands for. Raises UnknownName where there are none."""
    labels = [name.removeprefix(PREFIX) for name in tasks if name.startswith(PREFIX)]
    others = () if is_task_name(word) or "*" in word else [name for name in tasks if not name.startswith((PREFIX, "_"))]
    return [f"{PREFIX}{label}" for label in named(word, labels, others)]


def taken(params: dict[str, Any], words: Sequence[str], options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the words without options that take a value, put into `params`: also behind a task's name they are ours.

    doit would take them for options of that task.
    """
    names = {f"--{option['long']}": option["name"] for option in options}
    waiting, left = list(words), list[str]()
    while waiting:
        word, equals, value = waiting.pop(0).partition("=")
        if word in names and (equals or waiting):
            params[names[word]] = value if equals else waiting.pop(0)
        else:
            left.append(f"{word}{equals}{value}")
    return left


def _options(task: Any, waiting: list[str]) -> list[str]:
    """Take the task's own options from the front of `waiting`; a wrong one is left for doit to complain of."""
    try:
        _, rest = TaskParse([CmdOption(one) for one in task.params]).parse(waiting)
    except CmdParseError:
        return []
    taken = waiting[: len(waiting) - len(rest)]
    del waiting[: len(taken)]
    return taken


def _give(task: Any, waiting: list[str], tasks: Mapping[str, Any]) -> list[str]:
    """Give a task its words, and whatever it needs for them. The name of another task, not a kernel's, ends them."""
    if task.pos_arg is None:
        return []
    valued = {f"--{one['long']}" for one in task.params if one["type"] is not bool}
    valued |= {f"-{one['short']}" for one in task.params if one["type"] is not bool and one.get("short")}
    given: list[str] = []
    closed = task.pos_arg in {NAMES, NOTHING}
    while waiting and not (closed and waiting[0] in tasks and not is_task_name(waiting[0])):
        given.append(waiting.pop(0))
        if given[-1] in valued and waiting:
            given.append(waiting.pop(0))
    task.pos_arg_val = given
    if needs := (task.meta or {}).get("needs"):
        task.task_dep[:] = needs(given)
    return given
