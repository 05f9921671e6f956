"""Paths and commands made independent of where things are installed.

Two builds are the same if their inputs and commands are the same up to the directories that FlashInfer, the CUDA
toolkit and the cache happen to live in.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitasks.plan.plan import Plan

# FlashInfer's commands name sysconfig.get_path("include") of the serving interpreter (jit/cpp_ext.py).
_PYTHON = re.compile(r"-isystem (/\S*/include/python3\.\d+\w*)(?=\s)")


@dataclass(frozen=True)
class Roots:
    """Named directories, e.g. {"CACHE": (…/0.7.2.post1/90a,), "CUDA": (CUDA_HOME, its real place)}."""

    directories: dict[str, tuple[str, ...]]

    @cached_property
    def _named(self) -> list[tuple[str, str]]:
        """(directory, name), longest first, so that a root inside another one wins."""
        pairs = [(path.rstrip("/"), name) for name, paths in self.directories.items() for path in paths if path]
        return sorted(dict(pairs).items(), key=lambda pair: -len(pair[0]))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(path) + r"(?![^/\s:'\"])" for path, _ in self._named) or r"(?!)")

    def relative(self, path: str) -> str:
        """`{FLASHINFER}/data/include/x.h`; a path under no root stays absolute."""
        for directory, name in self._named:
            if path.startswith(directory + "/"):
                return f"{{{name}}}{path[len(directory) :]}"
        return path

    def absolute(self, relative: str) -> str:
        """The path that `relative` stands for in this installation: of several places the first that has it."""
        if not relative.startswith("{"):
            return relative
        name, _, rest = relative[1:].partition("}")
        if name not in self.directories:
            return relative  # of an installation with other roots: there is no such file
        places = [directory.rstrip("/") + rest for directory in self.directories[name]]
        return next((place for place in places[:-1] if os.path.exists(place)), places[-1])  # noqa: PTH110 - thousands

    def text(self, text: str) -> str:
        """A command or a ninja file with every root named instead of spelt out."""
        names = dict(self._named)
        return self._pattern.sub(lambda match: f"{{{names[match[0]]}}}", text)


def roots_of(plan: Plan, target: str) -> Roots:
    """The roots that a plan's kernels are built among."""
    found = plan.targets[target]
    return Roots(
        {
            "CACHE": (str(found.workspace),),
            "FLASHINFER": (str(found.root),),
            "CUDA": (str(plan.toolkit.home), str(plan.toolkit.root)),
            "SITE": tuple(dict.fromkeys((str(found.root.parent), *map(str, plan.server.site_packages)))),
        }
        | ({"JIT": (str(plan.sglang_cache),)} if plan.sglang_cache else {})
        | _python(plan, target)
    )


def _python(plan: Plan, target: str) -> dict[str, tuple[str, ...]]:
    """The directory of Python's headers, by the commands; {} where they name none.

    Its name has Python's version in it, which decides nothing: what a compiler reads there is an input like any other.
    """
    texts = (kernel.ninja for kernel in plan.kernels if kernel.target == target)
    found = next(filter(None, map(_PYTHON.search, texts)), None)
    return {"PYTHON": (found[1],)} if found else {}
