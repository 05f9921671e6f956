"""The serving environment: its packages, the variables that change FlashInfer's commands, its libcudart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.plan.server import find_package
from fitasks.runtime.doctor.finding import Finding
from fitasks.runtime.sm90_switch import VARIABLE, is_installed, is_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.cuda.cudart import Cudart, Runtime
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.errors import FitasksError
    from fitasks.plan.server import Server

_SECTION = "serving environment"
_NEEDED = {"flashinfer-python": "fitasks[flashinfer]", "torch": "torch", "apache-tvm-ffi": "apache-tvm-ffi"}
_OPTIONAL = ("flashinfer-cubin", "flashinfer-jit-cache", "nvidia-cutlass-dsl", "sglang", "vllm")
_TORCH_CUDA = re.compile(r"^cuda\b[^=\n]*= ['\"]([\d.]+)['\"]", re.MULTILINE)

# Variables that become part of ninja's commands (flashinfer/jit/core.py and cpp_ext.py): a cache built with others
# is compiled again.
_COMMANDS = ("CC", "CXX", "FLASHINFER_NVCC", "FLASHINFER_NVCC_THREADS", "FLASHINFER_JIT_LINEINFO")
_EXTRA = "FLASHINFER_EXTRA_"
_INSTALL = "doit install_sm90_switch"


def examine(server: Server, toolkit: Toolkit | None, *, sm90: bool = True) -> Iterator[Finding]:
    """Packages, then what doesn't fit together, then variables; `sm90` is whether Hopper's modules are planned."""
    yield Finding(_SECTION, "python", str(server.python))
    for name, requirement in _NEEDED.items():
        if version := server.version(name):
            yield Finding(_SECTION, name, version)
        else:
            remedy = f"{server.python} -m pip install '{requirement}'"
            yield Finding(_SECTION, name, "not installed", "problem", remedy)
    for name in _OPTIONAL:
        if package := find_package(name, server.site_packages):
            yield _matching(name, package.version, server.version("flashinfer-python"))
    yield from _torch_cuda(server, toolkit)
    yield from _variables(server)
    yield from _switch(server, sm90=sm90)


def _matching(name: str, version: str, flashinfer: str) -> Finding:
    """Packages of FlashInfer's own family must be of its version, or it ignores them or refuses to be imported."""
    if name.startswith("flashinfer-") and version.split("+", maxsplit=1)[0] != flashinfer:
        value = f"{version}, but flashinfer-python is {flashinfer}"
        return Finding(_SECTION, name, value, "problem", f"pip install {name}=={flashinfer}, or uninstall it")
    return Finding(_SECTION, name, version)


def _torch_cuda(server: Server, toolkit: Toolkit | None) -> Iterator[Finding]:
    release = torch_cuda(server.site_packages)
    if not release:
        if server.version("torch"):
            remedy = "enough to compile; a server needs a CUDA build of torch"
            yield Finding(_SECTION, "torch's CUDA", "none (a CPU build)", "note", remedy)
        return
    if toolkit and release.split(".")[0] != toolkit.release.split(".")[0]:
        value = f"{release}, but the toolkit is {toolkit.release}: kernels will need another libcudart than torch loads"
        yield Finding(_SECTION, "torch's CUDA", value, "problem", f"use a CUDA {release.split('.')[0]} toolkit")
        return
    yield Finding(_SECTION, "torch's CUDA", release)


