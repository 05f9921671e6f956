"""Data → FileModel, and pydantic's errors → our sentences with our places."""

from __future__ import annotations

import heapq
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from fitasks.config.problem import BAD, BLANK, MOST, Problem, did_you_mean, dotted, found, quote_it, shown
from fitasks.config.schema import TARGET, FileModel, ModelModel, ServingModel, StoreModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import ErrorDetails

    from fitasks.config.problem import Path
    from fitasks.config.source import Document

_EXPECTED = {
    "": "keys such as serving, targets and kernels",
    "serving": "a mapping of python, engine, env and user",
    "serving.env": "a mapping of variable names to text",
    "kernels": "a mapping of entry names to parameters",
}
_NUMBERS = {
    "jobs": "a whole number of compilers, 1 to 1024",
    "tensor_parallel": "a whole number of GPUs, 1 to 1024",
    "timeout": "a whole number of seconds, at most a year; 0 for no limit",
}
_VALUES = "text, a number, true or false, or a list of these"
_NAMES = "letters, digits, `_`, `.` and `-`, first a letter or digit"
_ARCHITECTURE = re.compile(r"(?:sm_?|compute_?)?([0-9]+)\.?([0-9][a-z]?)(?:\+ptx)?", re.IGNORECASE)


def validate(document: Document) -> tuple[FileModel, list[Problem]]:
    """The sound part of the document, and what is wrong with the rest."""
    try:
        return FileModel.model_validate(document.data), document.problems
    except ValidationError as error:
        details = error.errors(include_url=False)
    unread = [detail for detail in details if detail["input"] is not BAD]
    problems = [_problem(detail, document) for detail in heapq.nsmallest(MOST + 1, unread, key=_in_file(document))]
    sound = _sound_part(document.data, [_path(detail) for detail in details])
    return FileModel.model_validate(sound), document.problems + problems


def _path(detail: ErrorDetails) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _in_file(document: Document) -> Callable[[ErrorDetails], tuple[int, int]]:
    """The order of the places, which is not that of the models' fields."""

    def place(detail: ErrorDetails) -> tuple[int, int]:
        value = document.spot(_written(_path(detail), document)).value
        return value.line, value.column

    return place


def _sound_part(data: Any, bad: list[Path]) -> dict[str, Any]:
    """The data without what is bad: of an entry one parameter, else the whole top-level key."""
    kept = dict(data) if isinstance(data, dict) else {}
    if isinstance(kept.get("kernels"), dict):
        kept["kernels"] = {
            name: dict(entry) if isinstance(entry, dict) else entry for name, entry in kept["kernels"].items()
        }
    for path in sorted(bad, key=len, reverse=True):
        match path:
            case ("kernels", name, parameter, *_):
                kept["kernels"][name].pop(parameter, None)
            case ("kernels", name):
                kept["kernels"].pop(name, None)
            case (key, *_):
                kept.pop(str(key), None)
    return kept


def _written(path: Path, document: Document) -> Path:
    """The path in the file, where one value may stand for a list of one."""
    kept: Path = ()
    for part in path:
        if isinstance(part, str) or (*kept, part) in document.spots:
            kept = (*kept, part)
    return kept


def _problem(detail: ErrorDetails, document: Document) -> Problem:
    path = _written(_path(detail), document)
    spot = document.spot(path)
    is_key = detail["type"] == "extra_forbidden" or detail["loc"][-1:] == ("[key]",)
    why = detail["ctx"]["why"] if detail["type"] == "store" else ""  # the value may have a password in it: not shown
    return Problem(spot.key if is_key else spot.value, path, why or _sentence(detail, path, spot.text))


