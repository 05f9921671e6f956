"""Our package of kernels as it is installed: what it says of its files, and of what they were built from."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.files import sha256_file
from fitasks.ship.tvmffi import is_version

if TYPE_CHECKING:
    from pathlib import Path

DISTRIBUTION = "fitasks-kernels"
PACKAGE = "fitasks_kernels"


@dataclass(frozen=True)
class Module:
    """One module as the package was made: SHA-256 and bytes of its file, and its receipt's fingerprint."""

    sha256: str
    size: int
    fingerprint: str


def is_ours(library: Path) -> bool:
    """Whether it lies where our package has its libraries."""
    return len(library.parts) > 3 and library.parents[2].name == PACKAGE


def packaged(library: Path) -> Module | None:
    """What our package says of one of its libraries; None where it says nothing usable."""
    root, key = library.parents[2], (library.parent.parent.name, library.parent.name)
    try:
        said, receipt = _by_key(root / "manifest.json")[key], _by_key(root / "receipts.json")[key]
        return Module(str(said["sha256"]), int(said["size"]), str(receipt["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def built_with(library: Path) -> str:
    """The version of tvm-ffi's C ABI that our package was compiled against, "0.1.16"; "" where it doesn't say."""
    file = library.parents[2] / "manifest.json"
    try:
        said = _built_with(file, file.stat().st_mtime_ns)
    except (OSError, ValueError, AttributeError):
        return ""
    return said if isinstance(said, str) and is_version(said) else ""


def altered(library: Path, module: Module | None) -> str:
    """How the file differs from what was packaged, in a sentence; "" if it doesn't. Without a module nobody knows."""
    if module is None:
        return f"{library} has no usable entry in its package's manifest.json and receipts.json"
    size = library.stat().st_size
    if size != module.size:
        return f"{library} has {size} bytes, {module.size} by its package's manifest"
    digest = sha256_file(library)
    if digest != module.sha256:
        return f"{library} is altered: its hash is {digest[:12]}, {module.sha256[:12]} by its package's manifest"
    return ""


@functools.lru_cache(maxsize=8)
def _built_with(file: Path, _mtime_ns: int) -> object:
    return json.loads(file.read_bytes()).get("tvm_ffi_abi", "")


def _by_key(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return _read(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(file: Path, _mtime_ns: int) -> dict[tuple[str, str], dict[str, Any]]:
    """A file's `kernels` by (directory, name); hundreds of them share it. A newer file is read anew."""
    return {(one["directory"], one["name"]): one for one in json.loads(file.read_bytes())["kernels"]}
