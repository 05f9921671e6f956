"""`.fitasks/plan.json`: the plan as the last run left it, what it depends on, and whether it still holds."""

from __future__ import annotations

import os
from dataclasses import fields
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base import memo
from fitasks.base.border import read_bytes
from fitasks.base.errors import BadInput
from fitasks.config.model import MOST_BYTES, Config, KernelConfig, ModelRequest, Position, Serving
from fitasks.config.stores import StoreRequest
from fitasks.cuda import chosen  # noqa: TC001 - memo.read looks at these
from fitasks.cuda.capability import Commands  # noqa: TC001
from fitasks.plan import planner
from fitasks.plan.kernel import Artefact, Kernel, NotLoaded, impossible
from fitasks.plan.overruled import overruled
from fitasks.plan.reads import Reads
from fitasks.plan.target import Target
from fitasks.plan.written import touched

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server

# Raised whenever the file's meaning changes; a changed shape is noticed by itself.
VERSION = [
    6,
    *(
        field.name
        for record in (Kernel, Artefact, NotLoaded, Target, Config, Serving, KernelConfig, ModelRequest, StoreRequest)
        for field in fields(record)
    ),
]


class _Memo(TypedDict):
    """plan.json."""

    key: dict[str, Any]  # compared with the present
    config: Config
    kernels: list[Kernel]
    targets: dict[str, Target]
    resolved: dict[str, str]
    chosen: chosen.Record
    needs: list[str]
    commands: Commands
    not_loaded: list[NotLoaded]
    overruled: dict[str, str]
    host: list[str]
    reads: dict[str, Any]  # Reads.holding looks at it
    written: dict[str, Any]  # as does `touched` at this


def remembered(file: Path) -> dict[str, Any]:
    """What plan.json says; {} where it is damaged, of an older fitasks or not there."""
    cache: dict[str, Any] | None = memo.read(file, _Memo)
    if cache is None or cache["key"].get("version") != VERSION or "kernels.yaml" not in cache["key"]:
        return {}
    whole = list(cache["targets"]) == cache["key"].get("targets")
    return cache if whole and not impossible(cache["kernels"], cache["targets"]) else {}


def holding(cache: dict[str, Any], key: dict[str, Any]) -> Reads | None:
    """What the remembered plan rests on; None where that plan no longer holds."""
    if cache.get("key") != key or not overruled(cache["kernels"]).items() <= cache["overruled"].items():
        return None
    if cache["resolved"] != resolved(cache["targets"]):
        return None
    if (anew := touched(cache["written"])) is None:
        return None
    if reads := Reads.holding(cache["reads"]):
        reads.renewed |= anew > 0
    return reads


def resolved(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Where the targets' directories really lie: FlashInfer writes sources without links into build.ninja."""
    targets = map(Target.from_record, records.values())
    paths = {str(path) for one in targets for path in (one.root, one.cuda_home, one.cached_ops, one.generated)}
    return {path: os.path.realpath(path) for path in sorted(paths)}


def key_of(digest: str, targets: tuple[str, ...], server: Server, toolkit: Toolkit) -> dict[str, Any]:
    """All that a plan depends on, but what planning read, in a form that survives JSON."""
    return planner.basis(server) | {
        "version": VERSION,
        "kernels.yaml": digest,
        "targets": list(targets),
        "toolkit": [str(toolkit.home), toolkit.build],
    }


def digest_of(file: Path) -> str:
    """Of the file's bytes; "" where it can't be read, so that reading it says why."""
    try:
        return sha256(read_bytes(file, MOST_BYTES)).hexdigest()
    except BadInput:
        return ""


def restored_config(data: dict[str, Any]) -> Config:
    """kernels.yaml as it was read for that plan."""
    kernels = tuple(
        KernelConfig(
            **entry
            | {
                "targets": tuple(entry["targets"]),
                "place": Position(**entry["place"]),
                "param_places": {name: Position(**place) for name, place in entry["param_places"].items()},
            }
        )
        for entry in data["kernels"]
    )
    targets = tuple(data["targets"])
    models = tuple(ModelRequest(**model | {"place": Position(**model["place"])}) for model in data["models"])
    restored = {"serving": Serving(**data["serving"]), "targets": targets, "kernels": kernels, "models": models}
    restored["generators"] = tuple(data["generators"])
    restored["stores"] = tuple(StoreRequest(**store | {"trust": tuple(store["trust"])}) for store in data["stores"])
    return Config(**data | restored)
