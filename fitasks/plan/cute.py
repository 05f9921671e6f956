"""Asking the serving interpreter for FlashInfer's CuTe-DSL objects: fitasks/serving/plan/cute_plan.py.

They are asked for apart: CuTe-DSL's architecture must be named before FlashInfer is imported, and no toolkit is needed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fitasks.base.answers import Objects
from fitasks.base.errors import EnvironmentProblem
from fitasks.plan.whole import request_for
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fitasks.base.answers import CuteObject
    from fitasks.config.model import KernelConfig

_SCRIPT = interpreter.SCRIPTS / "plan" / "cute_plan.py"
Record = dict[str, Any]


def ask_objects(
    python: Path, env: Mapping[str, str], target: str, kernels: Mapping[int, KernelConfig], *, recorded: bool
) -> tuple[list[Record], list[dict[str, Any]]]:
    """The planner's records of these kernels, and what they rest on. What the script can't say is a mistake of each.

    Raises NoAnswer where there is no answer at all: another try may bring one.
    """
    if " " in target:
        said = f"CuTe-DSL compiles for one GPU at a time, and the target is {target!r}; write a target for each"
        return _mistakes(kernels, said), []
    asked = {index: (kernel.op, kernel.params) for index, kernel in kernels.items()}
    what, request = f"which CuTe-DSL objects it loads for {target}", request_for(target, asked, recorded=recorded)
    try:
        answer = interpreter.ask(python, _SCRIPT, Objects, env, what, request=request)
    except interpreter.CantSay as error:
        return _mistakes(kernels, error.why), []
    given = {one["id"]: one for one in answer["kernels"]}
    if given.keys() != kernels.keys():
        raise EnvironmentProblem(f"{python} planned other objects than it was asked for", remedy=interpreter.REMEDY)
    return [_record(given[index], kernel.op) for index, kernel in kernels.items()], [answer["reads"]]


def _mistakes(kernels: Mapping[int, KernelConfig], message: str) -> list[Record]:
    return [{"id": index, "error": {"kind": "generator", "message": message}} for index in kernels]


def _record(planned: Record, op: str) -> Record:
    """As a module's."""
    if "error" in planned:
        return planned
    objects: Sequence[CuteObject] = planned["objects"]
    if len(objects) != 1:
        message = f"{op} makes {len(objects)} objects, and an entry is one"
        return {"id": planned["id"], "error": {"kind": "generator", "message": message}}
    (one,) = objects
    return {
        "id": planned["id"],
        "kind": "cute",
        "name": one["name"],
        "generator": op,
        "params": planned["params"],
        "build_dir": one["directory"],
        "library": one["path"],
        "ninja_file": one["meta"],
        "lock": one["lock"],
        "sources": [],
        "generated": [],
        "aot": [],
        "ninja": "",
        "meta": json.dumps(one["expected"], sort_keys=True),
    }
