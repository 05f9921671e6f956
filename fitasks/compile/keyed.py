"""Compiling a module that SGLang keeps by content: SGLang's own load_jit.

SGLang takes the module's lock, builds in a directory of its own, and publishes that by rename. What it would find and
no receipt vouches for is thrown away first, under that lock.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.answers import BuiltModules
from fitasks.base.errors import KernelFailure
from fitasks.base.files import is_plain_name
from fitasks.compile import made
from fitasks.compile.failure.diagnose import diagnose
from fitasks.compile.judge.keyed import key_of
from fitasks.compile.made import Made
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from fitasks.base.answers import BuiltModule
    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel

_SCRIPT = interpreter.SCRIPTS / "plan" / "sglang_keyed_build.py"


def build(kernel: Kernel, runner: Runner) -> Made:
    """Have SGLang compile it, and let the planned library lead to what it published. Raises KernelFailure, OSError."""
    kernel.library.unlink(missing_ok=True)
    built: BuiltModule = made.ask(kernel, runner, _SCRIPT, BuiltModules, anew=True)  # type: ignore[assignment]
    if built["directory"] != str(kernel.build_dir):
        raise KernelFailure(
            f"{kernel.label}: SGLang keeps it under {built['directory']}, and {kernel.build_dir} was planned: "
            "compilers, packages or variables have changed since",
            remedy="doit",
        )
    if built["how"] == "failed":
        raise KernelFailure(f"{kernel.label}: {_why(kernel, runner, built)}")
    library = _published(kernel, built["library"])
    link(kernel.library, library)
    return Made(built["sha256"], built["size"], built["seconds"], json.dumps(key_of(library)))


def _why(kernel: Kernel, runner: Runner, built: BuiltModule) -> str:
    """The first that compilers complained of; all that they said is kept as the kernel's log."""
    if not built["log"]:
        return next(iter(built["message"].splitlines()), "") or "SGLang made nothing"
    log, found = runner.log(kernel), diagnose(built["log"], 1)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(built["log"], encoding="utf-8", errors="replace")
    hint = f"\n  hint: {found.hint}" if found.hint else ""
    return f"{found.first_error}{hint}\n  log: {log}"


def _published(kernel: Kernel, said: str) -> Path:
    """The library, in a directory below the planned one. Raises KernelFailure."""
    library = Path(said)
    below = library.parent.parent == kernel.build_dir and library.name == kernel.library.name
    if not (below and is_plain_name(library.parent.name)):
        raise KernelFailure(f"{kernel.label}: SGLang says that it published {said!r}, which isn't what was planned")
    return library


def link(planned: Path, library: Path) -> None:
    """Let the planned library lead there at once, whatever directory the cache is moved to. Our lock is held."""
    beside = planned.with_name(f".{planned.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(library.relative_to(planned.parent))
    beside.replace(planned)
