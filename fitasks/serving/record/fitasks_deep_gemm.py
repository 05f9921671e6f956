"""Notes what DeepGEMM compiles in a server: its C++ does, inside the first call of an operation for a new shape.

The package's Python calls the C++, `_C`, by name: a pybind11 module (vllm.third_party.deep_gemm 2.8.1), one of tvm-ffi
(sgl-deep-gemm 0.1.4), or torch's operators (0.2.5). A call that took long has compiled if there is a new directory in
DeepGEMM's cache, where each kernel has one; one that took no time is not looked into.
"""

from __future__ import annotations

import os
import sys
import time

import fitasks_lines
import torch
from fitasks_quietly import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_KIND = "deep-gemm"
_SHORTEST = 0.05  # seconds; a launch takes microseconds, a compile seconds
_VARIABLES = ("DG_JIT_CACHE_DIR", "DJ_JIT_CACHE_DIR")  # of several directories, the first is written to
_DEFAULTS = ("~/.deep_gemm", "~/.dj")  # earlier versions, and later ones


def wrap(package: Any, trace: str) -> None:
    """deep_gemm: what it calls `_C` by, and what it has imported from there, in it and below it."""
    theirs, name = package._C, package.__name__
    ours = _Native(theirs, trace)
    for known, module in list(sys.modules.items()):
        inside = known == name or known.startswith(f"{name}.")
        if inside and isinstance(module, type(sys)) and module is not theirs:
            _replace(vars(module), theirs, ours)


def _replace(names: dict[str, Any], theirs: Any, ours: _Native) -> None:
    for name, value in list(names.items()):
        if value is theirs:
            names[name] = ours
        elif _is_native(value) and getattr(theirs, name, None) is value:
            names[name] = getattr(ours, name)


def _is_native(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not hasattr(value, "__code__")


class _Native:
    """Stands for `_C`: everything that it is, with functions that tell."""

    def __init__(self, theirs: Any, trace: str) -> None:
        self._theirs, self._trace = theirs, trace

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._theirs, name)
        if not _is_native(value) or _is_traced():
            return value
        watched = _watching(name, value, self._trace)
        setattr(self, name, watched)
        return watched


def _watching(name: str, theirs: Callable[..., Any], trace: str) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        if _is_traced():
            return theirs(*args, **kwargs)
        said = quietly(fitasks_lines.begun_if_long, trace, name, _KIND)
        begin, failed = time.perf_counter(), True
        try:
            result = theirs(*args, **kwargs)
            failed = False
            return result
        finally:
            seconds = time.perf_counter() - begin
            if seconds >= _SHORTEST:
                quietly(_note, name, seconds, trace, failed=failed)
            if said or seconds >= _SHORTEST:
                quietly(fitasks_lines.over, trace, name, _KIND, said=said, short=seconds < _SHORTEST)

    return watched


def _is_traced() -> bool:
    """Whether torch.compile is looking at these lines, which has no use for clocks."""
    return bool(torch.compiler.is_compiling())


def _note(name: str, seconds: float, trace: str, *, failed: bool) -> None:
    """Under the kernel's own name, if it is the only new one; another process may have made some, too."""
    made = [] if failed else list(_made(time.time() - seconds))
    if made or failed:
        how = "failed" if failed else "compiled"
        fitasks_lines.write(trace, made[0] if len(made) == 1 else name, _KIND, how, seconds=seconds)


def _made(since: float) -> Iterator[str]:
    """The kernels that came into its cache since then; a file's time may lag behind by a tick."""
    for place in _caches():
        try:
            with os.scandir(os.path.join(place, "cache")) as entries:
                yield from (entry.name for entry in entries if entry.stat().st_mtime > since - 0.02)
        except OSError:
            continue


def _caches() -> list[str]:
    told = [os.environ[name].split(":")[0] for name in _VARIABLES if os.environ.get(name)]
    return told[:1] or [os.path.expanduser(place) for place in _DEFAULTS]
