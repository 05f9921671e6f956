"""Which room may import which, read from the sources; and no module in a circle."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SERVING = ROOT / "fitasks" / "serving"
# Below each room the others that it may import, types only included. A missing room is a new one: give it its line.
MAY = {
    "base": "",
    "processes": "base",
    "config": "base",
    "cuda": "base processes",
    "models": "base config cuda",
    "plan": "base config cuda models processes",
    "compile": "base config cuda plan processes",
    "store": "base compile config plan",
    "fleet": "base compile cuda plan processes store",
    "delivery": "base compile config cuda plan processes store",
    "server": "base compile config cuda delivery plan processes",
    "verify": "base compile config cuda plan processes server",
    "doctor": "base compile config cuda delivery plan processes server store",
    "trace": "base config cuda plan server",
    "ui": "base compile config cuda delivery doctor models plan processes server store trace verify",
    "graph": "base compile config cuda delivery doctor fleet models plan processes server store trace ui verify",
    "record": "",
    "dodo": "graph",
    "worker": "graph processes",
    "__main__": "graph",
}
# The same for the folders of serving/, whose scripts import each other by bare names.
SCRIPTS_MAY = {"gate": "", "loading": "", "plan": "", "record": "", "switch": "", "verify": ""}
# Rooms with circles by types alone, which no run meets: fewer are welcome, more aren't.
KNOWN = ("plan", "compile", "server")


# What ui takes at run time, of rooms that act or ask processes: names, readers of logs, what is remembered. Fewer is
# better.
READ_BY_UI = "compile.journal compile.judge.engine_receipt compile.pool.usage config.shorthands compile.receipt plan.modules plan.offers processes.sessions server.jitlog trace.toolchains"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def imported(tree: ast.AST, *, types: bool) -> Iterator[str]:
    """Every dotted name that is imported, in functions too; below `if TYPE_CHECKING` only with `types`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif types or not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield from imported(node, types=types)


def graph(sources: dict[str, Path], *, types: bool) -> dict[str, set[str]]:
    """Each module with those of the others that it imports."""
    found = {}
    for module, path in sources.items():
        names = imported(parsed(path), types=types)
        found[module] = {known for name in names if (known := _module(name, sources)) not in {"", module}}
    return found


def _module(name: str, sources: dict[str, Path]) -> str:
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name


@cache
def ours() -> dict[str, Path]:
    paths = [path for path in (ROOT / "fitasks").rglob("*.py") if "serving" not in path.parts]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def scripts() -> dict[str, Path]:
    return {path.stem: path for path in SERVING.rglob("*.py")}


def folder(script: Path) -> str:
    return script.parent.relative_to(SERVING).as_posix()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_table_of_rooms_has_one_direction() -> None:
    assert circle({name: set(may.split()) for name, may in MAY.items()}) == []


def test_ui_gets_data_and_acts_on_nothing() -> None:
    taken = {
        other
        for module, others in graph(ours(), types=False).items()
        for other in others
        if room(module) == "ui" and room(other) not in {"ui", "base"}
    }
    assert {name.removeprefix("fitasks.") for name in taken} <= set(READ_BY_UI.split())


def test_each_room_imports_what_it_may() -> None:
    found = graph(ours(), types=True)
    wrong = [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in others
        if room(module) and room(other) not in {"", room(module), *MAY[room(module)].split()}
    ]
    assert wrong == []


def test_each_folder_of_scripts_imports_what_it_may() -> None:
    found = graph(scripts(), types=True)
    wrong = [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in others
        if folder(scripts()[other]) not in {own := folder(scripts()[module]), *SCRIPTS_MAY[own].split()}
    ]
    assert wrong == []
    assert circle({name: set(may.split()) for name, may in SCRIPTS_MAY.items()}) == []


def test_every_folder_of_scripts_is_known_where_folders_are_listed() -> None:
    """Each name is one script's, since whoever imports it says no folder; mypy and the wheel must have them all."""
    assert len(scripts()) == len(list(SERVING.rglob("*.py")))
    folders = {SERVING / name for name in SCRIPTS_MAY}
    assert folders == {path.parent for path in scripts().values()}
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert {ROOT / place for place in tool["mypy"]["mypy_path"]} == folders
    packed = {path.as_posix() for place in folders for path in [(place / "*.py").relative_to(ROOT / "fitasks")]}
    assert packed <= set(tool["setuptools"]["package-data"]["fitasks"])


@pytest.mark.parametrize("sources", [ours(), scripts()], ids=["fitasks", "serving"])
def test_no_module_is_in_a_circle(sources: dict[str, Path]) -> None:
    assert circle(graph(sources, types=False)) == []


def test_scripts_have_no_circle_of_types_either() -> None:
    assert circle(graph(scripts(), types=True)) == []


def test_circles_of_types_are_in_known_rooms_only() -> None:
    for name in sorted({room(module) for module in ours()}):
        within = {module: path for module, path in ours().items() if room(module) == name}
        assert not circle(graph(within, types=True)) or name in KNOWN, name


@pytest.mark.parametrize(("sources", "barred"), [(scripts(), "fitasks."), (ours(), "fitasks.serving.")])
def test_scripts_import_nothing_of_fitasks_and_are_imported_by_nobody(sources: dict[str, Path], barred: str) -> None:
    for module, path in sources.items():
        names = imported(parsed(path), types=True)
        assert not [name for name in names if f"{name}.".startswith(barred)], module
