"""Installs and removes the hook under which a server heeds FLASHINFER_DISABLE_SM90 (serving/switch/sm90_switch.py)."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLE = "FLASHINFER_DISABLE_SM90"
IMPLIED = ("FLASHINFER_DISABLE_EAGLE_VERIFY_FP8KV_SM90",)  # the hook sets these in its own process

_OFF = frozenset({"", "0", "false", "no", "off"})  # as the hook reads it
_SOURCE = Path(__file__).parents[1] / "serving" / "switch" / "sm90_switch.py"
_MODULE = "fitasks_sm90_switch.py"
_PTH = "fitasks_sm90_switch.pth"
_LINE = "import fitasks_sm90_switch\n"


def is_on(env: Mapping[str, str]) -> bool:
    """Whether the hook, where it is installed, turns Hopper's modules off in this environment."""
    return env.get(VARIABLE, "").strip().lower() not in _OFF


def is_installed(directories: Sequence[Path]) -> bool:
    """Whether a Python that reads the .pth files of these directories imports the hook, this one, when it starts."""
    return any((directory / _PTH).exists() and _is_ours(directory / _MODULE) for directory in directories)


def _is_ours(module: Path) -> bool:
    """No remnant, and none of an earlier fitasks."""
    try:
        return module.read_bytes() == _SOURCE.read_bytes()
    except OSError:
        return False


def install(prefix: Path, directories: Sequence[Path]) -> Path:
    """Put both files into the environment's own site-packages, the .pth last; where. Raises EnvironmentProblem."""
    own = _own(prefix, directories)
    directory = next((path for path in own if os.access(path, os.W_OK)), own[0])
    module, pth = directory / _MODULE, directory / _PTH
    try:
        write_atomic(module, _SOURCE.read_text(encoding="utf-8"))
        write_atomic(pth, _LINE)
    except OSError as error:
        copy, echo = shlex.join(["cp", str(_SOURCE), str(module)]), shlex.join(["echo", _LINE.strip()])
        raise _not_writable(directory, error, f"{copy} && {echo} > {shlex.quote(str(pth))}") from None
    return directory


def uninstall(prefix: Path, directories: Sequence[Path]) -> list[Path]:
    """Remove both, the .pth first; what was removed. Raises EnvironmentProblem."""
    files = [directory / name for directory in _own(prefix, directories) for name in (_PTH, _MODULE)]
    there = [file for file in files if file.exists()]
    for file in there:
        try:
            file.unlink()
        except OSError as error:
            raise _not_writable(file.parent, error, shlex.join(["rm", *map(str, there)])) from None
    return there


def _own(prefix: Path, directories: Sequence[Path]) -> list[Path]:
    """Those that belong to the environment, and to no user of it or other environment; lib64 may be lib by a link."""
    inside = (path for path in reversed(directories) if path.is_relative_to(prefix) and path.is_dir())
    own = {path.resolve(): path for path in inside}
    if not own:
        raise EnvironmentProblem(f"{prefix} has no site-packages of its own that a hook could be put into")
    return list(reversed(own.values()))


def _not_writable(directory: Path, error: OSError, command: str) -> EnvironmentProblem:
    return EnvironmentProblem(f"{directory}: {error.strerror}", remedy=f"as the owner of {directory}: {command}")
