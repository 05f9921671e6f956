"""The receipt beside what an engine's own code builds in one go: CuTe-DSL objects, SGLang's modules kept by content.

It says what was made; what it was made from, the engine's own key and list say. It goes with the directory that the
engine publishes into, and may wipe.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fitasks.base import memo
from fitasks.base.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.kernel import Kernel

VERSION = 1
SHORT = 12  # digits of a hash that people compare
SUFFIX = ".fitasks.json"


@dataclass(frozen=True)
class EngineReceipt:
    """What was built: `meta` is JSON, the key that it was published under; `seconds` of the compiler."""

    name: str
    sha256: str
    size: int
    meta: str
    seconds: float
    built: str  # UTC, ISO 8601
    version: int = VERSION


def path_of(kernel: Kernel) -> Path:
    """Where the receipt lies."""
    return kernel.library.with_suffix(SUFFIX)


def read(kernel: Kernel) -> EngineReceipt | None:
    """The receipt; None where there is none that can be believed."""
    return read_file(path_of(kernel), kernel.name)


def read_file(path: Path, name: str) -> EngineReceipt | None:
    """The receipt in this file, of what has this name; None where there is none that can be believed."""
    data: dict[str, Any] | None = memo.read(path, EngineReceipt)
    if data is None or (data["version"], data["name"]) != (VERSION, name):
        return None
    return EngineReceipt(**data) if _is_json(data["meta"]) else None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def write(kernel: Kernel, receipt: EngineReceipt) -> None:
    """Vouch for what was built; the last step of its build."""
    write_atomic(path_of(kernel), memo.sealed(asdict(receipt), indent=1))
