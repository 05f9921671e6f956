"""Plans modules of SGLang's own JIT: which directory of tvm-ffi's a server would load, built how.

Functions of SGLang's, most called `_jit_…_module(…)`, make a module with its `load_jit`, which loads the library that
is there or has tvm_ffi.cpp write sources and a build.ninja, run ninja and load (sglang/jit_kernel/utils/compile.py of
0.5.16, tvm_ffi/cpp/extension.py of 0.1.9 to 0.1.15). Such a function is called here with tvm_ffi's last steps caught:
nothing is written, compiled or loaded. SGLang compiles for the GPU of the process alone, so that a target must be one
architecture; with no GPU here torch's answers about one stand in for it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_errors import PlanError, did_you_mean, near, one_line
from plan_parameters import arguments_for, as_json
from plan_sources import callers, defines
from plan_spec import confined, generate, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = "sglang"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
MAKER = "load_jit"  # what every function calls that makes a module
_ONE = re.compile(r"(\d+)\.(\d+)[a-z]?")


class _Caught:
    """What tvm_ffi.cpp was about to do: the arguments of its build.ninja, and the texts of files."""

    def __init__(self) -> None:
        self.builds: list[dict[str, Any]] = []
        self.texts: dict[str, str] = {}


def is_sglangs(op: str) -> bool:
    """Whether the words name something of SGLang's."""
    return f"{op.partition(':')[0]}.".startswith(f"{PACKAGE}.")


def planned(op: str, params: dict[str, Any], *, recorded: bool) -> dict[str, Any]:
    """One module as a record of the response. Raises PlanError."""
    capability = capability_of(target())
    function = find_function(op, recorded=recorded)
    arguments = arguments_for(function, params)
    with gpu(capability), confined() if recorded else contextlib.nullcontext():
        caught = _call(function, arguments)
    return {**_record(op, caught), "generator": op, "params": as_json(function, arguments)}


def target() -> str:
    """The target that is planned for."""
    return os.environ.get("FLASHINFER_CUDA_ARCH_LIST", "")


def capability_of(target: str) -> tuple[int, int]:
    """Of the target's GPU. Raises PlanError for a target of several."""
    one = _ONE.fullmatch(target)
    if one is None:
        message = f"SGLang compiles for one GPU at a time, and the target is {target!r}"
        raise PlanError("generator", f"{message}; write a target for each architecture, and `targets:` of the entry")
    return int(one[1]), int(one[2])


def find_function(op: str, *, recorded: bool) -> Callable[..., Any]:
    """The function that an entry names, out of its cache. Raises PlanError."""
    module_name, _, name = op.partition(":")
    _import(PACKAGE)
    if not _NAME.fullmatch(op) or (recorded and not _is_maker(module_name, name)):
        raise _no_maker(op)
    module = _import(module_name)
    function = inspect.unwrap(getattr(module, name, find_function))
    if getattr(function, "__module__", "") != module_name or not inspect.isfunction(function):
        known = sorted(callers(module_name, MAKER))
        suggestion = near(name, known)
        message = f"unknown op; {module_name} has no function {name}{did_you_mean(suggestion)}"
        raise PlanError("unknown_op", message, accepted=known, suggestion=suggestion and f"{module_name}:{suggestion}")
    if not _is_maker(module_name, name):
        raise _no_maker(op)
    return function


def _is_maker(module: str, name: str) -> bool:
    """Whether it is a function that makes a module, by the module's source or by its name."""
    return name in callers(module, MAKER) or (name.startswith("_jit_") and defines(module, name))


def _no_maker(op: str) -> PlanError:
    return PlanError("unknown_op", f"{op} is no function of SGLang that makes a module: those call {MAKER}")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PlanError("unknown_op", f"unknown op; {name} cannot be imported here: {one_line(error)}") from error


@contextlib.contextmanager
def gpu(capability: tuple[int, int]) -> Iterator[None]:
    """torch.cuda answers as with a GPU of the target, as far as SGLang asks (utils/arch.py)."""
    import torch

    answers = {"current_device": lambda: 0, "get_device_capability": lambda *_args, **_kwargs: capability}
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(replaced(torch.cuda, name, answer))
        yield


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> _Caught:
    """Call it; what it does after its module was made doesn't matter. Raises PlanError."""
    caught = _Caught()
    with _catching(caught):
        try:
            generate(function, **arguments)
        except PlanError:
            if not caught.builds:
                raise
    if len(caught.builds) != 1:
        number = len(caught.builds)
        raise PlanError("generator", f"{function.__name__} makes {number} modules through tvm_ffi.cpp, not one")
    return caught


@contextlib.contextmanager
def _catching(caught: _Caught) -> Iterator[None]:
    """tvm_ffi.cpp without its last steps. Raises PlanError where this tvm-ffi has others."""
    import tvm_ffi

    extension: Any = importlib.import_module("tvm_ffi.cpp.extension")
    steps = {
        "_maybe_write": lambda path, text: caught.texts.update({str(path): text}),
        "build_ninja": lambda *_args, **_kwargs: None,
        "load_module": _refuse_to_load,
        "FileLock": lambda *_args: contextlib.nullcontext(),
        "_generate_ninja_build": _noting(caught, getattr(extension, "_generate_ninja_build", None)),
    }
    if missing := [name for name in steps if not hasattr(extension, name)]:
        raise PlanError("generator", f"tvm-ffi {tvm_ffi.__version__} builds in a way that isn't known: no {missing[0]}")
    with contextlib.ExitStack() as stack:
        for name, step in steps.items():
            stack.enter_context(replaced(extension, name, step))
        stack.enter_context(replaced(tvm_ffi, "load_module", _refuse_to_load))
        stack.enter_context(replaced(Path, "mkdir", lambda *_args, **_kwargs: None))
        stack.enter_context(silent())
        yield


def _noting(caught: _Caught, generate: Any) -> Callable[..., str]:
    def noting(*args: Any, **kwargs: Any) -> str:
        text: str = generate(*args, **kwargs)
        caught.builds.append({**inspect.signature(generate).bind(*args, **kwargs).arguments, "ninja": text})
        return text

    return noting


def _refuse_to_load(*_args: Any, **_kwargs: Any) -> None:
    """A library that is there would be loaded; without it SGLang goes on to build."""
    raise RuntimeError("nothing is loaded while planning")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """SGLang warns of a library that it can't load, which it is we who see to."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _record(op: str, caught: _Caught) -> dict[str, Any]:
    """What a build needs. Raises PlanError for a build that isn't SGLang's usual one."""
    (build,) = caught.builds
    written = [path for path in caught.texts if path.endswith("/build.ninja")]
    if len(written) != 1 or build.get("embed_cubin") or build.get("output"):
        raise PlanError("generator", f"{op} is built in a way that isn't known")
    directory, name = written[0].rpartition("/")[0], build["name"]
    return {
        "kind": PACKAGE,
        "name": name,
        "build_dir": directory,
        "library": f"{directory}/{name}.so",
        "ninja_file": written[0],
        "ninja": build["ninja"],
        "lock": f"{directory}/lock",
        "sources": [str(source) for source in build["sources"]],
        "texts": {path: text for path, text in caught.texts.items() if path in build["sources"]},
        "generated": sorted(caught.texts),
        "aot": [],
    }
