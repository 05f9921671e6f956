"""Which directory of SGLang's content-addressed cache a module of its JIT has, and what a server would find there.

SGLang 0.5.23's own code makes the key and judges (sglang/kernels/jit/utils/compile: loader.load_jit, cache.py):

    <cache>/sm90a/<module>/build-<key before compiling>/deps-<key of every file that was read>/<module>.so

The first key covers flags, paths, sources, packages' versions and what nvcc and c++ answer to --version ("unknown" for
one that can't be started). A directory deps-… is a hit where each file of its own list, the system's and the toolkit's
headers among them, is there now with the same content; the library itself isn't looked at before it is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import plan_sglang
from cute_device import Untold
from plan_errors import FatalError, PlanError, one_line
from plan_parameters import arguments_for
from plan_spec import explained, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMPILE = "sglang.kernels.jit.utils.compile"
_LOADER = ("kernels", "jit", "utils", "compile", "loader.py")
_PARTS = {
    "loader": ("load_jit", "_find_prebuilt", "_load", "ninja", "envs", "_LOCK_FILE"),
    "ninja": ("build", "generate"),
    "cache": (
        "find_prebuilt",
        "commit_build",
        "cache_root",
        "_read_deps",
        "_refresh",
        "_environment_fingerprint",
        "_deps_key",
        "_DepEntry",
        "_DEPS_FILE",
        "_DEPS_KEY_PREFIX",
        "_MAX_LEAVES_SCANNED",
    ),
    "toolchain": ("device_compiler_path", "host_compiler_path", "toolkit_home"),
}
_VARIABLES = ("CUDA_HOME", "CUDA_PATH", "CXX")
_HEADER = struct.Struct("<40xQ10xHH")  # of a 64-bit ELF file: e_shoff, e_shentsize, e_shnum


class Asked(NamedTuple):
    """A module as load_jit asks for it: SGLang's BuildSpec, and the directory build-…."""

    spec: Any
    scope: Path


class _Used(BaseException):
    """A function has gone on to use its module. BaseException, so that nothing between makes the best of it."""


class Loaded:
    """Stands for a module."""

    def __getattr__(self, _name: str) -> Any:
        raise _Used


def is_installed() -> bool:
    """Whether this SGLang keeps the modules of its JIT by content."""
    try:
        places = importlib.import_module("sglang").__path__
    except KeyboardInterrupt:
        raise
    except BaseException:  # whoever calls it next is told why
        return False
    return any(Path(place, *_LOADER).is_file() for place in places)


