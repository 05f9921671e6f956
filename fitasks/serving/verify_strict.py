"""Makes FlashInfer refuse to compile, and notes what it loads: a hidden compile must fail a check, not pass it.

FlashInfer runs ninja before every load of a cached module. Here ninja is asked instead (`-n`, over copies of its
logs, because a newer one deletes an older one's); if it has work to do, HiddenCompileError names the module.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

LOADED: list[str] = []  # names of the modules that FlashInfer has loaded since the list was cleared


class HiddenCompileError(Exception):
    """FlashInfer would have compiled a module; `name` says which, `why` what ninja says."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} would be compiled: {why}")
        self.name = name


def install() -> None:
    """Before anything is loaded. JitSpec is one class up to 0.6.15, a family of them from 0.6.16 on."""
    from flashinfer.jit import core

    for spec in {core.JitSpec, getattr(core, "JitSpecNvcc", core.JitSpec)}:
        if "build" in vars(spec) and not getattr(spec.build, "__isabstractmethod__", False):
            spec.build = _refuse
        if "load" in vars(spec) and not getattr(spec.load, "__isabstractmethod__", False):
            spec.load = _noting(spec.load)


def _refuse(spec: Any, *_args: Any, **_kwargs: Any) -> None:
    if why := _work(Path(spec.jit_library_path).parent, Path(spec.ninja_path)):
        raise HiddenCompileError(spec.name, why)


def _noting(load: Any) -> Any:
    @functools.wraps(load)
    def noted(spec: Any, *args: Any, **kwargs: Any) -> Any:
        LOADED.append(spec.name)
        return load(spec, *args, **kwargs)

    return noted


def _work(build_dir: Path, ninja_file: Path) -> str:
    """The first reason why ninja would do something; "" if it has no work."""
    if not ninja_file.exists():
        return "it was never built"
    with tempfile.TemporaryDirectory(prefix="fitasks-verify-") as scratch:
        for name in (".ninja_log", ".ninja_deps"):
            if (build_dir / name).exists():
                shutil.copy2(build_dir / name, scratch)
        command = ["ninja", "-n", "-d", "explain", "-C", scratch, "-f", str(ninja_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ninja: no work to do." in done.stdout:
        return ""
    said = [line for line in done.stderr.splitlines() if line.startswith("ninja explain: ")]
    return (said or done.stderr.splitlines() or ["ninja has work to do"])[0].removeprefix("ninja explain: ")
