"""One JSON line for each FlashInfer module that this process generates or loads (format: fitasks/trace/model.py).

Three methods are wrapped: JitSpecRegistry.register, which every nvcc module passes (also where modules imported
gen_jit_spec by name), JitSpec.build_and_load, and `build` of each kind of spec. Which generator was called with what is
read from the call stack (fitasks_origin.py): nothing of FlashInfer's generators, which are cached functions, is
replaced. Imported when flashinfer.jit.core has been.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from _thread import get_ident

import fitasks_origin
from fitasks_quietly import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST = 4000  # bytes of a line: one write of less than a page isn't torn by another process's
_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "SGLANG_TP_RANK", "VLLM_DP_RANK")
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


def _watch_build(kind: Any) -> None:
    """Let `build` of this class tell what it did: to its build_and_load, or as a line where it is called alone."""
    build = vars(kind).get("build")
    if build is None or hasattr(build, "_fitasks"):
        return

    @functools.wraps(build)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
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


def _loaded(spec: Any, how: str, seconds: float, frame: Any) -> None:
    without_build = "ahead-of-time" if _kind(spec) == "nvcc" else "cached"
    _note(spec, _origin_of(spec, frame), how or without_build, seconds)


def _origin_of(spec: Any, frame: Any) -> Any:
    """(generator, arguments, unsaid), found once: who loads a spec is seldom who generated it."""
    if not hasattr(spec, "_fitasks_origin"):
        spec._fitasks_origin = fitasks_origin.origin(frame)
    return spec._fitasks_origin


def _kind(spec: Any) -> str:
    if hasattr(type(spec), "jit_library_path"):
        return "nvcc"
    return "cute-dsl" if "CuteDsl" in type(spec).__name__ else "other"


def _note(spec: Any, origin: Any, how: str, seconds: float) -> None:
    generator, arguments, unsaid = origin
    record = {
        "version": 1,
        "name": str(spec.name),
        "generator": generator,
        "arguments": arguments,
        "unsaid": unsaid,
        "kind": _kind(spec),
        "how": how,
        "seconds": round(seconds, 3),
        "time": round(time.time(), 3),
        "pid": os.getpid(),
        "rank": _rank(),
        "flashinfer": str(_said_by("flashinfer.version", "__version__")),
        "architectures": getattr(_said_by("flashinfer.jit.env", "FLASHINFER_WORKSPACE_DIR"), "name", ""),
    }
    line = json.dumps(record)
    if len(line) >= _LONGEST:
        line = json.dumps(dict(record, arguments={}, unsaid="its arguments are too long to be noted"))
    descriptor = os.open(_trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def _said_by(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, "")


def _rank() -> str:
    """RANK, or what torch.distributed says: engines seldom set the variable for workers that they spawn."""
    if os.environ.get("RANK"):
        return os.environ["RANK"]
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return str(distributed.get_rank())
    except Exception:
        return ""
    return next((os.environ[name] for name in _RANKS if os.environ.get(name)), "")
