"""Compiling a CuTe-DSL object: FlashInfer's own build_and_load, in a process of the serving interpreter.

FlashInfer takes the family's lock, wipes a family of another key, and publishes the object and meta.json by rename; so
we hold no lock, and a kill at any moment leaves what is whole. The receipt comes last.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fitasks.base.answers import BuiltObjects
from fitasks.base.errors import KernelFailure
from fitasks.base.files import sha256_file
from fitasks.compile.judge import cute
from fitasks.compile.judge.cute import ObjectReceipt
from fitasks.plan.cute import request_for
from fitasks.processes import interpreter, sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.base.answers import BuiltObject
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel

_SCRIPT = interpreter.SCRIPTS / "plan" / "cute_build.py"
_GUESS = 8.0  # seconds: importing FlashInfer, and most kernels


def make(kernel: Kernel, runner: Runner, judged: Judgement) -> float:
    """Compile it in a slot of the pool; the compiler's seconds. Raises KernelFailure."""
    with runner.pool.slot(_GUESS, stopping=sessions.stopping) as held:
        if not held:
            raise KernelFailure(f"{kernel.label}: stopped; what was finished stays, run doit again to go on")
        _announce(kernel, runner, judged)
        with _aside(kernel):
            built = _build(kernel, runner)
    if built["how"] == "failed" or built["path"] != str(kernel.library):
        raise KernelFailure(f"{kernel.label}: {built['message'] or 'FlashInfer made another object'}")
    digest = sha256_file(kernel.library)
    if digest != built["sha256"]:
        raise KernelFailure(f"{kernel.label}: {kernel.library.name} was written by somebody else meanwhile")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    cute.write(kernel, ObjectReceipt(kernel.name, digest, built["size"], kernel.meta, built["seconds"], now))
    return built["seconds"]


@contextlib.contextmanager
def _aside(kernel: Kernel) -> Iterator[None]:
    """An object that is in the way goes aside, for FlashInfer would load it, and comes back if none takes its place."""
    cute.path_of(kernel).unlink(missing_ok=True)
    aside = kernel.library.with_suffix(".fitasks-aside")
    if kernel.library.exists():
        kernel.library.replace(aside)
    try:
        yield
    finally:
        if aside.exists() and not kernel.library.exists():
            aside.replace(kernel.library)
        aside.unlink(missing_ok=True)


def _announce(kernel: Kernel, runner: Runner, judged: Judgement) -> None:
    why = [str(reason) for reason in judged.reasons]
    facts = {"label": kernel.label, "op": kernel.op, "target": kernel.target, "files": 1}
    runner.journal.write("begin", **facts, why=why)
    runner.say("; ".join([f"kernel:{kernel.label}: compiling with CuTe-DSL", *why[:1]]))


def _build(kernel: Kernel, runner: Runner) -> BuiltObject:
    """Ask FlashInfer. Raises KernelFailure, EnvironmentProblem."""
    plan = runner.plan
    request = request_for(kernel.target, {0: (kernel.op, kernel.given)})
    env, what = plan.environment(kernel.target), f"how it compiled {kernel.name}"
    answer = interpreter.ask(plan.server.python, _SCRIPT, BuiltObjects, env, what, request=request)
    (one,) = answer["kernels"]
    if "error" in one:
        raise KernelFailure(f"{kernel.label}: {one['error']['message']}")
    found: list[BuiltObject] = one["objects"]
    return found[0]
