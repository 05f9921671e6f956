"""Notes what toolchains beside FlashInfer's nvcc compile in a server: SGLang's own JIT, Triton, CuTe-DSL, TileLang.

Each function is given a module that has just been executed, before anybody could import a name from it.
"""

from __future__ import annotations

import functools
import sys
import time
from _thread import get_ident

import fitasks_lines
import fitasks_origin
from fitasks_quietly import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_compiling: set[int] = set()  # threads whose load_jit didn't find a library


def sglang_kernels(loader: Any, trace: str) -> None:
    """sglang.kernels.jit.utils.compile.loader (SGLang 0.5.23): what is built goes through `ninja.build`."""
    loader.ninja.build = _marking(loader.ninja.build)
    loader.load_jit = _watching(loader.load_jit, trace)


def sglang_jit_kernel(compile_: Any, trace: str) -> None:
    """sglang.jit_kernel.utils.compile (SGLang 0.5.16): what isn't there yet is built in `_jit_compile_context`."""
    compile_._jit_compile_context = _marking(compile_._jit_compile_context)
    compile_.load_jit = _watching(compile_.load_jit, trace)


def _marking(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        _compiling.add(get_ident())
        return function(*args, **kwargs)

    return marked


def _watching(load_jit: Callable[..., Any], trace: str) -> Callable[..., Any]:
    @functools.wraps(load_jit)
    def watched(*args: Any, **kwargs: Any) -> Any:
        told = quietly(_begun_sglang, args, sys._getframe(1), trace)
        begin, failed = time.perf_counter(), True
        _compiling.discard(get_ident())
        try:
            module = load_jit(*args, **kwargs)
            failed = False
            return module
        finally:
            how = "failed" if failed else "compiled" if get_ident() in _compiling else "cached"
            quietly(_note_sglang, told, how, time.perf_counter() - begin, trace)

    return watched


def _begun_sglang(args: Sequence[Any], frame: Any, trace: str) -> tuple[str, fitasks_lines.Origin]:
    """Its name, as its directory's begins, without the hash of its sources; and who asks for it."""
    origin = fitasks_origin.of_function(frame, "sglang.", "_jit_")
    name = "_".join(["sgl_kernel_jit", *map(str, args)])
    fitasks_lines.begun(trace, name, "sglang-jit", origin=origin)
    return name, origin


def _note_sglang(told: tuple[str, fitasks_lines.Origin], how: str, seconds: float, trace: str) -> None:
    name, origin = told
    fitasks_lines.write(trace, name, "sglang-jit", how, seconds=seconds, origin=origin)


def triton(knobs: Any, trace: str) -> None:
    """triton.knobs, since 3.4: its own listener, with another's behind it; Inductor's kernels for GPUs pass it, too."""
    theirs = knobs.compilation.listener

    def listener(**said: Any) -> Any:
        quietly(_note_triton, said, trace)
        return theirs(**said) if theirs else None

    knobs.compilation.listener = listener


def _note_triton(said: dict[str, Any], trace: str) -> None:
    how = "cached" if said["cache_hit"] else "compiled"
    fitasks_lines.write(trace, str(said["src"].name), "triton", how, seconds=said["times"].total / 1e6)


def cute(module: Any, trace: str) -> None:
    """cutlass.cute: `cute.compile(f, …)` and `cute.compile[options](f, …)`, which keep nothing."""
    module.compile = _Compile(module.compile, trace)


class _Compile:
    """Stands for cute.compile, with everything else that it is."""

    def __init__(self, theirs: Any, trace: str) -> None:
        self._theirs, self._trace = theirs, trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def __getitem__(self, options: Any) -> _Compile:
        return _Compile(self._theirs[options], self._trace)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        quietly(self._note, args, "begun")
        begin, failed = time.perf_counter(), True
        try:
            result = self._theirs(*args, **kwargs)
            failed = False
            return result
        finally:
            quietly(self._note, args, "failed" if failed else "compiled", time.perf_counter() - begin)

    def _note(self, args: Sequence[Any], how: str, seconds: float = 0.0) -> None:
        """Unless it is for a module that FlashInfer keeps, of which there is a line of its own."""
        notes = sys.modules.get("fitasks_notes")
        if notes is not None and notes.is_loading():
            return
        compiled = args[0] if args else None
        name = getattr(compiled, "__qualname__", type(compiled).__qualname__)
        fitasks_lines.write(self._trace, name, "cute-dsl-in-memory", how, seconds=seconds)


def tilelang(kernel: Any, trace: str) -> None:
    """tilelang.jit.kernel: what is compiled passes one method of JITKernel, what its cache has the other."""
    kind = kernel.JITKernel
    kind._compile_and_create_adapter = _watching_tilelang(kind._compile_and_create_adapter, "compiled", trace)
    found = kind.from_database.__func__
    kind.from_database = classmethod(_watching_tilelang(found, "cached", trace))


def _watching_tilelang(theirs: Callable[..., Any], how: str, trace: str) -> Callable[..., Any]:
    @functools.wraps(theirs)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        func = kwargs.get("func", *args[:1])
        if how == "compiled":
            quietly(_note_tilelang, func, "begun", 0.0, trace)
        begin, failed = time.perf_counter(), True
        try:
            result = theirs(self, *args, **kwargs)
            failed = False
            return result
        finally:
            quietly(_note_tilelang, func, "failed" if failed else how, time.perf_counter() - begin, trace)

    return watched


def _note_tilelang(func: Any, how: str, seconds: float, trace: str) -> None:
    """By the name that TileLang prints when it compiles."""
    fitasks_lines.write(trace, str(func.attrs["global_symbol"]), "tilelang", how, seconds=seconds)
