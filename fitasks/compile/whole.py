"""Compiling what its engine's own code builds in one go, in a process of the serving interpreter.

The engine takes its own lock and publishes by rename; so we don't hold that one, and a kill at any moment leaves what
is whole. The receipt goes first and comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.base.files import sha256_file
from fitasks.compile import cute, keyed
from fitasks.compile.judge import engine_receipt
from fitasks.compile.judge.engine_receipt import EngineReceipt
from fitasks.processes import sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitasks.compile.judge.reasons import Judgement
    from fitasks.compile.made import Made
    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel, Kind


@dataclass(frozen=True)
class _Way:
    """`build` raises KernelFailure, EnvironmentProblem; `seconds` of a pool's slot are guessed."""

    said: str
    seconds: float
    build: Callable[[Kernel, Runner], Made]


_WAYS: dict[Kind, _Way] = {
    "cute": _Way("CuTe-DSL", 8.0, cute.build),  # importing FlashInfer, and most kernels
    "sglang-keyed": _Way("SGLang's own JIT", 30.0, keyed.build),
}


def lock_of(kernel: Kernel) -> Path:
    """A lock of ours beside the engine's, which the engine's own code takes while it builds."""
    return kernel.lock.with_name(f"{kernel.name.replace('/', '.')}.fitasks.lock")


def make(kernel: Kernel, runner: Runner, judged: Judgement) -> float:
    """Compile it in a slot of the pool; the compiler's seconds. Raises KernelFailure, EnvironmentProblem."""
    way = _WAYS[kernel.kind]
    with runner.pool.slot(way.seconds, stopping=sessions.stopping) as held:
        if not held:
            raise KernelFailure(f"{kernel.label}: stopped; what was finished stays, run doit again to go on")
        _announce(kernel, runner, judged, way.said)
        engine_receipt.path_of(kernel).unlink(missing_ok=True)
        made = way.build(kernel, runner)
    if sha256_file(kernel.library) != made.sha256:
        raise KernelFailure(f"{kernel.label}: {kernel.library.name} was written by somebody else meanwhile")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    engine_receipt.write(kernel, EngineReceipt(kernel.name, made.sha256, made.size, made.meta, made.seconds, now))
    return made.seconds


def _announce(kernel: Kernel, runner: Runner, judged: Judgement, with_what: str) -> None:
    why = [str(reason) for reason in judged.reasons]
    facts = {"label": kernel.label, "op": kernel.op, "target": kernel.target, "files": 1}
    runner.journal.write("begin", **facts, why=why)
    runner.say("; ".join([f"kernel:{kernel.label}: compiling with {with_what}", *why[:1]]))
