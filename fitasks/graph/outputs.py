"""What a task is told to write, looked at before it works: it may compile for minutes until it would come to that."""

from __future__ import annotations

import contextlib
import getopt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import is_stream
from fitasks.graph.options import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WRITTEN = _FILE, _DIRECTORY = "--json", "--into"


def refuse_unwritable(task: Any, words: Sequence[str]) -> None:
    """Raise EnvironmentProblem for the first of a task's options that names a place where nothing can be written."""
    for option, value in _places(task, words):
        path = Path(value)
        said = f"doit {task.name} {option} {value}"
        there = os.path.lexists(path)  # unlike Path's methods it is false, no error, for a name that is too long
        if there and option == _FILE and path.is_dir():
            raise EnvironmentProblem(
                f"{said}: that is a directory", remedy=f"doit {task.name} {option} {path / task.name}.json"
            )
        above = path if there and option == _DIRECTORY else _above(path)
        if not above.is_dir():
            raise EnvironmentProblem(f"{said}: {above} is no directory", remedy="name another place")
        if not (there and is_stream(path)) and not os.access(above, os.W_OK):
            raise EnvironmentProblem(f"{said}: nothing can be written in {above}", remedy="name another place")


def _places(task: Any, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with the places that they name; "" is none."""
    with contextlib.suppress(getopt.GetoptError):  # the task will say it
        yield from ((option, value) for option, value in split(words, task.params)[0] if value and option in _WRITTEN)


def _above(path: Path) -> Path:
    """The nearest directory above that is there; or whatever is there in its place."""
    return next(one for one in path.absolute().parents if os.path.lexists(one))
