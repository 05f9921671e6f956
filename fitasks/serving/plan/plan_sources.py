"""What FlashInfer's source says of its generators, read without importing it: where each is defined, and who calls it.

FlashInfer leaves whole packages to be imported when they are first used (flashinfer.experimental, flashinfer.moe_ep),
so what is loaded isn't all that there is.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GENERATOR = re.compile(r"gen_\w+_module(_\w+)?")
_DEFINITION = re.compile(rb"^def (gen_\w+_module(?:_\w+)?)\(", re.MULTILINE)
_MENTION = re.compile(rb"\bgen_\w+_module")
_WORD = re.compile(rb"\w+")
_REGISTRY = "flashinfer.aot"  # calls generators to fill wheels; no server does
SPEC_MAKERS = ("gen_jit_spec", "gen_kda_jit_spec")  # what every generator ends in
_ENGINES = ("vllm", "sglang", "tensorrt_llm")


@functools.cache
def defining_modules() -> dict[str, tuple[str, ...]]:
    """Return, for the name of each generator, the modules of FlashInfer that define it."""
    found: dict[str, list[str]] = {}
    for module, text in _mentioning():
        for name in _DEFINITION.findall(text):
            found.setdefault(name.decode(), []).append(module)
    found = {name: [one for one in modules if one != _REGISTRY] for name, modules in found.items()}
    return {name: tuple(modules) for name, modules in found.items() if modules}


def nobody_calls(name: str) -> bool:
    """Return whether neither FlashInfer nor an installed engine has code that calls this generator.

    A function that a called one is only another name for (`return gen_flash_kda_module("m64", target)`) counts as
    called: what it makes is made by others, too.
    """
    uses = _uses()
    if uses.called(name) or any(uses.called(other, but=name) for other in uses.results.get(name, ())):
        return False
    return not any(_mentions(engine, name) for engine in _ENGINES)


def defines(module: str, name: str) -> bool:
    """Return whether this module is loaded or, by its source, defines this function. Imports nothing.

    The package that it is in is imported.
    """
    if module in sys.modules:
        return True
    return any(re.search(rb"^def %s\(" % name.encode(), text, re.MULTILINE) for text in _texts(module))


def callers(module: str, called: str) -> list[str]:
    """Return the functions of this module that, by its source, call one of this name. Imports nothing.

    The package that it is in is imported.
    """
    functions = (function for text in _texts(module) if called.encode() in text for function in functions_in(text))
    return [function.name for function in functions if called in calls_of(function)]


def calls_of(function: ast.FunctionDef) -> set[str]:
    """Return the names of what a function calls."""
    called = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {getattr(one, "id", getattr(one, "attr", "")) for one in called}


def functions_in(text: bytes) -> list[ast.FunctionDef]:
    """Return the functions of a source text that stand by themselves; none of one that is no Python."""
    try:
        return [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return []


def _texts(module: str) -> list[bytes]:
    """The source of a module, wherever its package looks for it; empty texts where there is none."""
    package, *names = module.split(".")
    files = [Path(place).joinpath(*names) for place in sys.modules[package].__path__]
    return [_text(one) for file in files for one in (file.with_suffix(".py"), file / "__init__.py")]


class _Uses:
    """Which top-level functions mention a generator or what makes its result, and whose results a generator returns."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self.by: dict[str, set[str | None]] = {}  # "" for what stands outside of all functions
        self.results: dict[str, set[str]] = {}
        others = []  # statements without a generator: walking through all of FlashInfer takes seconds
        for text in texts:
            for statement, source in _statements(text):
                if _MENTION.search(source):
                    self._read(statement)
                else:
                    others.append(source)
        makers = {name.encode() for names in self.results.values() for name in names}
        for source in others:
            if not makers.isdisjoint(_WORD.findall(source)):
                self._read(ast.parse(source).body[0])

    def called(self, name: str, but: str | None = None) -> bool:
        return bool(self.by.get(name, set()) - {name, but})

    def _read(self, statement: ast.stmt) -> None:
        owner = getattr(statement, "name", "")
        for node in ast.walk(statement):
            for name in _used(node):
                self.by.setdefault(name, set()).add(owner)
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Call) and GENERATOR.fullmatch(owner):
                self.results.setdefault(owner, set()).update(set(_used(node.value.func)) - set(SPEC_MAKERS))


def _statements(text: bytes) -> Iterator[tuple[ast.stmt, bytes]]:
    """What stands by itself in a module, each with its lines."""
    lines = text.splitlines(keepends=True)
    for statement in ast.parse(text).body:
        first = min(one.lineno for one in [statement, *getattr(statement, "decorator_list", [])])
        yield statement, b"".join(lines[first - 1 : statement.end_lineno])


def _used(node: ast.AST) -> Iterator[str]:
    """The name that a node reads; an import is a use only under another name, by which it is called then."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.ImportFrom):
        yield from (one.name for one in node.names if one.asname not in (None, one.name))


@functools.cache
def _uses() -> _Uses:
    return _Uses(text for module, text in _mentioning() if module != _REGISTRY)


@functools.cache
def _mentioning() -> tuple[tuple[str, bytes], ...]:
    """Each module of FlashInfer that mentions a generator, with its text."""
    root = Path(str(sys.modules["flashinfer"].__file__)).parent
    texts = ((_module_name(path, root), _text(path)) for path in sorted(root.rglob("*.py")))
    return tuple((name, text) for name, text in texts if b"gen_" in text and _MENTION.search(text))


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@functools.cache
def _mentions(package: str, name: str) -> bool:
    return any(name.encode() in _text(path) for path in _files(package))


def _files(package: str) -> Iterable[Path]:
    """The Python files of a package that is installed, which isn't imported for it."""
    spec: Any = importlib.util.find_spec(package)
    roots = (spec.submodule_search_locations or ()) if spec else ()
    return (path for root in roots for path in Path(root).rglob("*.py"))
