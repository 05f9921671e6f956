"""kernels.yaml → Config, or every mistake in it at once."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Any

from fitasks.base.border import open_regular
from fitasks.base.errors import BadInput, ConfigError
from fitasks.config.compose import place_at, unreadable
from fitasks.config.expand import expand
from fitasks.config.model import MOST_BYTES, Config, ModelRequest, Serving
from fitasks.config.problem import Problem, in_file_order, shorten
from fitasks.config.schema import TARGET
from fitasks.config.source import read_document
from fitasks.config.stores import StoreRequest
from fitasks.config.structure import validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.config.schema import FileModel, ModelModel, ServingModel
    from fitasks.config.source import Document


def load_config(path: Path) -> Config:
    """Read and check kernels.yaml. Raises ConfigError with all mistakes, in file order."""
    file = _shown_path(path)
    document = read_document(_decode(_read(path, file), file), file)
    model, problems = validate(document)
    kernels, mistakes = expand(model.kernels, document, _unsound_entries(problems), model.generators)
    problems = problems + mistakes + [*_duplicate_targets(document)]
    said = set(document.data) if isinstance(document.data, dict) else set()
    problems += [*_engines_unsaid(model, document)]
    if problems or not said & {"kernels", "models"}:  # `kernels: {}` says: none yet
        raise ConfigError(in_file_order(problems or [_no_kernels(document)]))
    serving = _serving(model.serving, path)
    targets, limits = tuple(model.targets), (model.jobs, model.timeout, model.split_compile)
    models = tuple(_request(name, one, serving, path, document) for name, one in model.models.items())
    stores = tuple(StoreRequest(one.url, one.push, tuple(one.trust)) for one in model.store)
    said_of_all = (file, serving, targets, model.sm90, model.cudart, kernels)
    return Config(*said_of_all, *limits, models, tuple(model.generators), stores)


def _engines_unsaid(model: FileModel, document: Document) -> Iterator[Problem]:
    if model.serving.engine == "none":
        for name, one in model.models.items():
            if one.engine is None:
                path = ("models", name)
                text = "no engine; add `engine: sglang` or `engine: vllm`, or set serving.engine"
                yield Problem(document.spot(path).key, path, text)


def _request(name: str, model: ModelModel, serving: Serving, path: Path, document: Document) -> ModelRequest:
    engine = model.engine or ("vllm" if serving.engine == "vllm" else "sglang")
    said = model.model_dump() | {"config": str(path.absolute().parent / model.config), "engine": engine}
    return ModelRequest(name=name, place=document.spot(("models", name)).key, **said)


def _shown_path(path: Path) -> str:
    """As given, but short where it lies below the working directory; safe to print."""
    try:
        shown = path.relative_to(path.cwd()) if path.is_absolute() else path
    except (OSError, ValueError):
        shown = path
    return shorten(str(shown)) if not str(shown).isprintable() else str(shown)


def _read(path: Path, file: str) -> bytes:
    try:
        with open_regular(path) as stream:
            data = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError((f"{file}: no such file; make one with: python -m fitasks init",)) from None
    except IsADirectoryError:
        raise ConfigError((f"{file}: a directory; name the file in it",)) from None
    except BadInput as error:
        raise ConfigError((f"{error.message}; {error.remedy}",)) from None
    except PermissionError:
        raise ConfigError((f"{file}: no permission to read it; try: chmod u+r {shlex.quote(file)}",)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError((f"{file}: cannot be read: {reason}",)) from None
    if len(data) > MOST_BYTES:
        raise ConfigError((f"{file}: longer than {MOST_BYTES // 1024} KiB; is it the right file?",))
    return data


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = place_at(data[: error.start].decode().removeprefix("\ufeff"), file)
        byte = data[error.start]
        raise unreadable(place, f"not UTF-8: byte 0x{byte:02X} at offset {error.start}; save as UTF-8") from None


def _no_kernels(document: Document) -> Problem:
    place = document.spot(("kernels",)).key
    text = "no kernels; add at least one entry, for example `sampling: {}`; `{}` is none yet"
    return Problem(place, ("kernels",), text)


def _unsound_entries(problems: list[Problem]) -> set[str]:
    paths = [problem.path for problem in problems if problem.path[:1] == ("kernels",)]
    return {str(path[1]) for path in paths if path[1:]}


def _duplicate_targets(document: Document) -> Iterator[Problem]:
    """Over all that are written, also where others of them are wrong."""
    targets: Any = document.data.get("targets") if isinstance(document.data, dict) else None
    first: dict[frozenset[str], int] = {}
    for index, target in enumerate(targets if isinstance(targets, list) else []):
        if not isinstance(target, str) or not re.fullmatch(TARGET, target):
            continue
        earlier = first.setdefault(frozenset(map(_architecture, target.split(" "))), index)
        if earlier != index:
            other = f'"{targets[earlier]}" at {document.spot(("targets", earlier)).value}'
            text = f'"{target}" means the same architectures as {other}; keep one of them'
            yield Problem(document.spot(("targets", index)).value, ("targets",), text)


def _architecture(text: str) -> str:
    """What FlashInfer makes of one: 9.0 is 9.0a, from 0.6.7 on (flashinfer/compilation_context.py).

    12.0 becomes 12.0f or 12.0a by the toolkit's release, so it is neither here.
    """
    gets_suffix = re.fullmatch(r"9\.\d|\d\d\.\d", text) and text != "12.0"
    return f"{text}a" if gets_suffix else text


def _serving(model: ServingModel, path: Path) -> Serving:
    python = os.path.expanduser(model.python)  # noqa: PTH111 - Path's raises for an unknown user
    if "/" in python:
        python = str(path.absolute().parent / python)
    return Serving(python, model.engine, dict(model.env), model.user)