def _sentence(detail: ErrorDetails, path: Path, text: str) -> str:
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(path)
        case "string_pattern_mismatch":
            return _misspelt(path, value)
        case "missing" | "too_short":
            return _lacking(detail["type"], path)
        case "model_type" if not path and (value is BLANK or value is None):
            return "the file is empty; write `kernels:` with at least one entry, for example `sampling: {}`"
        case "scalar_type" if value is BLANK:
            return "no value; write one (null for None), or leave the key out"
        case _:
            return f"{found(value, text)}; {_accepted(detail, path, value, text) or detail['msg']}"


def _lacking(kind: str, path: Path) -> str:
    if kind == "missing" and path[0] == "store":
        return "no url; it takes " + ", ".join(StoreModel.model_fields)
    if kind == "missing":
        return f"no {path[-1]}; it takes {', '.join(ModelModel.model_fields)}"
    return "an empty list; write one value or more, or leave the key out"


def _accepted(detail: ErrorDetails, path: Path, value: object, text: str) -> str:
    match detail["type"]:
        case "literal_error":
            choices = re.findall("'([^']*)'", detail["ctx"]["expected"])
            return f"accepted: {', '.join(choices)}{did_you_mean(text, choices)}"
        case "bool_type" | "int_type" | "greater_than_equal" | "less_than_equal" as kind:
            other = "true or false" if kind == "bool_type" else "a whole number"
            return f"expected {_NUMBERS.get(str(path[-1]), other)}"
        case "target" | "string_type":
            return _targets(text) if path[0] == "targets" else f"expected text{quote_it(value, text)}"
        case "scalar_type":
            return f"expected {'a finite number' if isinstance(value, float) else _VALUES}"
        case "dict_type" | "model_type" | "model_attributes_type" | "public_key":
            return f"expected {_expected(path)}"
    return ""


def _expected(path: Path) -> str:
    """What a mapping holds."""
    if "trust" in path:
        return "a public key as `doit keygen` says it, ed25519: and 44 letters"
    if path[:1] == ("store",):
        return "a URL, or a mapping of " + ", ".join(StoreModel.model_fields)
    if path[:1] == ("models",):
        return "a mapping of " + (", ".join(ModelModel.model_fields) if path[1:] else "names to models")
    return _EXPECTED.get(dotted(path), "a mapping of parameters, or nothing")


def _unknown_key(path: Path) -> str:
    models: dict[int, type[BaseModel]] = {1: FileModel, 2: ServingModel, 3: ModelModel}
    model = StoreModel if path[0] == "store" and len(path) > 1 else models[len(path)]
    known = list(model.model_fields)
    where = dotted(path[:-1]) or "the file"
    return f"unknown key; {where} takes {', '.join(known)}{did_you_mean(path[-1], known)}"


def _misspelt(path: Path, value: str) -> str:
    match path:
        case ("kernels" | "models", _):
            return f"an entry's name consists of {_NAMES}"
        case ("kernels", _, "op"):
            return (
                f"{shown(value)} is no op; expected the middle of gen_<op>_module, such as batch_prefill, "
                "or module.path:gen_function"
            )
        case ("generators", *_):
            return f"{shown(value)} is no package; expected the name that Python imports it by, such as my_fork"
        case ("serving", "user"):
            return f'{shown(value)} is no user; expected a name such as nobody, or numbers such as "1000:1000"'
        case _:
            return "a variable's name consists of letters, digits and `_`, first not a digit"


def _targets(text: str) -> str:
    meant = _meant_target(text)
    hint = f' (did you mean "{meant}"?)' if meant else ""
    return f'accepted: auto, or text such as "9.0a" or "8.0 9.0a", in quotes, with single spaces{hint}'


def _meant_target(text: str) -> str:
    """`8.0 9.0a` for `8.0;9.0a`, `sm_80, sm_90a` and the like; "" for all else."""
    words = [_ARCHITECTURE.fullmatch(word) for word in re.split(r"[\s;,]+", text.strip())]
    meant = " ".join(f"{word[1]}.{word[2]}".lower() for word in words if word)
    if all(words) and re.fullmatch(TARGET, meant):
        return meant
    return "auto" if did_you_mean(text, ["auto"]) else ""
