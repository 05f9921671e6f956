"""What a directory of FlashInfer's cached_ops holds: each toolchain has a layout of its own.

    page/                       build.ninja, .ninja_log, .ninja_deps, *.o, page.so     nvcc, by way of ninja
    <op>_<arch>_cute_dsl/       meta.json and *.o, one for each kernel                 CuTe-DSL (jit/cute_dsl_core.py)
    kda_tirx_<hash>/            kernel.so, kernel.json                                 TIRx (kda_kernels/tirx/cache.py)
    tmp/                        locks

Whoever removes anything there asks here first, and leaves what shows no marks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Toolchain = Literal["nvcc", "cute-dsl", "tirx", ""]

_META = "meta.json"
_NINJAS = (".ninja_", "build.ninja", ".build.ninja.")  # its logs, its build file, and what FlashInfer writes that as
_OURS = ("fitasks-", ".fitasks-")  # receipt, begun, proof; parts of a build, and what they are written as
# jit/attention/modules.py of 0.7.2.post1: what stands behind one and the same list of parameters
_STRIDES = re.compile(r"(_paged)?_kv_stride_(equal|independent)$")
_HOPPER = "_sm90"
_BUILT = frozenset({".o", ".so", ".d", ".rsp"})


def toolchain_of(directory: Path) -> Toolchain:
    """Return which toolchain's module this is, by the marks that it leaves; "" where it shows none."""
    names = _names(directory)
    if _META in names:
        return "cute-dsl"
    if {"kernel.so", "kernel.json"} <= names:
        return "tirx"
    marked = any(name.startswith((*_NINJAS, *_OURS)) for name in names)
    return "nvcc" if marked or f"{directory.name}.so" in names else ""


def toolchain_named(name: str) -> Toolchain:
    """Return which toolchain makes a module of this name, as logs say it: `page`, `<op>_<arch>_cute_dsl/<kernel>`."""
    if name.partition("/")[0].endswith("_cute_dsl"):
        return "cute-dsl"
    return "tirx" if name.startswith("kda_tirx_") else "nvcc"


def object_of(name: str) -> str:
    """Return the file below cached_ops that a build of this module leaves: `page/page.so`."""
    made = {"cute-dsl": f"{name}.o", "tirx": f"{name}/kernel.so"}
    return made.get(toolchain_named(name), f"{name}/{name}.so")


def variant(name: str) -> tuple[str, bool]:
    """Return what a module's name says of its parameters, and whether it is Hopper's: fa2 and fa3 say the same."""
    base = _STRIDES.sub("", name)
    return base.removesuffix(_HOPPER), base.endswith(_HOPPER)


def strangers(directory: Path) -> list[str]:
    """Return the names in an nvcc module's directory that no build of it leaves there."""
    return sorted(name for name in _names(directory) if not _of_a_build(directory / name))


def _of_a_build(path: Path) -> bool:
    if path.name.startswith((*_NINJAS, *_OURS)):
        return True
    return path.suffix in _BUILT and not path.is_dir()


def _names(directory: Path) -> set[str]:
    try:
        return {entry.name for entry in directory.iterdir()}
    except OSError:
        return set()
