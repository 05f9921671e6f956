"""The machine: host compiler, ninja, GPUs and driver, cores and memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version

from fitasks.base.environment import missing_compilers
from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.ninja.ninja import find_ninja
from fitasks.compile.pool.capacity import slots
from fitasks.cuda.gpus import all_gpus, driver_version, visible
from fitasks.cuda.patch import DRIVERS
from fitasks.cuda.survey import host_compiler
from fitasks.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.cuda.gpus import Gpu
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server

_SECTION = "machine"
_PEAK = 4 << 30  # bytes; fa3 prefill's largest compiler takes 3.6 GB (measured)


def examine(server: Server, toolkit: Toolkit | None, probe: ProbeMemo) -> Iterator[Finding]:
    """Host compiler, ninjas, driver and GPUs, room for compilers."""
    yield _compiler(server, probe)
    for variable, executable in missing_compilers(server.env):
        value = f"{server.env[variable]}: {executable} is not there, or not on PATH"
        yield Finding(_SECTION, variable, value, "problem", f"install it, or correct {variable}, or unset it")
    yield from _ninjas(server.env, probe)
    yield from _gpus(server.env, toolkit)
    room = slots(None, peak_bytes=_PEAK)
    yield Finding(_SECTION, "compilers at once", f"{room.reason} (the largest known kernel, fa3 prefill)")


def _compiler(server: Server, probe: ProbeMemo) -> Finding:
    try:
        compiler = host_compiler(server.env)
        version = probe.output(compiler, "--version").partition("\n")[0]
    except EnvironmentProblem as problem:
        return Finding(_SECTION, "host compiler", problem.message, "problem", problem.remedy)
    return Finding(_SECTION, "host compiler", f"{version} at {compiler}")


def _ninjas(env: dict[str, str], probe: ProbeMemo) -> Iterator[Finding]:
    """The one that a server will run, and every other one that it would run with another PATH."""
    try:
        first = find_ninja(env, probe)
    except EnvironmentProblem as problem:
        yield Finding(_SECTION, "ninja", problem.message, "problem", problem.remedy)
        return
    yield Finding(_SECTION, "ninja", f"{first.version} at {first.executable}, first on PATH")
    for other in _others(env, first.executable):
        try:
            version = probe.output(other, "--version").strip()
        except EnvironmentProblem as problem:
            version = problem.message
        if version != first.version:
            remedy = f"start the server with {first.executable.parent} first on PATH (`doit env`)"
            yield Finding(_SECTION, "another ninja", f"{version} at {other}: would compile again", "note", remedy)


def _others(env: dict[str, str], first: Path) -> list[Path]:
    """Each file once: /bin is a link to /usr/bin on most systems."""
    seen, found = {first.resolve()}, []
    for directory in env.get("PATH", os.defpath).split(os.pathsep):
        path = shutil.which("ninja", path=directory) if directory else None
        if path and (real := Path(path).resolve()) not in seen:
            seen.add(real)
            found.append(Path(path))
    return found


def _gpus(env: dict[str, str], toolkit: Toolkit | None) -> Iterator[Finding]:
    driver, gpus = driver_version(), all_gpus()
    if not driver:
        yield Finding(_SECTION, "GPU", "no NVIDIA driver", "note", "fine for building: name targets in kernels.yaml")
        return
    least = DRIVERS.get(int(toolkit.release.partition(".")[0]), "0") if toolkit else "0"
    if toolkit and Version(driver) < Version(least):
        value = f"{driver}, CUDA {toolkit.release} needs {least} or newer"
        yield Finding(_SECTION, "driver", value, "problem", "upgrade the driver, or use an older toolkit")
    else:
        yield Finding(_SECTION, "driver", driver)
    seen = visible(gpus, env)
    yield from (_gpu(gpu, hidden=gpu not in seen) for gpu in gpus)


def _gpu(gpu: Gpu, *, hidden: bool) -> Finding:
    if gpu.trouble:
        remedy = "`nvidia-smi` and the kernel's log (dmesg, Xid) say more; a reset or a reboot brings it back"
        return Finding(_SECTION, f"GPU {gpu.label}", gpu.trouble, "problem", remedy)
    memory = f", {gpu.memory / 1e9:.0f} GB" if gpu.memory else ""
    value = f"{gpu.name}, {gpu.capability}{memory}" + (", hidden by CUDA_VISIBLE_DEVICES" if hidden else "")
    return Finding(_SECTION, f"GPU {gpu.label}", value)
