"""Part of ahead_of_time.py: are modules the files that were packaged, and does the dynamic loader take them?

Standard library, torch and the installed FlashInfer. What may crash runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

WHEEL = "fitasks_kernels"
_DRIVER = "libcuda.so.1"


class UnusableError(Exception):
    """FlashInfer cannot be asked; the text says what is wrong and what would be right."""


def faults(libraries: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with the files that were found, each in a sentence. Raises UnusableError."""
    found = {library: altered(library) for library in sorted(libraries)}
    whole = [library for library, problem in found.items() if not problem]
    if whole:
        with processes("loading kernels") as pool:
            found |= pool.submit(load, whole).result()
    return {library: problem for library, problem in found.items() if problem}


def altered(library: Path) -> str:
    """How a file of our wheel differs from what was packaged; "" if it doesn't, or is somebody else's."""
    said = _packaged(library)
    if not said:
        return ""
    content = library.read_bytes()
    if len(content) != said["size"]:
        return f"has {len(content)} bytes, {said['size']} by the wheel's manifest"
    digest = hashlib.sha256(content).hexdigest()
    return "" if digest == said["sha256"] else f"is altered: {digest[:12]}, {said['sha256'][:12]} by the manifest"


def _packaged(library: Path) -> dict[str, Any]:
    """What our wheel's manifest says of a file, {} for somebody else's."""
    if len(library.parts) < 4 or library.parents[2].name != WHEEL:
        return {}
    return _manifest(library.parents[2]).get((library.parents[1].name, library.parent.name), {})


@functools.lru_cache
def _manifest(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    data = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    return {(one["directory"], one["name"]): one for one in data["kernels"] if "sha256" in one}


def load(libraries: Sequence[Path]) -> dict[Path, str]:
    """In a process of its own: what the dynamic loader has against each, with torch and FlashInfer as in a server."""
    import_flashinfer()
    return {library: _refused(str(library), _packaged(library).get("needed", ())) for library in libraries}


def _refused(library: str, needed: Iterable[str]) -> str:
    """Why it can't be loaded; "" if it can. Where the driver is missing, of all that it needs beside that."""
    try:
        ctypes.CDLL(library, os.RTLD_LAZY | os.RTLD_LOCAL)  # as tvm_ffi.load_module does
    except OSError as error:
        if not str(error).startswith(f"{_DRIVER}: "):
            return f"can't be loaded: {error}"
        return next(filter(None, (_refused(name, ()) for name in needed if name != _DRIVER)), "")
    return ""


@contextlib.contextmanager
def processes(doing: str) -> Iterator[ProcessPoolExecutor]:
    """Two at once, each for one question. Raises UnusableError where one dies."""
    try:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            yield pool
    except BrokenProcessPool:
        raise UnusableError(f"{sys.executable} dies while {doing}") from None


def import_flashinfer() -> str:
    """As a server that may not compile does; its version. Raises UnusableError."""
    os.environ["FLASHINFER_DISABLE_JIT"] = "1"
    try:
        with _device_questions_answered():
            import flashinfer.jit
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a provider for another version raises up to 0.7.0; a package may also exit
        text = " ".join(str(error).split())[:400]
        raise UnusableError(f"import flashinfer fails in {sys.executable}: {type(error).__name__}: {text}") from None
    return str(flashinfer.__version__)


@contextlib.contextmanager
def _device_questions_answered() -> Iterator[None]:
    """Let torch.cuda.get_device_properties fail with RuntimeError, as a CUDA torch without a GPU does.

    flashinfer/gdn_kernels/gdn_decode_bf16_state.py (0.6.8-0.6.11, 0.6.14-0.7.0) asks at import and swallows that;
    a CPU-only torch raises AssertionError.
    """
    import torch

    original = torch.cuda.get_device_properties

    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except AssertionError as error:
            raise RuntimeError(str(error)) from None

    torch.cuda.get_device_properties = answer
    try:
        yield
    finally:
        torch.cuda.get_device_properties = original
