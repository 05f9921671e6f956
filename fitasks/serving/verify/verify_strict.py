"""Makes FlashInfer refuse to compile, and notes what it loads: a hidden compile must fail a check, not pass it.

FlashInfer writes build.ninja where its text differs, and runs ninja before every load of a cached module. Here ninja is
asked instead (`-n`, over copies of its logs, because a newer one deletes an older one's) about the text that FlashInfer
would write; if it has work to do, HiddenCompileError names the module.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

LOADED: list[str] = []  # names of the modules that FlashInfer has loaded since the list was cleared
REFUSED: dict[str, str] = {}  # modules that it would have compiled since it was cleared, and why

_LOCK = 60.0  # seconds to wait for somebody who compiles the module at this moment


class HiddenCompileError(Exception):
    """FlashInfer would have compiled a module; `name` says which, `why` what ninja says."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} would be compiled: {why}")
        self.name = name


def install() -> None:
    """Before anything is loaded. JitSpec is one class up to 0.6.15, a family of them from 0.6.16 on."""
    from flashinfer.jit import core

    with contextlib.suppress(AttributeError):
        core.FileLock = functools.partial(core.FileLock, timeout=_LOCK)
    for spec in {core.JitSpec, *core.JitSpec.__subclasses__()}:
        if "build" in vars(spec) and not getattr(spec.build, "__isabstractmethod__", False):
            spec.build = _refuse
        if "load" in vars(spec) and not getattr(spec.load, "__isabstractmethod__", False):
            spec.load = _noting(spec.load)


def _refuse(spec: Any, *_args: Any, **_kwargs: Any) -> None:
    text = _ninja_text(spec)
    why = work(Path(spec.jit_library_path).parent, text) if text else "CuTe-DSL compiles it when it is first needed"
    if why:
        REFUSED[spec.name] = why
        raise HiddenCompileError(spec.name, why)


def _ninja_text(spec: Any) -> str:
    """What FlashInfer would write before it runs ninja; "" for a kernel that isn't nvcc's."""
    from flashinfer.jit import core

    written: list[str] = []
    if hasattr(spec, "write_ninja"):
        keep, core.write_if_different = core.write_if_different, lambda _path, text: written.append(text)
        try:
            spec.write_ninja()
        finally:
            core.write_if_different = keep
    return "".join(written)


def _noting(load: Any) -> Any:
    @functools.wraps(load)
    def noted(spec: Any, *args: Any, **kwargs: Any) -> Any:
        LOADED.append(spec.name)
        return load(spec, *args, **kwargs)

    return noted


def work(build_dir: Path, text: str) -> str:
    """The first reason why ninja would do something with a build file of this text; "" if it has no work."""
    with tempfile.TemporaryDirectory(prefix="fitasks-verify-") as scratch:
        ninja_file = Path(scratch, "build.ninja")
        ninja_file.write_text(text, encoding="utf-8")
        for name in (".ninja_log", ".ninja_deps"):
            if (build_dir / name).exists():
                shutil.copy2(build_dir / name, scratch)
        command = ["ninja", "-n", "-d", "explain", "-C", scratch, "-f", str(ninja_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ninja: no work to do." in done.stdout:
        return ""
    said = [line for line in done.stderr.splitlines() if line.startswith("ninja explain: ")]
    return (said or done.stderr.splitlines() or ["ninja has work to do"])[0].removeprefix("ninja explain: ")
