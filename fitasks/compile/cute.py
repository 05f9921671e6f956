"""Compiling a CuTe-DSL object: FlashInfer's own build_and_load.

FlashInfer takes the family's lock, wipes a family of another key, and publishes the object and meta.json by rename.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fitasks.base.answers import BuiltObjects
from fitasks.base.errors import KernelFailure
from fitasks.compile import made
from fitasks.compile.made import Made
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel

_SCRIPT = interpreter.SCRIPTS / "plan" / "cute_build.py"


def build(kernel: Kernel, runner: Runner) -> Made:
    """Have FlashInfer compile it. Raises KernelFailure, EnvironmentProblem."""
    with _aside(kernel):
        built = made.ask(kernel, runner, _SCRIPT, BuiltObjects)["objects"][0]
    if built["how"] == "failed" or built["path"] != str(kernel.library):
        raise KernelFailure(f"{kernel.label}: {built['message'] or 'FlashInfer made another object'}")
    return Made(built["sha256"], built["size"], built["seconds"], kernel.meta)


@contextlib.contextmanager
def _aside(kernel: Kernel) -> Iterator[None]:
    """An object that is in the way goes aside, for FlashInfer would load it, and comes back if none takes its place."""
    aside = kernel.library.with_suffix(".fitasks-aside")
    if kernel.library.exists():
        kernel.library.replace(aside)
    try:
        yield
    finally:
        if aside.exists() and not kernel.library.exists():
            aside.replace(kernel.library)
        aside.unlink(missing_ok=True)
