"""Which values a generator's parameter takes, where FlashInfer's own code says so.

Said by the annotation (bool, Enum, Literal), or read from the generator's source: a table that it looks the
parameter up in (`dtype_map[dtype_q]`), an assertion or refusal of all but some (`assert backend in ["fa2", "fa3"]`),
or, where there is nothing better, the constants that it is compared with. Functions of FlashInfer that the parameter
is handed on to are read as well.
"""

from __future__ import annotations

import ast
import contextlib
import enum
import functools
import inspect
import textwrap
import typing
from typing import Any

import plan_parameters as parameters

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeGuard

Values = list[Any]

_DEEPEST = 4  # generator → its worker → uri → name of a dtype


def accepted_values(generator: Callable[..., Any], name: str) -> Values:
    """The values that parameter `name` takes, as kernels.yaml says them; empty where they cannot be told."""
    hint = parameters._hints(generator).get(name)
    if said := _of_annotation(hint):
        return said
    found = list(_rules(inspect.unwrap(generator), name, _DEEPEST))
    rules = {kind: [values for this, values in found if this == kind and values] for kind in ("in", "out", "like")}
    allowed = rules["in"] or [_compared(rules["like"], rules["out"])]
    refused = [value for values in rules["out"] for value in values]
    told = [value for value in allowed[0] if value not in refused and all(value in rule for rule in allowed[1:])]
    return [None, *told] if told and type(None) in typing.get_args(hint) else told


def _of_annotation(hint: Any) -> Values:
    hint = parameters._without_none(hint)
    if hint is bool:
        return [False, True]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint.__members__)
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return []


def _compared(mentioned: list[Values], refused: list[Values]) -> Values:
    """A text's alternatives; a single one that counts says that there are others, not which."""
    values = [value for values in mentioned for value in values if isinstance(value, str) and [value] not in refused]
    unique = list(dict.fromkeys(values))
    return unique if len(unique) > 1 else []


def _rules(function: Callable[..., Any], name: str, depth: int) -> Iterator[tuple[str, Values]]:
    """What each place says: "in" these, not ("out") these, compared with ("like") these."""
    tree = _tree(function)
    if tree is None or name in _rebound(function):
        return
    names = getattr(function, "__globals__", {})
    for statement in tree.body:  # further in, a condition on other parameters may stand above it
        yield from _demand(statement, name, names)
    for node in _telling(function):
        if isinstance(node, ast.Subscript) and _is(node.slice, name):
            yield "in", _keys(node.value, names)
        elif isinstance(node, ast.Compare):
            yield "like", _members(node, name, names, ast.Eq)
        elif isinstance(node, ast.Call) and depth:
            yield from _handed_on(node, name, names, depth)


@functools.cache
def _tree(function: Callable[..., Any]) -> ast.FunctionDef | None:
    with contextlib.suppress(OSError, TypeError, SyntaxError):
        found = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        return found if isinstance(found, ast.FunctionDef) else None
    return None


@functools.cache
def _telling(function: Callable[..., Any]) -> list[ast.AST]:
    """What in it may say something of a parameter: each is asked for by its own."""
    return [node for node in _nodes(function) if isinstance(node, (ast.Subscript, ast.Compare, ast.Call))]


@functools.cache
def _rebound(function: Callable[..., Any]) -> set[str]:
    """The parameters that are given another value: what follows says nothing about the caller's then."""
    return {node.id for node in _nodes(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _nodes(function: Callable[..., Any]) -> Iterator[ast.AST]:
    tree = _tree(function)
    return ast.walk(tree) if tree else iter(())


def _is(node: Any, name: str) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and node.id == name


def _demand(statement: ast.stmt, name: str, names: dict[str, Any]) -> Iterator[tuple[str, Values]]:
    """`assert x in (…)`, `if x not in (…): raise …` and their opposites."""
    if isinstance(statement, ast.Assert):
        yield "in", _members(statement.test, name, names, ast.In)
        yield "out", _members(statement.test, name, names, ast.NotIn)
    elif isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Raise):
        yield "in", _members(statement.test, name, names, ast.NotIn)
        for refusal in (ast.In, ast.Eq):
            yield "out", _members(statement.test, name, names, refusal)


def _keys(table: ast.AST, names: dict[str, Any]) -> Values:
    """The keys of a module's table."""
    found = names.get(table.id) if isinstance(table, ast.Name) else None
    return [parameters._plain(key) for key in found] if isinstance(found, dict) else []


def _members(test: ast.AST, name: str, names: dict[str, Any], operator: type[ast.cmpop]) -> Values:
    """The constants of `name in (…)`, or the one of `name == …`."""
    if not isinstance(test, ast.Compare) or not _is(test.left, name) or not isinstance(test.ops[0], operator):
        return []
    with contextlib.suppress(Exception):
        value = _constant(test.comparators[0], names)
        return [parameters._plain(one) for one in ([value] if operator is ast.Eq else value)]
    return []


def _constant(node: ast.AST, names: dict[str, Any]) -> Any:
    """A literal, a name of the module, an attribute of one (`torch.float16`), or a collection of these."""
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_constant(element, names) for element in node.elts]
    if isinstance(node, ast.Attribute):
        return getattr(_constant(node.value, names), node.attr)
    return names[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _handed_on(call: ast.Call, name: str, names: dict[str, Any], depth: int) -> Iterator[tuple[str, Values]]:
    function = names.get(call.func.id) if isinstance(call.func, ast.Name) else None
    if not inspect.isfunction(function) or not str(function.__module__).startswith("flashinfer."):
        return
    takes = list(inspect.signature(function).parameters)
    for index, argument in enumerate(call.args):
        if _is(argument, name) and index < len(takes):
            yield from _rules(function, takes[index], depth - 1)
    for keyword in call.keywords:
        if keyword.arg and _is(keyword.value, name):
            yield from _rules(function, keyword.arg, depth - 1)
