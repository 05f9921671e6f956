"""Kernels' names as people write them, for every task alike: `page`, `kernel:page`, `prefill*`, `kernel` for all."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

GROUP = "kernel"
PREFIX = f"{GROUP}:"


class UnknownName(EnvironmentProblem):
    """No kernel is called `name`; `meant` is what probably was, "" where nothing is like it."""

    def __init__(self, name: str, told: str, meant: str) -> None:
        guess = f" (did you mean {meant}?)" if meant else ""
        super().__init__(told + guess, remedy="`doit list --all` has them all")
        self.name, self.meant = name, meant


def is_task_name(word: str) -> bool:
    """Return whether `word` is written as doit calls kernels: `kernel`, `kernel:page`, `kernel:p*`."""
    return word == GROUP or word.startswith(PREFIX)


def named(name: str, labels: Collection[str], tasks: Iterable[str] = ()) -> list[str]:
    """Return the labels that `name` stands for, in their own order.

    Raises UnknownName where it stands for none; `tasks` are further words that could have been meant.
    """
    pattern = name.removeprefix(PREFIX)
    found = [label for label in labels if name == GROUP or label == pattern or fnmatch.fnmatchcase(label, pattern)]
    if not found:
        told = f"no task and no kernel is called '{name}'" if tasks else f"no kernel matches '{name}'"
        raise UnknownName(name, told, _nearest(name, labels, tasks))
    return found


def _nearest(name: str, labels: Collection[str], tasks: Iterable[str]) -> str:
    """`kernel:prefill*` for `perfill*`."""
    import difflib

    words = {word: f"{PREFIX}{word}" for word in (*labels, *_families(labels))} | {task: task for task in tasks}
    near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), words, n=1)
    return words[near[0]] if near else ""


def _families(labels: Iterable[str]) -> Iterator[str]:
    """Wildcards for kernels that begin alike: `prefill*`, `prefill-fa2*`."""
    for label in labels:
        words = label.split("-")
        yield from ("-".join(words[:count]) + "*" for count in range(1, len(words)))
