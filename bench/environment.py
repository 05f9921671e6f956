"""What several benchmarks give a process as its environment."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def exports(lines: str, env: Mapping[str, str]) -> dict[str, str]:
    """The variables of what `doit env` prints, as a shell with that environment would set them."""
    words = [word for line in lines.splitlines() if line.startswith("export ") for word in shlex.split(line)[1:]]
    pairs = (word.partition("=") for word in words)
    return {name: value.replace("$PATH", env.get("PATH", "")) for name, _, value in pairs}


def bare_path(directory: Path, *more: str) -> str:
    """For PATH: a new directory with what Python itself needs, and `more`; no nvcc, ninja or host compiler.

    Triton's keys have what platform.architecture() says, which asks `file`: without it, it compiles its launcher again.
    """
    directory.mkdir()
    for name in ("sh", "uname", "file", "which", "ldconfig", "env", *more):
        if found := shutil.which(name, path=f"{os.environ['PATH']}:/sbin:/usr/sbin"):
            (directory / name).symlink_to(found)
    return str(directory)
