"""Asking an engine's own code to build a kernel, and what it says that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import KernelFailure
from fitasks.compile.runner import too_late
from fitasks.plan.whole import request_for
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel


@dataclass(frozen=True)
class Made:
    """A file in its place; `meta` is JSON, the key that it was published under."""

    sha256: str
    size: int
    seconds: float
    meta: str


def ask(kernel: Kernel, runner: Runner, script: Path, shape: type[Any], **more: object) -> dict[str, Any]:
    """What a script says of the one kernel that it builds. Raises KernelFailure, EnvironmentProblem."""
    plan, wanted = runner.plan, {0: (kernel.op, kernel.given)}
    request = request_for(kernel.target, wanted) | more
    env, what = plan.environment(kernel.target), f"how it compiled {kernel.name}"
    python, limit = plan.server.python, runner.timeout or 0
    try:
        answer = interpreter.ask(python, script, shape, env, what, request=request, quiet=True, limit=limit)
    except interpreter.Late:
        raise too_late(kernel, limit) from None
    (one,) = answer["kernels"]
    if "error" in one:
        raise KernelFailure(f"{kernel.label}: {one['error']['message']}")
    return dict(one)
