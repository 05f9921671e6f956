"""Installs and removes the hook under which a server heeds FLASHINFER_DISABLE_SM90 (fitasks/serving/sm90_switch.py)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.errors import EnvironmentProblem
from fitasks.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCE = Path(__file__).parent.parent / "serving" / "sm90_switch.py"
_MODULE = "fitasks_sm90_switch.py"
_PTH = "fitasks_sm90_switch.pth"
_LINE = "import fitasks_sm90_switch\n"


def is_installed(site_packages: Sequence[Path]) -> bool:
    """Whether a Python of this environment imports the hook when it starts."""
    return any((directory / _PTH).exists() and (directory / _MODULE).exists() for directory in site_packages)


def install(prefix: Path, site_packages: Sequence[Path]) -> Path:
    """Put both files into the environment's site-packages, the .pth last; where. Raises EnvironmentProblem."""
    directory = _place(prefix, site_packages)
    text = _SOURCE.read_text(encoding="utf-8")
    try:
        write_atomic(directory / _MODULE, text)
        write_atomic(directory / _PTH, _LINE)
    except OSError as error:
        raise _not_writable(directory, error) from None
    return directory


def uninstall(prefix: Path, site_packages: Sequence[Path]) -> list[Path]:
    """Remove both, the .pth first; what was removed. Raises EnvironmentProblem."""
    directory = _place(prefix, site_packages)
    removed = []
    for name in (_PTH, _MODULE):
        try:
            (directory / name).unlink()
            removed.append(directory / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _not_writable(directory, error) from None
    return removed


def _place(prefix: Path, site_packages: Sequence[Path]) -> Path:
    """The environment's own site-packages: .pth files of PYTHONPATH entries aren't read (site.py)."""
    own = [path for path in site_packages if path.is_relative_to(prefix) and path.is_dir()]
    if not own:
        raise EnvironmentProblem(f"{prefix} has no site-packages of its own that a hook could be put into")
    return next((path for path in own if os.access(path, os.W_OK)), own[0])


def _not_writable(directory: Path, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{directory}: {error.strerror}",
        remedy=f"run it as the owner of {directory}, or copy fitasks_sm90_switch.py and its .pth there in the image",
    )