def part(name: str) -> Any:
    """A module of SGLang's `compile`. Raises FatalError where SGLang has none, or one of another form."""
    try:
        module = importlib.import_module(f"{_COMPILE}.{name}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        message = f"no content-addressed JIT of SGLang can be asked here: {one_line(error)}"
        raise FatalError("no_sglang", message, "use it with SGLang 0.5.23 or one like it") from error
    if missing := [one for one in _PARTS[name] if not hasattr(module, one)]:
        message = f"this SGLang keeps its modules in a way that isn't known: {module.__name__} has no {missing[0]}"
        raise FatalError("unsupported", message, "use SGLang 0.5.23 or one like it")
    return module


def environment(capability: tuple[int, int]) -> dict[str, Any]:
    """What all modules have in common: where they are kept, for what, and what a server `needs` to find them."""
    cache, toolkit = part("cache"), part("toolchain").toolkit_home()
    part("loader"), part("ninja")
    with standing_in(capability), plan_sglang.silent(), replaced(subprocess, "check_output", _hear):
        fingerprint, target = cache._environment_fingerprint(), cache._target_tag()
    return {
        "cache": str(cache.cache_root()),
        "target": target,
        "fingerprint": fingerprint,
        "needs": {
            "compilers": compilers(),
            "variables": {name: os.environ.get(name) for name in _VARIABLES},
            "linked": toolkit != toolkit.resolve(),
            "roots": {name: str(root) for name, root in cache._anchor_roots()},
        },
    }


def unlike(environment: dict[str, Any], architecture: str) -> str:
    """That SGLang compiles for another architecture than the one that is named; "" where it doesn't."""
    target = f"sm{architecture.replace('.', '')}"
    said = environment["target"]
    return "" if said == target else f"this SGLang compiles for {said} on such a GPU, not for {target}"


_ask = subprocess.check_output
_heard: dict[str, str] = {}  # what compilers answered to SGLang: that text is part of its key


def _hear(command: list[str], **more: Any) -> Any:
    answer = _ask(command, **more)
    _heard[command[0]] = answer
    return answer


def compilers() -> dict[str, dict[str, str | None]]:
    """By what they are: the name that SGLang calls them by, and what they say, None of one that doesn't answer."""
    toolchain = part("toolchain")
    named = {"nvcc": toolchain.device_compiler_path(), "c++": toolchain.host_compiler_path()}
    return {name: {"path": path, "says": _heard.get(path)} for name, path in named.items()}


@contextlib.contextmanager
def standing_in(capability: tuple[int, int]) -> Iterator[None]:
    """torch.cuda answers as with a GPU of this capability, and refuses what a capability doesn't tell."""
    import torch

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise Untold("it depends on more of the GPU than its compute capability")

    with plan_sglang.gpu(capability), replaced(torch.cuda, "get_device_properties", refuse):
        yield


def find(op: str, params: dict[str, Any], *, recorded: bool) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that an entry names, out of its cache, and its arguments. Raises PlanError."""
    function = plan_sglang.find_function(op, recorded=recorded)
    return function, arguments_for(function, params)


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Call it until it uses its module. Raises PlanError.

    One that calls itself finds itself out of its cache, too, which would keep what stands for a module (kvcache.py).
    """
    itself = replaced(sys.modules[function.__module__], function.__name__, function)
    with itself, explained(function.__name__), contextlib.suppress(_Used):
        try:
            function(**arguments)
        except Untold as error:
            raise PlanError("device", f"{function.__name__}: {error}") from None


@contextlib.contextmanager
def noting(asked: list[Asked], find_prebuilt: Callable[..., Any], load: Callable[[Path], Any]) -> Iterator[None]:
    """Let load_jit ask and load in these ways; each module that it is asked for is noted once."""
    loader = part("loader")

    def noted(*, spec: Any, scope: Path) -> Any:
        one = Asked(spec, scope)
        if one not in asked:
            asked.append(one)
        return find_prebuilt(spec=spec, scope=scope)

    with replaced(loader, "_find_prebuilt", noted), replaced(loader, "_load", load):
        yield


def only(asked: list[Asked], function: Callable[..., Any]) -> Asked:
    """The one module that was asked for. Raises PlanError."""
    if len(asked) != 1:
        raise PlanError("generator", f"{function.__name__} makes {len(asked)} modules through load_jit, not one")
    return asked[0]


def asked_for(op: str, params: dict[str, Any], recorded: bool) -> tuple[Callable[..., Any], dict[str, Any], Asked]:
    """An op's function, its arguments, and the module that they ask load_jit for. Raises PlanError."""
    function, arguments = find(op, params, recorded=recorded)
    asked: list[Asked] = []
    with noting(asked, find_prebuilt=lambda **_asked: Path(), load=lambda _library: Loaded()):
        call(function, arguments)
    return function, arguments, only(asked, function)


def record(asked: Asked) -> dict[str, Any]:
    """What there is of a module. Nothing is written: SGLang marks a leaf that it finds as used."""
    cache, name = part("cache"), asked.spec.module_name
    with replaced(os, "utime", lambda *_args, **_kwargs: None):
        found = part("loader").cache.find_prebuilt(scope=asked.scope, module_name=name)
    return {
        "kind": "sglang-keyed",
        "name": name,
        "directory": str(asked.scope),
        "key": asked.scope.name.partition("-")[2],
        "lock": str(asked.scope / part("loader")._LOCK_FILE),
        "sources": list(asked.spec.sources),
        "found": found is not None,
        "forced": bool(cache.envs.SGLANG_JIT_FORCE_RECOMPILE.get()),
        "library": str(found or ""),
        "whole": found is not None and is_whole(found),
        "read": _read(found.parent) if found else {},
        "changed": [] if found else _changed(asked.scope),
        "other_keys": _others(asked.scope),
    }


def is_whole(library: Path) -> bool:
    """Whether the section headers, the end of what a linker writes, are there. SGLang asks for a file's name only."""
    try:
        with library.open("rb") as file:
            head = file.read(64)
            start, size, number = _HEADER.unpack(head[: _HEADER.size])
            return head[:5] == b"\x7fELF\x02" and 0 < start + size * number <= os.fstat(file.fileno()).st_size
    except (OSError, struct.error):
        return False


def _read(leaf: Path) -> dict[str, int]:
    """How many files below each root a server must have as they were: {"kernels": 9, "sys": 300}."""
    return dict(Counter(entry.root for entry in part("cache")._read_deps(leaf) or ()))


def _changed(scope: Path) -> list[str]:
    """Files that keep the newest leaf from being found, as SGLang names them: ["kernels:include/x.cuh"]."""
    leaves = sorted(_directories(scope, "deps-"), key=lambda path: path.stat().st_mtime)
    entries = part("cache")._read_deps(leaves[-1]) if leaves else None
    return list(part("cache")._refresh(entries)[1]) if entries else []


def _others(scope: Path) -> list[str]:
    """Keys under which the module is kept, too: of other compilers, flags, packages or sources."""
    return [path.name.partition("-")[2] for path in _directories(scope.parent, "build-") if path != scope]


def _directories(parent: Path, prefix: str) -> list[Path]:
    return sorted(parent.glob(f"{prefix}*")) if parent.is_dir() else []
