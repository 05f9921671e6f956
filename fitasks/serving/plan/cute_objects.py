"""Which object of FlashInfer's CuTe-DSL disk cache a function loads or makes, and whether what is there is valid.

FlashInfer's own code names, locates and judges the objects (jit/cute_dsl_core.py: JitSpecCuteDsl). It is stopped where
it would load or compile.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cute_device import Untold
from plan_errors import FatalError, PlanError, one_line
from plan_spec import explained, modules_refused, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cute_content import Sources

_DISABLED = "FLASHINFER_CUTE_DSL_DISABLE_CACHE"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXCERPT = re.compile(r"\s*(>\s*)?(\d+\s*)?\|")
_KEEPS_NONE = "FlashInfer keeps no object of it on disk: each process of a server compiles it anew, in memory"


class _Used(BaseException):
    """A function has gone on to use its kernel. BaseException, so that nothing between makes the best of it."""


class _InMemory(BaseException):
    """A function compiles something that no object is kept of."""


def core() -> Any:
    """flashinfer.jit.cute_dsl_core. Raises FatalError where FlashInfer has none, or can't use it."""
    try:
        import cutlass.cute as _cute  # noqa: F401
        from flashinfer.jit import cute_dsl_core
    except Exception as error:
        message = f"no CuTe-DSL kernels can be made here: {one_line(error)}"
        raise FatalError("no_cute_dsl", message, "install the nvidia-cutlass-dsl that FlashInfer asks for") from error
    return cute_dsl_core


def objects_of(function: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    """FlashInfer's own specs of all objects that a call would load or make; nothing is loaded, made or written.

    Raises PlanError where it compiles in memory only, or fails.
    """
    specs: list[Any] = []

    def collect(spec: Any) -> _StandIn:
        specs.append(spec)
        return _StandIn(spec)

    kind = core().JitSpecCuteDsl
    caught = [replaced(kind, name, collect) for name in ("build_and_load", "compile_and_persist")]
    with caught[0], caught[1]:
        result = call(function, arguments)
    kept = [one.spec for one in _flat(result) if isinstance(one, _StandIn)]  # a function within is cached
    return specs or kept or refuse(function)


def call(function: Callable[..., Any], arguments: dict[str, Any], allowed: Callable[[], bool] = bool) -> Any:
    """What a function returns, if it doesn't go on to use its kernels. Raises PlanError.

    It may compile only while that is `allowed`: what is compiled elsewhere is lost with this process.
    """
    from cutlass import cute

    kind = type(cute.compile)
    theirs = kind.__call__

    def compile_(*args: Any, **kwargs: Any) -> Any:
        if allowed():
            return theirs(*args, **kwargs)
        raise _InMemory

    with explained(_where(function), _said), modules_refused():
        try:
            with replaced(kind, "__call__", compile_):
                return function(**arguments)
        except _Used:
            return None
        except Untold as error:
            raise PlanError("device", f"{_where(function)}: {error}") from None
        except _InMemory:
            raise PlanError("in_memory", f"{_where(function)}: {_why_in_memory()}") from None


def _said(error: BaseException) -> str:
    """One line of what an exception says, without CuTe-DSL's colours and excerpts of source."""
    lines = _COLOUR.sub("", str(error)).splitlines()
    text = " ".join(" ".join(line.split()) for line in lines if line.strip() and not _EXCERPT.match(line))
    return f"{type(error).__name__}: {text[:800]}" if text else type(error).__name__


def refuse(function: Callable[..., Any]) -> list[Any]:
    """Raise the PlanError of a function that made nothing."""
    raise PlanError("generator", f"{_where(function)} makes no CuTe-DSL kernel with these parameters")


def _flat(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__name__}"


def _why_in_memory() -> str:
    if core().cute_dsl_cache_disabled():
        return f"{_DISABLED}=1 is set, so that each process of a server compiles it anew, in memory"
    return _KEEPS_NONE


class _StandIn:
    """Stands for a kernel: a function may hand it on, and keep it."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise _Used

    def __getattr__(self, _name: str) -> Any:
        raise _Used


def object_record(spec: Any, sources: Sources) -> dict[str, Any]:
    """What there is to say of one object; `valid` by FlashInfer's own rule, `differs` what keeps it from being so."""
    return {
        "name": str(spec.name),
        "family": str(spec.module_name),
        "kernel": str(spec.kernel_name),
        "directory": str(spec.module_dir),
        "path": str(spec.object_path),
        "meta": str(spec.meta_path),
        "lock": str(_lock(spec)),
        "expected": dict(spec.expected_meta),
        "sources": sources.of(spec),
        "valid": bool(spec.is_compiled),
        "there": Path(spec.object_path).exists(),
        "differs": _differs(spec),
    }


def _lock(spec: Any) -> Any:
    """FlashInfer makes the lock's directory when it is asked for the path."""
    with replaced(Path, "mkdir", lambda *_args, **_kwargs: None):
        return spec.lock_path


def _differs(spec: Any) -> dict[str, list[Any]]:
    """{"cute_dsl_version": [found, expected]} of a meta.json that is of something else; empty where there is none."""
    found = sys.modules[type(spec).__module__]._read_meta(spec.meta_path)
    if not isinstance(found, dict):
        return {}
    keys = sorted({*found, *spec.expected_meta})
    both = {key: [found.get(key), spec.expected_meta.get(key)] for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def loads(spec: Any) -> dict[str, Any]:
    """Whether FlashInfer takes what is there: its whole rule, which loads the object. `why` is what it says if not."""
    said: list[str] = []
    with warnings_kept(said):
        return {"loads": spec.try_load() is not None, "why": "; ".join(said)}


class _Keeping(logging.Handler):
    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(" ".join(record.getMessage().split())[:400])


@contextlib.contextmanager
def warnings_kept(kept: list[str]) -> Iterator[None]:
    """Keep what FlashInfer warns of meanwhile: it goes on where it can't read or write an object."""
    handler, logger = _Keeping(kept), core().logger
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
