"""What FlashInfer writes into FLASHINFER_JIT_BUILD_LOG (since 0.7.4, jit/core.py: _record_jit_build).

    {"toolchain": "nvcc", "name": "page", "seconds": 25.113, "pid": 4711, "time": 1795901000.25}

One line for each build of whichever toolchain, those of a ninja without work too; `prebuild[8 modules]` is the name of
several that are built at once, which aren't named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.border import number, parse_json
from fitasks.base.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "FLASHINFER_JIT_BUILD_LOG"
NAME = "flashinfer_jit_build.jsonl"  # as `doit env` proposes it, in FlashInfer's workspace

_COMPILING = 1.0  # seconds: nvcc compiles nothing in less, and a ninja without work takes less
_WORD = re.compile(r"[\w.+-]{1,255}(/[\w.+-]{1,255})?|[\w.+-]{1,255}\[[^\]\n]{1,255}\]")  # a module, or several at once
_TOOLCHAINS = {"cute_dsl": "cute-dsl"}  # as everything else here calls it


@dataclass(frozen=True)
class Build:
    """One line. `name` is "" where it stands for several modules; `time` is its end, in Unix seconds."""

    toolchain: str
    name: str
    seconds: float
    pid: int
    time: float

    @property
    def compiled(self) -> bool:
        """Whether a compiler ran. Only nvcc's modules are built where nothing is to be done."""
        return self.toolchain != "nvcc" or self.seconds >= _COMPILING


def parse(line: str) -> Build | None:
    """Return what a line says; None for any other line, a torn one too."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        data = parse_json(line, "build log")
        toolchain, name = _word(data["toolchain"]), _word(data["name"])
        numbers = float(number(data["seconds"])), int(number(data["pid"])), float(data["time"])
    except (BadInput, ValueError, KeyError, TypeError, OverflowError):
        return None
    return Build(_TOOLCHAINS.get(toolchain, toolchain), "" if "[" in name else name, *numbers)


def _word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError
    return value


def is_read_by(flashinfer: Path) -> bool:
    """Return whether the FlashInfer in this directory reads the variable."""
    try:
        return VARIABLE in (flashinfer / "jit" / "core.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
