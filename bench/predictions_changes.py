"""What situations are collected in, and the small changes that several of them make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.predictions_harness import Situation, Stage, Untried


class Situations(dict[str, tuple[str, Situation]]):
    """{name: (title, change)}, in the order in which they are played."""

    def situation(self, title: str, *, then_doit: bool = False) -> Callable[[Situation], Situation]:
        """Add a function, named with dashes."""

        def add(change: Situation) -> Situation:
            name = change.__name__.replace("_", "-")
            self[name] = (title, change)
            if then_doit:
                self[f"{name}-doit"] = (f"{title}; then `doit`", _then_doit(change))
            return change

        return add


def _then_doit(change: Situation) -> Situation:
    def both(stage: Stage) -> None:
        change(stage)
        stage.doit()

    return both


def lose(stage: Stage, pattern: str) -> None:
    for path in stage.module.glob(pattern):
        path.unlink()


def under_old_time(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file, and set its time back."""
    stat = path.stat()
    change(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def sure(holds: object, otherwise: str) -> None:
    """Raise Untried where a situation can't be brought about."""
    if not holds:
        raise Untried(otherwise)


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    sure(old in data, f"{old!r} isn't in {path}")
    path.write_bytes(data.replace(old, new))
