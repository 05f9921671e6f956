"""The serving environment: its packages, the variables that change FlashInfer's commands, its libcudart."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.cuda.release import pip_release
from fitasks.delivery.wheel.install import damaged
from fitasks.delivery.wheel.installed import DISTRIBUTION
from fitasks.doctor import variables
from fitasks.doctor.finding import Finding
from fitasks.plan.server import find_package
from fitasks.server.engine_conditions import refused
from fitasks.server.sm90_switch import VARIABLE, is_installed, is_on
from fitasks.server.variables import package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.cuda.cudart import Cudart, Runtime
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server

_SECTION = "serving environment"
_NEEDED = ("flashinfer-python", "torch", "apache-tvm-ffi")
_OPTIONAL = ("flashinfer-cubin", "flashinfer-jit-cache", "nvidia-cutlass-dsl", "sglang", "vllm")
_TORCH_CUDA = re.compile(r"^cuda\b[^=\n]*= ['\"]([\d.]+)['\"]", re.MULTILINE)

_INSTALL = "doit install_sm90_switch"


def examine(server: Server, toolkit: Toolkit | None, *, sm90: bool = True) -> Iterator[Finding]:
    """Packages, then what doesn't fit together, then variables; `sm90` is whether Hopper's modules are planned."""
    yield Finding(_SECTION, "python", str(server.python))
    yield from _unreadable(server)
    for name in _NEEDED:
        if version := server.version(name):
            yield Finding(_SECTION, name, f"{version}{_elsewhere(server, name)}")
        else:
            yield Finding(_SECTION, name, "not installed", "problem", f"{server.python} -m pip install {name}")
    for name in _OPTIONAL:
        if package := find_package(name, server.site_packages):
            yield _matching(name, package.version, server)
    if problem := damaged(server):
        yield Finding(_SECTION, DISTRIBUTION, problem, "problem", "doit install, or doit uninstall")
    yield from _torch_cuda(server, toolkit)
    yield from _pip_toolkit(server)
    yield from variables.examine(server)
    if refusal := refused(server):
        yield Finding(_SECTION, server.engine, refusal, "note", "unset it")
    yield from _switch(server, sm90=sm90)


def _unreadable(server: Server) -> Iterator[Finding]:
    """Directories that this user can't look into: what is said of packages may then be wrong."""
    for site in server.site_packages:
        if os.path.isdir(site) and not os.access(site, os.R_OK | os.X_OK):  # noqa: PTH112, never raises
            remedy = f"make it readable for this user (`ls -ld {site}`), or run doit as the server's user"
            yield Finding(_SECTION, "site-packages", f"{site} can't be read by user {os.getuid()}", "problem", remedy)


def _elsewhere(server: Server, name: str) -> str:
    """Where it is imported from, if that is none of the environment's own directories."""
    root = server.imported_from(name)
    return f", imported from {root}" if root and not Path(root).is_relative_to(server.prefix) else ""


def _matching(name: str, version: str, server: Server) -> Finding:
    """Packages of FlashInfer's own family must be of its version, or it ignores them or refuses to be imported."""
    flashinfer = server.version("flashinfer-python")
    if name.startswith("flashinfer-") and version.split("+", maxsplit=1)[0] != flashinfer:
        value = f"{version}, but flashinfer-python is {flashinfer}"
        return Finding(_SECTION, name, value, "problem", _replace(name, server))
    return Finding(_SECTION, name, version)


def _replace(name: str, server: Server) -> str:
    """How to get rid of one, and FlashInfer's own command that brings the right one, where it has such a command.

    PyPI has flashinfer-cubin to 0.6.13 only, and no flashinfer-jit-cache.
    """
    remove = f"{server.python} -m pip uninstall {name}"
    command = {"flashinfer-cubin": "install-cubin-wheel", "flashinfer-jit-cache": "install-jit-cache-wheel"}.get(name)
    root = package(server, "flashinfer")
    try:
        known = bool(root and command and f'"{command}"' in (root / "__main__.py").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        known = False
    return f"{remove}; FlashInfer's own `flashinfer {command}` brings the one that fits" if known else remove


def _pip_toolkit(server: Server) -> Iterator[Finding]:
    """The release of PyPI's toolkit that can be installed beside what is there."""
    release, why = pip_release(server.site_packages)
    if why:
        yield Finding(_SECTION, "toolkit from pip", f"cuda-toolkit=={release} would fit: {why}")


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


def examine_cudart(runtime: Runtime, remedy: str = "install a CUDA build of torch") -> Iterator[Finding]:
    """The toolkit's libcudart, the one that a server loads, and every other one; `remedy` is for a server without."""
    yield _library("libcudart of the toolkit", runtime.toolkit)
    loaded = runtime.loaded if runtime.reached else None
    if loaded is None:
        yield Finding(_SECTION, "libcudart that a server loads", f"none: {runtime.how}", "problem", remedy)
    else:
        yield _library("libcudart that a server loads", loaded)
        yield from _older(loaded, runtime.toolkit)
    shown = {runtime.toolkit.real, *([loaded.real] if loaded else [])}
    for found in runtime.found:
        if found.real not in shown:
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
