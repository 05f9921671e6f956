"""One mistake in kernels.yaml, and the words that all messages share."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.config.model import Position

Path = tuple[str | int, ...]

_LONGEST = 60
MOST = 100  # mistakes that are told at once; who has more begins with these
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Blank:
    """The value of `key:` with nothing behind it; unlike a written `null`."""


class Bad:
    """A value that could not be read, about which a problem is noted already."""


BLANK = Blank()
BAD = Bad()


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and what is accepted instead."""

    place: Position
    path: Path
    text: str

    def __str__(self) -> str:
        where = dotted(self.path)
        return f"{self.place}: {where}: {self.text}" if where else f"{self.place}: {self.text}"


def in_file_order(problems: Iterable[Problem]) -> tuple[str, ...]:
    """Their lines, sorted by place; one line for a mistake that merges carry into several entries."""
    ordered = sorted(problems, key=lambda problem: (problem.place.line, problem.place.column))
    unique: dict[tuple[Position, str], str] = {}
    for problem in ordered:
        unique.setdefault((problem.place, problem.text), str(problem))
    told = tuple(unique.values())
    return told if len(told) <= MOST else (*told[:MOST], f"more than {MOST} mistakes; correct these first")


def dotted(path: Path) -> str:
    """`kernels.prefill.backend`; positions in lists are left to line and column."""
    keys = (key for key in path if isinstance(key, str))
    return ".".join(key if _PLAIN_KEY.fullmatch(key) else shown(key) for key in keys)


def shown(text: str) -> str:
    """Text in quotes, on one line, printable, not too long."""
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def found(value: object, text: str) -> str:
    """What stands in the file: `the number 9.0`. `text` is the scalar as written."""
    match value:
        case bool():
            what = f"the boolean {shorten(text)}"
        case int() | float():
            what = f"the number {shorten(text)}"
        case str():
            what = shown(value)
        case list() | dict():
            what = "a list" if isinstance(value, list) else "a mapping"
        case _:
            what = "null" if value is None else "nothing"
    return f"found {what}"


def quote_it(value: object, text: str) -> str:
    """The way to make text of a scalar that YAML reads as something else; "" for all other values."""
    return f', quote it: "{shorten(text)}"' if isinstance(value, bool | int | float) else ""


def shorten(text: str) -> str:
    return shown(text)[1:-1]


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """` (did you mean fa3?)`, or "" where nothing is near."""
    near = difflib.get_close_matches(str(word).lower()[:_LONGEST], list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
