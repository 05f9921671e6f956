"""Which functions make SGLang's modules and FlashInfer's CuTe-DSL objects, with parameters, read from their sources.

Nothing is imported for it: SGLang's package brings its whole server along, and most of its functions a GPU's compiler.
A parameter that a function uses as an object (`q.shape`, `compile_fn()`) can't be said in kernels.yaml. Records are
those of ops.py, with the op written as `module:function`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plan_sources import calls_of, functions_in

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES = {"torch.dtype": "dtype", "torch.device": "device", **{name: name for name in ("int", "bool", "float", "str")}}


class _Place(NamedTuple):
    """Where functions of a kind are, and what every one of them calls."""

    kind: str
    package: str
    below: str
    maker: str


_PLACES = (
    _Place("sglang", "sglang", "jit_kernel", "load_jit"),
    _Place("sglang", "sglang", "kernels", "load_jit"),
    _Place("cute", "flashinfer", "", "build_and_load_cute_dsl_kernel"),
)
_MACHINERY = ("flashinfer.jit.",)


def operations() -> Iterator[dict[str, Any]]:
    """Every function that an entry of kernels.yaml may name, SGLang's and CuTe-DSL's, in no order."""
    for place in _PLACES:
        for root in _roots(place.package):
            for file in sorted((root / place.below).rglob("*.py")):
                yield from _of_file(place, _module(file, root), file.read_bytes())


def _roots(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []


def _module(file: Path, root: Path) -> str:
    return ".".join([root.name, *file.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")


def _of_file(place: _Place, module: str, text: bytes) -> Iterator[dict[str, Any]]:
    if place.maker.encode() not in text or module.startswith(_MACHINERY) or "hip" in module:
        return
    for function in functions_in(text):
        if place.maker in calls_of(function) and function.name != place.maker:
            record = _record(place.kind, f"{module}:{function.name}", function)
            if place.kind == "sglang" or all(one["type"] != "list" for one in record["parameters"] if one["required"]):
                yield record


def _record(kind: str, op: str, function: ast.FunctionDef) -> dict[str, Any]:
    doc = (ast.get_docstring(function) or "").splitlines()
    parameters = [_parameter(function, *one) for one in _arguments(function.args)]
    return {"op": op, "generator": op, "parameters": parameters, "doc": doc[0] if doc else "", "note": "", "kind": kind}


def _arguments(given: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Each parameter that has a name, with its default."""
    named = [*given.posonlyargs, *given.args]
    without = [None] * (len(named) - len(given.defaults))
    yield from zip(named, [*without, *given.defaults])  # noqa: B905 - strict= came with Python 3.10
    yield from zip(given.kwonlyargs, given.kw_defaults)  # noqa: B905


def _parameter(function: ast.FunctionDef, argument: ast.arg, default: ast.expr | None) -> dict[str, Any]:
    said, optional = _annotation(argument.annotation)
    kind, accepted = _type(function, argument.arg, said)
    rules = accepted or _demanded(function, argument.arg)
    return {
        "name": argument.arg,
        "required": default is None,
        "default": _plain(default),
        "type": kind,
        "accepted": [None, *rules] if optional and rules else rules,
    }


def _annotation(node: ast.expr | None) -> tuple[str, bool]:
    """What it says without None, and whether None is one of its values."""
    said = "" if node is None else ast.unparse(node).strip("'\"")
    bare = said.replace("| None", "").replace("None |", "").strip()
    inner = bare[len("Optional[") : -1] if bare.startswith("Optional[") else bare
    return inner, inner != said


def _type(function: ast.FunctionDef, name: str, said: str) -> tuple[str, list[Any]]:
    if said.startswith("Literal["):
        return "", list(_literals(said))
    if said:
        return _TYPES.get(said, "list"), [False, True] if said == "bool" else []
    return ("list" if _is_object(function, name) else ""), []


def _literals(said: str) -> Iterator[Any]:
    try:
        value = ast.literal_eval(f"[{said[len('Literal[') : -1]}]")
    except (ValueError, SyntaxError):
        return
    yield from value


def _is_object(function: ast.FunctionDef, name: str) -> bool:
    """Whether it is taken apart or called: a tensor, a tuple, a function."""
    return name.endswith("_fn") or any(isinstance(owner, ast.Name) and owner.id == name for owner in _owners(function))


def _owners(function: ast.FunctionDef) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        if isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
            yield node.value
        elif isinstance(node, ast.Call):
            yield node.func
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            yield node.value


def _demanded(function: ast.FunctionDef, name: str) -> list[Any]:
    """The values of `assert name in (…)`, or of `if name not in (…): raise`."""
    for statement in function.body:
        test: Any = getattr(statement, "test", None)
        refused = isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Raise)
        wanted = ast.NotIn if refused else ast.In
        if not (refused or isinstance(statement, ast.Assert)) or not isinstance(test, ast.Compare):
            continue
        if isinstance(test.left, ast.Name) and test.left.id == name and isinstance(test.ops[0], wanted):
            return list(_constants(test.comparators[0]))
    return []


def _constants(node: ast.expr) -> Iterator[Any]:
    """Of a collection of plain values; nothing of another."""
    elements = node.elts if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else []
    values = [_plain(element) for element in elements]
    if None not in values:
        yield from values


def _plain(node: ast.expr | None) -> Any:
    """A plain value, or `float16` for torch.float16; None for what is neither."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch":
        return node.attr
    try:
        value = None if node is None else ast.literal_eval(node)
        json.dumps(value)
    except (ValueError, TypeError):
        return None
    return value if isinstance(value, (bool, int, float, str)) else None
