"""The stamp: what kernels are built against, as readable JSON that changes only when one of these things does.

It is every kernel's `file_dep`. A changed stamp makes every kernel look again; it compiles only those whose receipt
no longer holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.files import sha256_file, write_if_changed

if TYPE_CHECKING:
    from fitasks.build.ninja import Ninja
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.plan.plan import Plan

NAME = "cudart.stamp"


def toolchain(plan: Plan, probe: ProbeMemo) -> dict[str, str]:
    """The tools whose version decides what a compile makes: they are part of every fingerprint."""
    return {"nvcc": plan.toolkit.build, "c++": _first_line(plan, "CXX", "c++", probe)}


def write_stamp(plan: Plan, ninja: Ninja, tools: dict[str, str], runtime: Path | None) -> tuple[Path, str]:
    """Write `.fitasks/cudart.stamp` where its text changes; its path and text."""
    server = plan.server
    content = {
        "nvcc": {
            "release": plan.toolkit.release,
            "build": plan.toolkit.build,
            "CUDA_HOME": str(plan.toolkit.home),
        },
        "cudart": {"toolkit": _library(plan.toolkit.cudart), "runtime": _library(runtime)},
        "flashinfer": server.version("flashinfer-python"),
        "tvm-ffi": server.version("apache-tvm-ffi"),
        "torch": server.version("torch"),
        "c++": tools["c++"],
        "ninja": {"executable": str(ninja.executable), "version": ninja.version},
        "python": str(server.python),
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    path = plan.state / NAME
    write_if_changed(path, text)
    return path, text


def runtime_cudart(plan: Plan) -> Path | None:
    """The libcudart of the serving environment, of the toolkit's major version."""
    major = plan.toolkit.release.partition(".")[0]
    for directory in plan.server.site_packages:
        for found in sorted(directory.glob(f"nvidia/*/lib/libcudart.so.{major}*")):
            return found
    return None


def _library(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    return {"path": str(path), "file": path.resolve().name, "sha256": sha256_file(path)}


def _first_line(plan: Plan, variable: str, default: str, probe: ProbeMemo) -> str:
    import shutil

    name = plan.server.env.get(variable, default)
    found = shutil.which(name, path=plan.server.env.get("PATH"))
    return probe.output(Path(found), "--version").partition("\n")[0] if found else f"{name} not found"
