"""Part of ahead_of_time.py: modules of SGLang's own JIT, which SGLang 0.5.16 loads from its cache and nowhere else.

Standard library, torch and the installed tvm-ffi. No SGLang: a library that lies in the directory of the right name is
loaded as it is (load_jit of sglang/jit_kernel/utils/compile.py).
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ahead_files import UnusableError, apart, refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KIND = "sglang"
_VARIABLE, _DEFAULT = "TVM_FFI_CACHE_DIR", "~/.cache/tvm-ffi"
_VERSION = "__tvmffi_"  # ends a directory's name: sgl_kernel_jit_…__arch_9.0a__tvmffi_0.1.11


@dataclass(frozen=True)
class Module:
    """A module as it was built: its directory's name in the cache, and its library's SHA-256; both "" if it wasn't."""

    name: str
    directory: str
    sha256: str

    @property
    def library(self) -> Path:
        """Where SGLang looks for it here. Raises UnusableError."""
        return cache() / self.directory / f"{self.name}.so"


def module(kernel: dict[str, Any]) -> Module:
    """What `doit check --json` says of one. Raises ValueError, KeyError."""
    name, library, digest = str(kernel["name"]), Path(str(kernel["library"])), str(kernel["sha256"])
    if not name.isprintable() or not str(library).isprintable() or (digest and library.name != f"{name}.so"):
        raise ValueError(f"{library} is no library of {name!r}")
    return Module(name, library.parent.name if digest else "", digest)


def cache() -> Path:
    """The directory that this environment leads SGLang to. Raises UnusableError where there is no home."""
    try:
        return Path(os.environ.get(_VARIABLE, _DEFAULT)).expanduser()
    except RuntimeError as error:
        raise UnusableError(f"{_VARIABLE} is not set, and {_DEFAULT} is nowhere: {error}") from None


def faults(modules: Iterable[Module]) -> dict[Module, str]:
    """Each module with a sentence that says why SGLang wouldn't load it as it was built; "" if it would.

    Raises UnusableError. Equal versions of tvm-ffi have one ABI: the headers come with the library.
    """
    modules = list(modules)
    if not modules:
        return {}
    version = apart("importing tvm_ffi", _import)
    found = {one: _misplaced(one, version) or _altered(one) for one in modules}
    whole = [one for one in modules if not found[one]]
    refused = refusals([one.library for one in whole]) if whole else {}
    return found | {one: f"{one.library} {refused[one.library]}" for one in whole if refused[one.library]}


def refusals(libraries: Sequence[Path]) -> dict[Path, str]:
    """What the dynamic loader has against each, beside torch and libtvm_ffi; "" where nothing. Raises UnusableError."""
    found: dict[Path, str] = apart("loading SGLang's modules", _load, libraries)
    return found


def _misplaced(one: Module, version: str) -> str:
    """Why SGLang wouldn't look where the library is, or wouldn't find it there."""
    if not one.sha256:
        return f"{one.name}: was not finished where the list was made; run doit, then doit check --json there"
    made_for = one.directory.rpartition(_VERSION)[2]
    if made_for != version:
        return f"{one.name}: was compiled with tvm-ffi {made_for}, SGLang looks for one of {version}, which is here"
    if one.library.is_file():
        return ""
    how = f"{_VARIABLE}={os.environ[_VARIABLE]}" if _VARIABLE in os.environ else f"{_VARIABLE} is not set"
    return f"{one.name}: {one.library} is missing ({how})"


def _altered(one: Module) -> str:
    try:
        digest = hashlib.sha256(one.library.read_bytes()).hexdigest()
    except OSError as error:
        return f"{one.library} can't be read: {error.strerror}"
    return "" if digest == one.sha256 else f"{one.library} is altered: {digest[:12]}, {one.sha256[:12]} as it was built"


def _import() -> str:
    """In a process of its own, as SGLang does before it loads: torch, which brings libcudart, and libtvm_ffi."""
    gc.disable()  # it would look at all that is imported again and again
    for name in ("torch", "tvm_ffi"):
        try:
            imported = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = " ".join(str(error).split())[:400]
            raise UnusableError(f"import {name} fails in {sys.executable}: {type(error).__name__}: {text}") from None
    gc.freeze()  # nor at exit
    return str(imported.__version__)


def _load(libraries: Sequence[Path]) -> dict[Path, str]:
    """In a process of its own: what the dynamic loader has against each."""
    _import()
    return {library: refused(library) for library in libraries}
