"""What predictions take for granted and a server started elsewhere may not have, with what brings it about.

`doit check` foretells what a server does that has the lines of `doit env` in its environment (ui/show.py): the toolkit,
the ninja, the variables that were set here.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.ninja import ninja as ninjas
from fitasks.cuda.survey import Linker, survey
from fitasks.plan.hopper import left_out
from fitasks.server import sm90_switch
from fitasks.server.engine_conditions import finds_nvcc, version_of_engine, wanted_without_nvcc
from fitasks.server.loadable import provisos
from fitasks.server.place import caches_of_sglang, moved
from fitasks.server.variables import in_choices, in_commands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.plan.plan import Plan
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.verdict import Verdict


def conditions(known: Knowledge, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """What the prediction takes for granted and a server started elsewhere may not have, with what brings it about."""
    plan = known.plan
    flashinfers = [verdict for verdict in verdicts if verdict.kind == "flashinfer"]
    ahead = bool(verdicts) and all(verdict.state == "ahead-of-time" for verdict in flashinfers)
    engine = _sglang(plan) + _engine(plan, delivered=ahead or known.problem is not None) + provisos(known)
    if known.problem:
        return engine
    if ahead:  # no ninja, no commands
        return [*_home(plan), *_same(plan, in_choices(plan.server)), *_switch(plan), *engine]
    variables = in_commands(plan.server) | in_choices(plan.server)
    found = [*_toolkit(known), *_home(plan), *_ninja(known), *_same(plan, variables), *_loader(known)]
    return [*found, *_switch(plan), *engine]


def _same(plan: Plan, variables: Mapping[str, str]) -> list[str]:
    """The variables that are set here and, by the installed FlashInfer's source, decide what it loads and compiles."""
    listed = [
        f"{name}={shlex.quote(value)}" for name, value in variables.items() if name not in plan.config.serving.env
    ]
    if not listed:
        return []
    reads = f"FlashInfer reads {'it' if len(listed) == 1 else 'them'}"
    without = f"{reads}: otherwise it would look elsewhere or compile again"
    return [f"the server has {', '.join(listed)} as here ({without}); `doit env` prints the lines"]


def _sglang(plan: Plan) -> list[str]:
    """Where SGLang's own modules lie, unless its user's home tells."""
    return [
        f"the server has {name}={place} (SGLang looks for its own modules there); `doit env` prints the lines"
        for name, place in caches_of_sglang(plan).items()
        if name not in plan.config.serving.env
    ]


def _home(plan: Plan) -> list[str]:
    """Of a server with another user, whose home FlashInfer would take."""
    if not (base := moved(plan)):
        return []
    return [f"the server has FLASHINFER_WORKSPACE_BASE={base}, not its user's home; `doit env` prints the lines"]


def _ninja(known: Knowledge) -> list[str]:
    """Another ninja's version reads no log of this one's, and compiles everything."""
    ours = known.ninja.executable.parent
    try:
        found = ninjas.find_ninja(dict(os.environ), known.probe)
        without = f"{found.executable} is {found.version} and would compile again"
    except EnvironmentProblem:
        found, without = None, "without it there is none"
    if found and (found.executable.parent == ours or found.version == known.ninja.version):
        return []
    return [f"the server has {ours} first on PATH, for its ninja ({without}); `doit env` prints the line"]


def _loader(known: Knowledge) -> list[str]:
    """A libcudart that only LD_LIBRARY_PATH, as it is here, leads to."""
    loaded, listed = known.runtime.loaded, known.plan.server.env.get("LD_LIBRARY_PATH", "")
    places = [Path(entry) for entry in listed.split(":") if entry]
    if loaded is None or "LD_LIBRARY_PATH" in known.plan.config.serving.env or Path(loaded.path).parent not in places:
        return []
    return [f"the server has {Path(loaded.path).parent} in LD_LIBRARY_PATH, where {Path(loaded.path).name} is found"]


def _engine(plan: Plan, *, delivered: bool) -> list[str]:
    """What the engine wants of a server without nvcc: one that gets its kernels ready, or one as here."""
    if not delivered and finds_nvcc(plan.server.env, str(plan.toolkit.home)):
        return []
    without = f"without it, and without nvcc, {version_of_engine(plan.server)} leaves FlashInfer unused in places"
    return [f"the server has {name}={value} ({without})" for name, value in wanted_without_nvcc(plan.server).items()]


def _toolkit(known: Knowledge) -> list[str]:
    """Where FlashInfer would look for a toolkit by itself, and what would come of it."""
    env, wanted = known.plan.server.env, known.plan.toolkit.home
    found = Path(_cuda_home(env))
    if str(found) == str(wanted):
        return []
    without = f"without it FlashInfer would find {found} and compile again"
    if not found.exists():
        without = f"without it FlashInfer would look for {found}, which isn't there, and fail"
    elif not (surveyed := survey(found, (), Linker(env, known.probe))).complete:
        without = f"without it FlashInfer would find {found} and fail: it lacks {surveyed.holes[0]}"
    return [f"the server has CUDA_HOME={wanted} ({without}); `doit env` prints the lines"]


def _switch(plan: Plan) -> list[str]:
    """Without Hopper's modules in the plan: a server has to leave them out, too."""
    if not left_out(plan.config, plan.targets):
        return []
    without = "without it FlashInfer would choose Hopper's modules and compile them"
    needed = []
    if not sm90_switch.is_on(plan.server.env):
        needed.append(f"the server has {sm90_switch.VARIABLE}=1 ({without}); `doit env` prints the lines")
    if not sm90_switch.is_installed(plan.server.site_directories):
        needed.append(f"the server has the hook that heeds {sm90_switch.VARIABLE}; `doit install_sm90_switch`")
    return needed


def _cuda_home(env: dict[str, str]) -> str:
    """FlashInfer's own search (jit/cpp_ext.py, get_cuda_path): no wrapper is seen through."""
    if home := env.get("CUDA_HOME") or env.get("CUDA_PATH"):
        return home
    nvcc = shutil.which("nvcc", path=env.get("PATH"))
    return str(Path(nvcc).parent.parent) if nvcc else "/usr/local/cuda"