def torch_cuda(site_packages: tuple[Path, ...]) -> str:
    """What torch/version.py says of CUDA, "" for a CPU build or none."""
    for directory in site_packages:
        try:
            found = _TORCH_CUDA.search((directory / "torch" / "version.py").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        return found[1] if found else ""
    return ""


def _variables(server: Server) -> Iterator[Finding]:
    env = server.env
    for name in sorted(env):
        if name in _COMMANDS or name.startswith(_EXTRA):
            remedy = "the server must have the same value, or it compiles everything again"
            yield Finding(_SECTION, name, env[name], "note", remedy)
    if env.get("FLASHINFER_JIT_DEBUG", env.get("FLASHINFER_JIT_VERBOSE")) == "1":
        name = next(name for name in ("FLASHINFER_JIT_DEBUG", "FLASHINFER_JIT_VERBOSE") if name in env)
        remedy = f"unset {name}, or set FLASHINFER_JIT_DEBUG=0: FLASHINFER_JIT_VERBOSE alone turns on debug flags too"
        yield Finding(_SECTION, name, "1: kernels are compiled for debugging (-O0 -G)", "problem", remedy)
    if env.get("FLASHINFER_DISABLE_JIT"):
        remedy = "doit wheel && doit install, or unset it"
        yield Finding(_SECTION, "FLASHINFER_DISABLE_JIT", "only ahead-of-time modules are loaded", "note", remedy)


def _switch(server: Server, *, sm90: bool) -> Iterator[Finding]:
    """The variable without the hook says nothing to FlashInfer; a plan without Hopper's modules needs both."""
    installed, on = is_installed(server.site_directories), is_on(server.env)
    if sm90 and on and not installed:
        yield Finding(_SECTION, VARIABLE, "set, but FlashInfer doesn't read it", "note", _INSTALL)
    if sm90:
        return
    if not installed:
        value = "not installed: a server would choose Hopper's modules, which aren't planned, and compile them"
        yield Finding(_SECTION, "sm90 switch", value, "problem", _INSTALL)
    if not on:
        value = "not set here: without it a server chooses Hopper's modules, which aren't planned"
        yield Finding(_SECTION, VARIABLE, value, "note", f"export {VARIABLE}=1 for the server (`doit env`)")


def examine_cudart(runtime: Runtime) -> Iterator[Finding]:
    """The toolkit's libcudart, the one that a server loads, and every other one."""
    yield _library("libcudart of the toolkit", runtime.toolkit)
    if runtime.loaded is None:
        remedy = "pip install nvidia-cuda-runtime, or a CUDA build of torch"
        yield Finding(_SECTION, "libcudart", f"none: {runtime.how}", "problem", remedy)
    else:
        yield _library("libcudart that a server loads", runtime.loaded)
        yield from _older(runtime.loaded, runtime.toolkit)
    for found in runtime.found:
        if runtime.loaded is None or found.real != runtime.loaded.real:
            yield _library("libcudart, also there", found)


def _library(subject: str, found: Cudart) -> Finding:
    if found.problem:
        remedy = "reinstall the package that it belongs to"
        return Finding(_SECTION, subject, f"{found.path}: {found.problem}", "problem", remedy)
    if found.disagreement:
        remedy = "doit restore_cudart, or reinstall its package"
        return Finding(_SECTION, subject, f"{found.path}: {found.disagreement}", "note", remedy)
    return Finding(_SECTION, subject, f"{found.version} at {found.path}")


def _older(loaded: Cudart, toolkit: Cudart) -> Iterator[Finding]:
    """Only symbols decide whether a kernel loads (`doit check`); an older version is a hint."""
    from packaging.version import InvalidVersion, Version

    try:
        older = Version(loaded.version) < Version(toolkit.version)
    except InvalidVersion:
        return
    if loaded.major != toolkit.major:
        value = f"a server loads {loaded.soname}, kernels will need {toolkit.soname}"
        yield Finding(_SECTION, "libcudart", value, "problem", "use a toolkit of torch's CUDA release")
    elif older and Version(loaded.version).release[:2] != Version(toolkit.version).release[:2]:
        value = f"the server's {loaded.version} is older than the toolkit's {toolkit.version}"
        yield Finding(_SECTION, "libcudart", value, "note", "doit patch_cudart; doit check says if a symbol is missing")


def failed(error: FitasksError) -> Finding:
    """What could not be examined, as a finding."""
    return Finding(_SECTION, "not examined", error.message, "problem", error.remedy)
