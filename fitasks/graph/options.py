"""The options of tasks, and those that stand behind a task's words, where doit doesn't look for them."""

from __future__ import annotations

import functools
import getopt
import inspect
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMES = "names"  # the pos_arg of a task that takes kernels' names
NOTHING = "nothing"  # of one that takes no words, and says so

DAYS = {"name": "days", "long": "days", "type": int, "default": 30, "help": "keep what was used since, elsewhere"}
DRY_RUN = {"name": "dry_run", "long": "dry-run", "type": bool, "default": False, "help": "only say what would be done"}
FILE = {"name": "file", "short": "f", "long": "file", "type": str, "default": "", "help": "the bundle"}
FORCE = {"name": "force", "long": "force", "type": bool, "default": False, "help": "also what holds already"}
INTO = {
    "name": "into",
    "long": "into",
    "type": str,
    "default": "dist/engines",
    "help": "the directory (default: dist/engines)",
}
JSON = {"name": "json", "long": "json", "type": str, "default": "", "help": "also write it to a file"}
LIMIT = {"name": "limit", "long": "limit", "type": int, "default": 20, "help": "gigabytes to keep"}
REMOTE = {"name": "remote", "long": "remote", "type": bool, "default": False, "help": "the stores elsewhere"}
TRACE = {"name": "trace", "long": "trace", "type": str, "default": "", "help": "compare with what was recorded"}
VERBOSE = {"name": "verbose", "short": "v", "long": "verbose", "type": bool, "default": False, "help": "every row"}
WHEEL = {"name": "wheel", "long": "wheel", "type": bool, "default": False, "help": "make a package of its kernels"}
WRITE = {"name": "write", "long": "write", "type": bool, "default": False, "help": "write kernels.yaml"}
YES = {"name": "yes", "short": "y", "long": "yes", "type": bool, "default": False, "help": "don't ask"}


def spoken_with(action: Callable[..., None], params: Sequence[dict[str, Any]], words: str) -> Callable[..., None]:
    """Options count behind a task's words, too (`doit verify page --force`), where doit leaves them among the words."""

    @functools.wraps(action)
    def parsed(**given: Any) -> None:
        if {"--help", "-h"} & set(given.get(words) or []):
            from fitasks.ui.show import help_lines

            print("\n".join(help_lines(action.__name__, action.__doc__ or "", words, params)))  # noqa: T201
            return
        try:
            found, given[words] = split(given.get(words) or [], params)
        except getopt.GetoptError as error:
            raise EnvironmentProblem(f"{action.__name__}: {error}", remedy=f"doit {action.__name__} --help") from None
        for word, value in found:
            param = next(one for one in params if word in {f"--{one['long']}", f"-{one.get('short')}"})
            given[param["name"]] = _value(action.__name__, param, value)
        if words == NOTHING and (refused := given.pop(words)):
            raise EnvironmentProblem(
                f"doit {action.__name__} takes no names, but was given {' '.join(refused)}",
                remedy=f"doit {action.__name__}",
            )
        action(**given)

    if words == NOTHING:  # doit gives an action only what its signature has
        signature = inspect.signature(action)
        refused = inspect.Parameter(NOTHING, inspect.Parameter.KEYWORD_ONLY)
        vars(parsed)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), refused])
    return parsed


def _value(task: str, param: dict[str, Any], value: str) -> Any:
    """What an option behind a task's words says. Raises EnvironmentProblem for what is no number."""
    if param["type"] is bool:
        return True
    try:
        return param["type"](value)
    except ValueError:
        problem = f"{task}: --{param['long']} takes a whole number, not {value!r}"
        raise EnvironmentProblem(problem, remedy=f"doit {task} --{param['long']} {param['default']}") from None


def split(words: Sequence[str], params: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return options with their values, and the other words. Raises GetoptError."""
    long = [param["long"] + ("" if param["type"] is bool else "=") for param in params]
    short = "".join(
        param.get("short", "") + ("" if param["type"] is bool else ":") for param in params if "short" in param
    )
    return getopt.gnu_getopt(list(words), short, long)
