"""The stamp: what kernels are built against, as readable JSON that changes only when one of these things does.

It is every kernel's `file_dep`. A changed stamp makes every kernel look again; it compiles only those whose receipt
no longer holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fitasks.base.errors import NoCompiler
from fitasks.base.files import ephemeral_directory, write_if_changed
from fitasks.cuda.survey import host_compiler

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.cuda.cudart import Cudart, Runtime
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.plan.plan import Plan

NAME = "cudart.stamp"


def toolchain(plan: Plan, probe: ProbeMemo) -> dict[str, str]:
    """The tools whose version decides what a compile makes: they are part of every fingerprint.

    Without a host compiler nothing is compiled, and what it made before is no other than it was: it isn't named.
    """
    tools = {"nvcc": plan.toolkit.build}
    try:
        compiler = host_compiler(plan.server.env)
    except NoCompiler:
        return tools
    return tools | {"c++": probe.output(compiler, "--version").partition("\n")[0]}


def write_stamp(plan: Plan, ninja: Ninja, tools: dict[str, str], runtime: Runtime) -> tuple[Path, str]:
    """Write `.fitasks/cudart.stamp` where its text changes; its path (another in a read-only project), and text."""
    server = plan.server
    content = {
        "nvcc": {
            "release": plan.toolkit.release,
            "build": plan.toolkit.build,
            "CUDA_HOME": str(plan.toolkit.home),
        },
        "cudart": {
            "toolkit": _library(runtime.toolkit),
            "runtime": _library(runtime.loaded) | {"how": runtime.how},
        },
        "flashinfer": server.version("flashinfer-python"),
        "tvm-ffi": server.version("apache-tvm-ffi"),
        "torch": server.version("torch"),
        "c++": tools.get("c++", "not found"),
        "ninja": {"executable": str(ninja.executable), "version": ninja.version},
        "python": str(server.python),
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    path = plan.state / NAME
    try:
        write_if_changed(path, text)
    except OSError:
        path = ephemeral_directory() / NAME
        write_if_changed(path, text)
    return path, text


def _library(cudart: Cudart | None) -> dict[str, str]:
    """What tells one libcudart from another."""
    if cudart is None:
        return {}
    named = {"path": cudart.path, "version": cudart.version, "sha256": cudart.sha256, "problem": cudart.problem}
    return {name: value for name, value in named.items() if value}
