"""Which variables of the builder's environment a server must have too, by what the installed packages' sources read.

FlashInfer takes compilers, launchers and flags from the environment, makes them part of ninja's commands, and compiles
again where the commands differ. Its versions read different ones (FLASHINFER_NVCC_LAUNCHER came with 0.6.15), so its
own Python is looked through for them; nothing is imported.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.plan.caches import sglang_base
from fitasks.plan.server import QUIET
from fitasks.server.sm90_switch import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fitasks.plan.server import Server

COMMANDS = ("jit", "compilation_context.py")  # what of FlashInfer makes names, places and commands
_SOURCES = ("data/csrc", "data/include")  # its own C++, without the libraries that it brings
_ENGINES = ("vllm", "sglang")
_PACKAGES = ("flashinfer", "torch", "tvm_ffi", "flashinfer_jit_cache", "fitasks_kernels")

_NAME = "[A-Z][A-Z0-9_]*[A-Z0-9]"
_READ = re.compile(
    rf"""(?:environ(?:\.(?:get|pop|setdefault))?|getenv)\s*[\[(]\s*["']({_NAME})["']"""
    rf"""|["']({_NAME})["']\s+(?:not\s+)?in\s+(?:\w+\.)?_?environ"""
)
# A file that reads names out of variables ("environ.get(name)") reads those that are handed to a call or assigned.
_BY_VARIABLE = re.compile(r"(?:environ(?:\.\w+)?|getenv)\s*[\[(]\s*[a-z_]\w*\s*[,)\]]")
_HANDED = re.compile(rf"""[(=,]\s*["']({_NAME})["'](?!\s*:)""")

# Read where commands are made, and no part of them: the toolkit and the target, which are chosen by then and have
# lines and reasons of their own; how many compilers run; and where FlashInfer says what it compiled.
_NO_PART = QUIET | {
    "CUDA_HOME",
    "CUDA_PATH",
    "MAX_JOBS",
    "FLASHINFER_JIT_BUILD_LOG",
    "FLASHINFER_JIT_PREBUILD_MAX_JOBS",
    VARIABLE,
}


@cache
def variables_read(place: Path, suffix: str = ".py") -> frozenset[str]:
    """Names of the environment variables that a source file, or all below a directory, read."""
    files = sorted(place.rglob(f"*{suffix}")) if place.is_dir() else [place]
    return frozenset[str]().union(*map(_read_by, files))


def _read_by(file: Path) -> set[str]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    if "environ" not in text and "getenv" not in text:
        return set()
    handed = _HANDED.findall(text) if _BY_VARIABLE.search(text) else []
    return {one or other for one, other in _READ.findall(text)} | set(handed)


def package(server: Server, name: str) -> Path | None:
    """The directory of an installed package; None where it isn't in site-packages."""
    return next((site / name for site in server.site_packages if (site / name / "__init__.py").is_file()), None)


def in_commands(server: Server) -> dict[str, str]:
    """The set variables that are part of FlashInfer's commands, or of where it looks for what they made.

    Where its source can't be read, every FLASHINFER_* variable, CC and CXX.
    """
    root = package(server, "flashinfer")
    read = variables_of_commands(root) if root else frozenset({"CC", "CXX"})
    chosen = (name for name in server.env if name in read or (not root and name.startswith("FLASHINFER_")))
    return _values(server, {*chosen, *_of_engine(server), *_of_python(server)})


def variables_of_commands(root: Path) -> frozenset[str]:
    """Names that the `flashinfer` package in `root` reads where it makes names, places and commands."""
    return frozenset[str]().union(*(variables_read(root / part) for part in COMMANDS))


def _of_engine(server: Server) -> Iterator[str]:
    """SGLANG_CACHE_DIR moves FlashInfer's caches, unless something else does."""
    if server.engine == "sglang" and server.env.get("FLASHINFER_WORKSPACE_BASE") == sglang_base(server.env):
        yield "SGLANG_CACHE_DIR"


def _of_python(server: Server) -> Iterator[str]:
    """PYTHONPATH where what is planned with comes from it."""
    entries = (Path(entry) for entry in server.env.get("PYTHONPATH", "").split(":") if entry)
    if any((entry / name).is_dir() for entry in entries for name in _PACKAGES):
        yield "PYTHONPATH"


def in_choices(server: Server) -> dict[str, str]:
    """The set FLASHINFER_* variables that the rest of FlashInfer reads: they may decide which module is loaded."""
    root = package(server, "flashinfer")
    left = _left(server, root) if root else set()
    return _values(server, left & variables_read(root) if root and left else left)


def _left(server: Server, root: Path) -> set[str]:
    return {name for name in server.env if name.startswith("FLASHINFER_")} - variables_of_commands(root) - _NO_PART


def _values(server: Server, names: Collection[str]) -> dict[str, str]:
    given = {name: server.env[name] for name in sorted(names) if name in server.env and name not in _NO_PART}
    base = given.get("FLASHINFER_WORKSPACE_BASE")
    if server.engine == "sglang" and base == sglang_base(server.env):
        del given["FLASHINFER_WORKSPACE_BASE"]  # the server's own `import sglang` sets it
    return given


def read_by_nobody(server: Server) -> list[str]:
    """The set FLASHINFER_* variables that neither FlashInfer's sources nor an installed engine's read."""
    root = package(server, "flashinfer")
    left = _left(server, root) if root else set()
    if not root or not left:
        return []
    left -= variables_read(root)
    for place in (*(root / name for name in _SOURCES), *filter(None, (package(server, one) for one in _ENGINES))):
        suffixes = (".py",) if place.name in _ENGINES else (".cu", ".cuh", ".h", ".hpp", ".cpp")
        for suffix in suffixes if left else ():
            left -= variables_read(place, suffix)
    return sorted(left)
