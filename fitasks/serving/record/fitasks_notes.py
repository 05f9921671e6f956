"""One JSON line for each FlashInfer module that this process generates or loads (format: fitasks/trace/model.py).

Three methods are wrapped: JitSpecRegistry.register, which every nvcc module passes (also where modules imported
gen_jit_spec by name), JitSpec.build_and_load, and `build` of each kind of spec. Which generator was called with what is
read from the call stack (fitasks_origin.py): nothing of FlashInfer's generators, which are cached functions, is
replaced. Imported when flashinfer.jit.core has been.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from _thread import get_ident

import fitasks_lines
import fitasks_origin
from fitasks_quietly import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_trace = ""
_loading: dict[tuple[int, int], str] = {}  # (thread, spec) inside build_and_load → what its build did, "" before one


def wrap(core: Any, trace: str) -> None:
    """Wrap what all modules pass; lines go to `trace`, an absolute path."""
    global _trace
    _trace = trace
    register, load = core.JitSpecRegistry.register, core.JitSpec.build_and_load

    @functools.wraps(register)
    def registered(self: Any, spec: Any, *args: Any, **kwargs: Any) -> Any:
        result = register(self, spec, *args, **kwargs)
        quietly(_generated, spec, sys._getframe(1))
        return result

    @functools.wraps(load)
    def loaded(self: Any, *args: Any, **kwargs: Any) -> Any:
        quietly(_watch_build, type(self))
        quietly(_begun, self, sys._getframe(1))
        key, begin, failed = (get_ident(), id(self)), time.perf_counter(), True
        _loading[key] = ""
        try:
            module = load(self, *args, **kwargs)
            failed = False
            return module
        finally:
            seconds = time.perf_counter() - begin
            built = _loading.pop(key, "")
            quietly(_loaded, self, "failed" if failed else built, seconds, sys._getframe(1))

    core.JitSpecRegistry.register, core.JitSpec.build_and_load = registered, loaded
    _watch_build(getattr(core, "JitSpecNvcc", core.JitSpec))  # one class up to 0.6.15


def is_loading() -> bool:
    """Whether this thread is inside FlashInfer's build_and_load, which tells its own story."""
    return any(thread == get_ident() for thread, _ in list(_loading))


def _watch_build(kind: Any) -> None:
    """Let `build` of this class tell what it did: to its build_and_load, or as a line where it is called alone."""
    build = vars(kind).get("build")
    if build is None or hasattr(build, "_fitasks"):
        return

    @functools.wraps(build)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (get_ident(), id(self)) not in _loading:
            quietly(_begun, self, sys._getframe(1))
        # The state is taken here, since build_and_load first waits for a process that may be compiling the same.
        before, begin, failed = quietly(_state, self), time.perf_counter(), True
        try:
            result = build(self, *args, **kwargs)
            failed = False
            return result
        finally:
            seconds = time.perf_counter() - begin
            quietly(_built, self, before, seconds, sys._getframe(1), failed=failed)

    watched._fitasks = True  # type: ignore[attr-defined]
    kind.build = watched


def _state(spec: Any) -> tuple[int, int, int] | None:
    """The identity of what a build makes; ninja leaves it alone when it has nothing to do. None if there is none."""
    path = getattr(spec, "jit_library_path", None)  # nvcc: get_library_path() is the AOT artefact, if there is one
    try:
        stat = os.stat(path if path is not None else spec.get_library_path())
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _built(spec: Any, before: Any, seconds: float, frame: Any, *, failed: bool) -> None:
    how = "failed" if failed else "cached" if before is not None and before == _state(spec) else "compiled"
    key = (get_ident(), id(spec))
    if key in _loading:
        _loading[key] = how
    else:
        _note(spec, _origin_of(spec, frame), how, seconds)


def _generated(spec: Any, frame: Any) -> None:
    _note(spec, _origin_of(spec, frame), "generated", 0.0)


def _begun(spec: Any, frame: Any) -> None:
    """Before the lock, too, for which a process may wait while another one compiles."""
    fitasks_lines.begun(_trace, str(spec.name), _kind(spec), origin=_origin_of(spec, frame))


def _loaded(spec: Any, how: str, seconds: float, frame: Any) -> None:
    without_build = "ahead-of-time" if _kind(spec) == "nvcc" else "cached"
    _note(spec, _origin_of(spec, frame), how or without_build, seconds)


def _origin_of(spec: Any, frame: Any) -> Any:
    """(generator, arguments, unsaid), found once: who loads a spec is seldom who generated it."""
    if not hasattr(spec, "_fitasks_origin"):
        find = fitasks_origin.of_kernel if _kind(spec) == "cute-dsl" else fitasks_origin.origin
        spec._fitasks_origin = find(frame)
    return spec._fitasks_origin


def _kind(spec: Any) -> str:
    if hasattr(type(spec), "jit_library_path"):
        return "nvcc"
    return "cute-dsl" if "CuteDsl" in type(spec).__name__ else "other"


def _note(spec: Any, origin: Any, how: str, seconds: float) -> None:
    fitasks_lines.write(_trace, str(spec.name), _kind(spec), how, seconds=seconds, origin=origin)
