"""FlashInfer kernels, compiled ahead of time by fitasks; `manifest.json` says which, and for which FlashInfer.

They are offered to that very version alone: to any other, FlashInfer goes on as if this package weren't installed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parent


@functools.cache
def manifest() -> dict[str, Any]:
    """All that is said of this package's kernels."""
    return dict(json.loads((ROOT / "manifest.json").read_bytes()))


def running() -> str:
    """The version of the FlashInfer that asks. While it is being imported, its version module is all there is."""
    module = sys.modules.get("flashinfer.version")
    return str(module.__version__) if module else importlib.metadata.version("flashinfer-python")


def mismatch() -> str:
    """Why the FlashInfer that asks gets nothing; "" where it is the one that these kernels were compiled for."""
    made_for, asking = manifest()["flashinfer"], running()
    if made_for == asking:
        return ""
    return f"{manifest()['distribution']} was made for FlashInfer {made_for}, this is {asking}: make a new wheel"


def offer(provider_id: str) -> dict[str, Any]:
    """One provider as FlashInfer 0.7's shim asks for it. Raises RuntimeError, which the shim logs, on a mismatch.

    `version` is the shim's: FlashInfer wants all providers to have it, down to the local part (`+cu130`) that names
    the CUDA release of its own ones.
    """
    if problem := mismatch():
        raise RuntimeError(problem)
    provider = manifest()["providers"][provider_id]
    shim = sys.modules.get("flashinfer_jit_cache")
    return {
        **provider,
        "version": getattr(shim, "__version__", running()),
        "jit_cache_dir": str(ROOT / provider["directory"]),
    }


def directory(targets: Iterable[str]) -> str:
    """For FlashInfer up to 0.6, which asks for one directory: that for exactly these GPUs, else one that runs on all.

    "" where there is none, or on a mismatch; that FlashInfer checks no architecture itself.
    """
    wanted = set(targets)
    if mismatch() or not wanted:
        return ""
    found = manifest()["directories"]
    fitting = [
        name for name, has in found.items() if all(any(runs_on(binary, gpu) for binary in has) for gpu in wanted)
    ]
    return next((str(ROOT / name) for name in sorted(fitting, key=lambda name: set(found[name]) != wanted)), "")


def runs_on(binary: str, gpu: str) -> bool:
    """Can machine code for `binary` ("sm90a", "sm80") run on `gpu`? FlashInfer's rule (jit/_cuda_architecture.py)."""
    major, minor, suffix = _parts(binary)
    gpu_major, gpu_minor, _ = _parts(gpu)
    if suffix == "a":
        return (major, minor) == (gpu_major, gpu_minor)
    return binary == gpu or (major == gpu_major and minor <= gpu_minor)


def _parts(architecture: str) -> tuple[int, int, str]:
    found = re.fullmatch(r"sm(\d{1,2})(\d)([af]?)", architecture)
    if found is None:
        raise ValueError(f"no GPU architecture: {architecture!r}")
    return int(found[1]), int(found[2]), found[3]


def __getattr__(name: str) -> Callable[[], dict[str, Any]]:
    """A factory for each provider: entry points name one, and can't pass it arguments."""
    provider_id = name.replace("_", "-")
    if provider_id.startswith("provider-") and provider_id.removeprefix("provider-") in manifest()["providers"]:
        return functools.partial(offer, provider_id.removeprefix("provider-"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
