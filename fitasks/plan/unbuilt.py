"""A plan without a toolchain: enough to ask which modules FlashInfer loads ahead of time, on a host that only serves.

FlashInfer reads nvcc's release while it makes modules' names and flags. Where there is no nvcc, a stand-in says the one
that the installed package was compiled with; nothing is compiled with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.base.border import read_json
from fitasks.base.errors import BadInput
from fitasks.base.files import write_if_changed
from fitasks.cuda.probe import ProbeMemo
from fitasks.cuda.toolkit import Toolkit
from fitasks.plan import planner
from fitasks.plan.expand import kernels_of, not_loaded
from fitasks.plan.plan import Plan, configuration, effective, targets_of
from fitasks.plan.server import as_imported, find_server
from fitasks.plan.target import targets_in

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.server import Server

_MOST_BYTES = 256 << 20  # of all receipts of a package
_RECEIPTS = "fitasks_kernels/receipts.json"
_BUILD = re.compile(r"V(\d+\.\d+\.\d+)")


def plan_unbuilt(root: Path) -> Plan | None:
    """The plan of the project in `root` for asking alone; None where our package isn't installed.

    Not remembered: FlashInfer is imported for each target, 4 to 10 s. Raises ConfigError, and EnvironmentProblem where
    FlashInfer can't be asked.
    """
    written, state = configuration(root), root / ".fitasks"
    server = find_server(written, ProbeMemo(state / "probe.json"))
    build = _compiled_with(server)
    if not build:
        return None
    toolkit = _stand_in(state / "no-toolkit", build)
    names = targets_of(written, server)
    config = effective(written, names, server)
    home, named = toolkit.home, config.generators
    answers = planner.ask(server, home, names, config.kernels, sm90=config.sm90, generators=named)
    targets = targets_in(answers)
    kernels, others = kernels_of(config, answers), not_loaded(config, answers)
    return Plan(config, as_imported(server, targets), toolkit, (), kernels, targets, state, not_loaded=others)


def _compiled_with(server: Server) -> str:
    """The nvcc of the installed package's kernels ("13.0.88"), by their receipts; "" where there is none."""
    for site in server.site_packages:
        try:
            build = read_json(site / _RECEIPTS, _MOST_BYTES)["kernels"][0]["toolchain"]["nvcc"]
            return str(_BUILD.match(build)[1])  # type: ignore[index]
        except (BadInput, LookupError, TypeError):
            continue
    return ""


def _stand_in(home: Path, build: str) -> Toolkit:
    """A CUDA_HOME whose nvcc can only say its release, as in "release 13.0, V13.0.88"."""
    nvcc, release = home / "bin" / "nvcc", ".".join(build.split(".")[:2])
    write_if_changed(nvcc, f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{build}'\n")
    nvcc.chmod(0o755)
    return Toolkit(home, "none", home, release, f"V{build}", home / "libcudart.so")
