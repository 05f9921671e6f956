"""The places in engines' sources that rules cite, and what stands there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.models.rule import Rule

Place = tuple[str, str]  # a file of a wheel, and a function, class or constant in it


def places(table: Iterable[Rule]) -> set[Place]:
    """What the rules cite: `file: name, name; file: name`."""
    found = set()
    for rule in table:
        for cited in filter(None, rule.source.split("; ")):
            file, _, names = cited.partition(": ")
            found |= {(file, name) for name in names.split(", ")}
    return found


@cache
def tree(root: Path, file: str) -> tuple[str, ast.Module]:
    text = (root / file).read_text()
    return text, ast.parse(text)


def source(root: Path, place: Place) -> str:
    """The text of a function, class or constant on one line, with its decorators, without comments."""
    text, node = tree(root, place[0])
    found: ast.AST = node
    for name in place[1].split("."):
        found = next(one for one in ast.walk(found) if name in _names(one))
    parts = [*getattr(found, "decorator_list", ()), found]
    lines = "\n".join(ast.get_source_segment(text, part) or "" for part in parts).splitlines()
    return re.sub(r"\s+", " ", " ".join(line.split("  #")[0] for line in lines if not line.strip().startswith("#")))


def _names(node: ast.AST) -> list[str]:
    named = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [getattr(node, "name", ""), *(getattr(one, "id", "") for one in named)]


def unsaid(root: Path, quotes: dict[Place, tuple[str, ...]]) -> list[tuple[Place, str]]:
    """The quotes that are no longer where they were."""
    cited = [(place, quote) for place, some in quotes.items() for quote in some]
    return [(place, quote) for place, quote in cited if quote not in source(root, place)]
