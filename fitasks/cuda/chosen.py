"""The toolkit that was chosen before, where no host compiler is left to choose one: only it can tell what it links.

A server that has its kernels needs no compiler; so a plan outlives it, as long as the toolkit and its names
stay.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.cuda.survey import nvcc_says
from fitasks.cuda.toolkit import Choice, Toolkit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.cuda.probe import ProbeMemo


class Record(TypedDict):
    """A choice in a form that survives JSON."""

    toolkit: Toolkit
    named: list[str]


def as_record(toolkit: Toolkit, env: Mapping[str, str]) -> dict[str, Any]:
    """The choice in a form that survives JSON, with the names by which toolkits are looked for in `env`."""
    toolkit_record = {name: str(value) for name, value in asdict(toolkit).items()}
    return {"toolkit": toolkit_record, "named": _named(env)}


def again(record: Mapping[str, Any], env: Mapping[str, str], probe: ProbeMemo) -> Choice | None:
    """The same choice; None where `env` names other toolkits now, or this one's nvcc is another."""
    if record.get("named") != _named(env):
        return None
    paths = {name: Path(record["toolkit"][name]) for name in ("home", "root", "cudart")}
    toolkit = Toolkit(**record["toolkit"] | paths)
    return Choice(toolkit, ()) if nvcc_says(toolkit.home, probe).build == toolkit.build else None


def _named(env: Mapping[str, str]) -> list[str]:
    nvcc = shutil.which("nvcc", path=env.get("PATH", os.defpath))
    return [env.get("CUDA_HOME", ""), env.get("CUDA_PATH", ""), os.path.realpath(nvcc) if nvcc else ""]
