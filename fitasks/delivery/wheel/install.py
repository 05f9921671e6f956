"""`doit install`, `doit uninstall`: our wheel in the serving environment, by its own pip, or by uv where it has none.

Refused where FlashInfer would not find it: next to FlashInfer's own `flashinfer-jit-cache`, unless that one asks for
further providers (from 0.7 on, see `obstacle`).
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.errors import EnvironmentProblem
from fitasks.delivery.wheel.installed import DISTRIBUTION, PACKAGE, damage, installed
from fitasks.delivery.wheel.leftovers import clear, only_installer, sound
from fitasks.plan.server import find_package
from fitasks.processes import process
from fitasks.processes.interpreter import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Collection

    from fitasks.plan.plan import Plan
    from fitasks.plan.server import Server
    from fitasks.plan.target import Target

_OFFICIAL = "flashinfer-jit-cache"
_LAST_LINES = 6  # of what an installer says before it fails
_PART = "(what an interrupted installation left)"
_UNMOVED = ("/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh")  # what is ignored stays ignored behind exec


def install(plan: Plan, wheel: Path) -> None:
    """Put the wheel into the serving environment, in place of an earlier one. Touches nothing else there.

    Raises EnvironmentProblem where it can't be installed, or wouldn't be found.
    """
    server = plan.server
    if reason := obstacle(plan.server, plan.first):
        remedy = f"{_uninstaller(server)}; doit install"
        raise EnvironmentProblem(f"{DISTRIBUTION} is not installed: {reason}", remedy=remedy)
    options = ["--no-deps", "--no-index", str(wheel.resolve())]
    pip, uv = ["install", "--force-reinstall", *options], ["install", "--reinstall", "--offline", *options]
    with only_installer(server.site_directories):
        _clear(server)
        said = _run(server, pip, uv)
        _clear(server)
    _prove_installed(server, wheel, said)


def uninstall(server: Server) -> str:
    """Take it out; the version that was there, or that it was a part of one; "" where there was nothing.

    Raises EnvironmentProblem where it can't be taken out.
    """
    found = find_package(DISTRIBUTION, server.site_packages)
    with only_installer(server.site_directories):
        cleared = _clear(server)
        if find_package(DISTRIBUTION, server.site_packages):
            said = _run(server, ["uninstall", "--yes", DISTRIBUTION], ["uninstall", DISTRIBUTION])
            cleared += _clear(server)
            _prove_gone(server, said)
    if found:
        return found.version
    return _PART if cleared else ""


def _clear(server: Server) -> list[Path]:
    """What an interrupted installer left, removed. Raises EnvironmentProblem where that isn't allowed."""
    try:
        return clear(server.site_directories)
    except OSError as error:
        message = f"{error.filename} cannot be removed: {error.strerror}"
        raise EnvironmentProblem(message, remedy=_permission(server, message)) from None


def _prove_installed(server: Server, wheel: Path, installer: str) -> None:
    """An installer's exit status is not believed: pip's configuration may send packages elsewhere."""
    info = f"{PACKAGE}-{wheel.name.split('-')[1]}.dist-info"
    if any(sound(site / info) for site in server.site_packages):
        return
    places = " or ".join(map(str, server.site_packages))
    raise EnvironmentProblem(
        f"{installer} reports success, but {info} is not in {places}",
        remedy="unset what sends packages elsewhere (PIP_TARGET, PIP_PREFIX, pip config list); doit install",
    )


def _prove_gone(server: Server, installer: str) -> None:
    """Nor is it here: pip leaves what is outside a virtual environment, on PYTHONPATH, and says so in passing."""
    left = [info for site in server.site_packages for info in sorted(site.glob(f"{PACKAGE}-*.dist-info"))]
    if left:
        paths = " ".join(f"{info.parent / PACKAGE} {info}" for info in left)
        there = " and ".join(map(str, left))
        raise EnvironmentProblem(f"{installer} reports success, but {there} is still there", remedy=f"rm -r {paths}")


def obstacle(server: Server, target: Target) -> str:
    """Why the serving FlashInfer wouldn't find our kernels, in a sentence; "" if it would."""
    official = find_package(_OFFICIAL, server.site_packages)
    if official is None:
        return ""
    version = target.flashinfer
    if "get_jit_cache_providers" not in (target.root / "jit" / "env.py").read_text(encoding="utf-8"):
        return (
            f"FlashInfer {version} takes ahead-of-time modules from one package only, and {_OFFICIAL} "
            f"{official.version} is installed; its modules and ours can't be there both (they can from 0.7 on)"
        )
    if official.version.partition("+")[0] != version.partition("+")[0]:
        return f"FlashInfer {version} does not take {_OFFICIAL} {official.version}, nor any provider behind it"
    return ""


