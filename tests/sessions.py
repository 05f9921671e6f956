"""Real plans and sessions, with what a test knows in the place of what would be asked of the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.config.model import Config, Serving
from fitasks.cuda.cudart import Cudart, Runtime
from fitasks.cuda.loader import Loader
from fitasks.cuda.toolkit import Toolkit
from fitasks.graph.session import Session
from fitasks.plan.plan import Plan
from fitasks.plan.server import Server

if TYPE_CHECKING:
    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.plan.target import Target

NO_CUDART = Runtime(None, "nothing was asked", (), Cudart("", ""))


def plan_at(root: Path, targets: dict[str, Target]) -> Plan:
    """A plan without kernels, for a server with this process's interpreter and environment."""
    config = Config("kernels.yaml", Serving(), tuple(targets), sm90=True, cudart="patch", kernels=())
    server = Server(Path(sys.executable), "none", Path(sys.prefix), (), dict(os.environ), ())
    home = root / "cuda"
    toolkit = Toolkit(home, "CUDA_HOME", home, "13.0", "V13.0.88", home / "libcudart.so")
    return Plan(config, server, toolkit, (), (), targets, root / ".fitasks")


def session_of(
    plan: Plan,
    *,
    ninja: Ninja | None = None,
    runtime: Runtime = NO_CUDART,
    loader: Loader | None = None,
    judges: dict[str, Judge] | None = None,
) -> Session:
    """The session of the project that the plan is of."""
    made = Session(plan.state.parent, _plan=plan)
    made.runtime = runtime
    made.loader = loader or Loader(plan.server.python, plan.server.env, plan.state / "loader.json")
    made.judges = judges or {}
    if ninja:
        made.ninja = ninja
    return made
