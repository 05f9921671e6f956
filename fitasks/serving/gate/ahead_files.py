"""Part of ahead_of_time.py: are modules the files that were packaged, and does the dynamic loader take them?

Standard library, torch and the installed FlashInfer. What may crash runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import json
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

WHEEL = "fitasks_kernels"
_DRIVER = "libcuda.so.1"
_OWN = re.compile(r": undefined symbol: _ZN[KV]*10flashinfer")


class UnusableError(Exception):
    """FlashInfer cannot be asked; the text says what is wrong and what would be right."""


def faults(libraries: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with the files that were found, each in a sentence. Raises UnusableError."""
    found = {library: altered(library) for library in sorted(libraries)}
    whole = [library for library, problem in found.items() if not problem]
    if whole:
        found |= apart("loading kernels", load, whole)
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
    file = root / "manifest.json"
    try:
        kernels = json.loads(file.read_text(encoding="utf-8"))["kernels"]
        return {(str(one["directory"]), str(one["name"])): dict(one) for one in kernels if "sha256" in one}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnusableError(f"{file} is damaged ({error!r:.200}): install the wheel again") from None


def load(libraries: Sequence[Path]) -> dict[Path, str]:
    """In a process of its own: what the dynamic loader has against each, with torch and FlashInfer as in a server."""
    import_flashinfer()
    abi = _abi()
    return {library: _other_abi(library, abi) or _refused(str(library), _packaged(library)) for library in libraries}


def refused(library: Path) -> str:
    """Why the dynamic loader doesn't take a library of which nothing else is known; "" if it does."""
    return _refused(str(library), {})


def _refused(library: str, said: dict[str, Any]) -> str:
    """Why it can't be loaded, every symbol bound; "" if it can.

    Of one that lacks the driver, what else it lacks; so, too, of one that lacks a function of FlashInfer's own, which
    its dispatch names and no source makes: late binding never asks for it.
    """
    try:
        ctypes.CDLL(library, os.RTLD_NOW | os.RTLD_LOCAL)  # tvm_ffi binds late: the process would die at a call
    except OSError as error:
        if not str(error).startswith(f"{_DRIVER}: ") and not _OWN.search(str(error)):
            return f"can't be loaded: {error}"
        needed = [name for name in said.get("needed", ()) if name != _DRIVER]
        return next(filter(None, (_refused(name, {}) for name in needed)), "") or _unbound(needed, said)
    return ""


def _unbound(needed: Iterable[str], said: dict[str, Any]) -> str:
    """The symbols that nothing has, by the manifest (older ones don't say), but for those called as the driver's."""
    scopes = [ctypes.CDLL(None), *(ctypes.CDLL(name) for name in needed)]
    symbols = [symbol for symbol in said.get("required", ()) if not re.match(r"cu[A-Z]", symbol)]
    absent = [symbol for symbol in symbols if not any(_has(scope._handle, symbol) for scope in scopes)]
    return f"can't be loaded: undefined symbol: {', '.join(absent)}" if absent else ""


def _has(handle: int, symbol: str) -> bool:
    """Whether the loader finds "name@version" or "name" there (dlsym(3)); the address of one may be 0."""
    name, _, version = (part.encode() for part in symbol.partition("@"))
    libc = ctypes.CDLL(None)
    for function in (libc.dlsym, libc.dlvsym, libc.dlerror):
        function.restype = ctypes.c_void_p
    libc.dlerror()
    words = [ctypes.c_void_p(handle), ctypes.c_char_p(name), *([ctypes.c_char_p(version)] if version else [])]
    return bool((libc.dlvsym if version else libc.dlsym)(*words)) or not libc.dlerror()


def _other_abi(library: Path, abi: tuple[int, ...]) -> str:
    """Why a file of our wheel isn't for this tvm-ffi. Before 1.0 minor versions break its ABI (tvm-ffi's README)."""
    made_for = _made_for(library.parents[2]) if _packaged(library) else ()
    if not made_for or not abi or made_for[: 1 + (abi[0] == 0)] == abi[: 1 + (abi[0] == 0)]:
        return ""
    words = [".".join(map(str, version)) for version in (made_for, abi)]
    return f"was compiled against tvm-ffi {words[0]}, whose ABI isn't that of libtvm_ffi {words[1]} here"


@functools.lru_cache
def _made_for(root: Path) -> tuple[int, ...]:
    said = str(json.loads((root / "manifest.json").read_text(encoding="utf-8")).get("tvm_ffi_abi", ""))
    return tuple(map(int, said.split("."))) if re.fullmatch(r"\d+\.\d+\.\d+", said) else ()


def _abi() -> tuple[int, ...]:
    """The version of the C ABI that this process's libtvm_ffi has; () where it can't be asked."""
    numbers = (ctypes.c_uint32 * 3)()
    try:
        ctypes.CDLL(None).TVMFFIGetVersion(numbers)
    except AttributeError:
        return ()
    return tuple(numbers)


def apart(doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own. Raises UnusableError where that dies."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise UnusableError(f"{sys.executable} dies while {doing}") from None


def import_flashinfer() -> str:
    """As a server that may not compile does; its version. Raises UnusableError."""
    os.environ["FLASHINFER_DISABLE_JIT"] = "1"
    gc.disable()  # it would look at all that is imported again and again
    try:
        with _device_questions_answered():
            import flashinfer.jit
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a provider for another version raises up to 0.7.0; a package may also exit
        text = " ".join(str(error).split())[:400]
        raise UnusableError(f"import flashinfer fails in {sys.executable}: {type(error).__name__}: {text}") from None
    gc.freeze()  # nor at exit
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