def notice(plan: Plan) -> str:
    """What is to be said of a wheel of ours that is installed and not used; "" if there is nothing."""
    for site in plan.server.site_packages:
        if found := installed(site):
            made_for, version, modules = found
            return _notice(plan, made_for, version) or _unread(plan, site, version, modules)
    return ""


def damaged(server: Server) -> str:
    """What is to be said of a wheel of ours that is installed and isn't what was made; "" if there is nothing."""
    found = next(filter(None, map(damage, server.site_packages)), "")
    return f"{DISTRIBUTION} is damaged: {found}; doit install, or doit uninstall" if found else ""


def _unread(plan: Plan, site: Path, version: str, modules: Collection[tuple[str, str]]) -> str:
    """Said of `pip install --target` on PYTHONPATH: no .pth file is read there, and FlashInfer finds no shim."""
    if str(site) not in plan.server.env.get("PYTHONPATH", "").split(os.pathsep):
        return ""
    wanted = [kernel for kernel in plan.buildable() if (plan.targets[kernel.target].directory, kernel.name) in modules]
    found = any(site in artefact.path.parents for kernel in wanted for artefact in kernel.aot)
    if found or not wanted:
        return ""
    return (
        f"{DISTRIBUTION} {version} is in {site}, a directory of PYTHONPATH, where Python reads no .pth file: "
        f"FlashInfer doesn't find it; doit install"
    )


def _notice(plan: Plan, made_for: str, version: str) -> str:
    asking = plan.first.flashinfer
    if made_for != asking:
        return f"{DISTRIBUTION} {version} is installed for FlashInfer {made_for}; {asking} ignores it: doit install"
    reason = obstacle(plan.server, plan.first)
    return f"{DISTRIBUTION} {version} is installed, but {reason}" if reason else ""


def _run(server: Server, pip: list[str], uv: list[str]) -> str:
    """Run an installer for the serving interpreter; its name. Raises EnvironmentProblem with its last lines.

    It leads a session of its own, which no Ctrl-C reaches, and has the seconds that a stop takes to come to its end.
    """
    installer, *words = _installer(server, pip, uv)
    shown = shlex.join([installer, *words])
    env = server.env | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    with temporary.directory("install") as directory:
        log = Path(directory, "log")
        env |= {"TMPDIR": str(directory)}  # pip leaves its own behind where it is killed
        finished = process.run([*_UNMOVED, installer, *words], cwd=Path.cwd(), env=env, log=log)
        said, last = log.read_text(errors="replace"), process.last_lines(log, _LAST_LINES)
    if finished.stopped:
        raise EnvironmentProblem(f"{shown} was stopped", remedy="run doit install or doit uninstall: both mend that")
    if finished.status:
        remedy = _externally_managed(words[0] == "pip", said) or _permission(server, said)
        raise EnvironmentProblem("\n  ".join([f"{shown} failed:", *last]), remedy=remedy)
    return installer if words[0] == "pip" else f"{installer} -m pip"


def _externally_managed(is_uv: bool, said: str) -> str:
    """What helps where packages of the system's Python are its distribution's (PEP 668), as in many server images."""
    if "externally-managed-environment" not in said and "is externally managed" not in said:
        return ""
    return f"set {'UV' if is_uv else 'PIP'}_BREAK_SYSTEM_PACKAGES=1, as when FlashInfer was installed there"


def _permission(server: Server, said: str) -> str:
    """What helps where the environment can't be written; "" for any other failure."""
    if not any(words in said for words in ("Permission denied", "Read-only file system")):
        return ""
    return (
        f"run this as the owner of {server.prefix}; where it is read-only, install the wheel in dist/ while its image "
        "is built"
    )


def _uninstaller(server: Server) -> str:
    """The command that takes FlashInfer's own package out, of the installer that is there."""
    try:
        return " ".join(_installer(server, ["uninstall", _OFFICIAL], ["uninstall", _OFFICIAL]))
    except (EnvironmentProblem, OSError):
        return f"{server.python} -m pip uninstall {_OFFICIAL}"


def _installer(server: Server, pip: list[str], uv: list[str]) -> list[str]:
    python = str(server.python)
    probe, nowhere = [python, "-m", "pip", "--version"], Path(os.devnull)
    if process.run(probe, cwd=Path.cwd(), env=server.env, log=nowhere, timeout=TIMEOUT).status == 0:
        return [python, "-m", "pip", *pip]
    if found := shutil.which("uv", path=server.env.get("PATH")):
        return [found, "pip", uv[0], "--python", python, *uv[1:]]
    raise EnvironmentProblem(
        f"{python} has no pip, and there is no uv on PATH",
        remedy=f"{python} -m ensurepip, or install uv",
    )
