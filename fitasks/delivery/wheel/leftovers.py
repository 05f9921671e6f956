"""What an interrupted installer leaves of our package, which no installer takes out again.

pip moves an old package aside, under names that begin with a tilde, copies the new one, and completes RECORD last; uv
removes file after file. Killed in between they leave what they don't mend: without RECORD both refuse, and pip takes
what it had put aside for the package, and says that this is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import scratch
from fitasks.delivery.wheel.installed import DISTRIBUTION, PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ASIDE = re.compile(r"~([-~.=%0-9]*)(\w+?)(-.*\.dist-info)?")  # pip's AdjacentTempDirectory (utils/temp_dir.py)


@contextlib.contextmanager
def only_installer(directories: Iterable[Path]) -> Iterator[None]:
    """Nobody else of ours installs or uninstalls there meanwhile. Raises EnvironmentProblem where somebody does."""
    with contextlib.ExitStack() as stack:
        for directory in sorted({directory.resolve() for directory in directories}):
            ours = True
            with contextlib.suppress(OSError):  # not there, or a file system without locks
                ours = stack.enter_context(scratch.claimed(directory))
            if not ours:
                raise EnvironmentProblem(
                    f"another doit install or uninstall is at work in {directory}", remedy="wait for its end"
                )
        yield


def clear(directories: Iterable[Path]) -> list[Path]:
    """Remove what `remains` in site directories; what it was. Raises OSError."""
    found = [path for directory in directories for path in remains(directory)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return found


def remains(directory: Path) -> list[Path]:
    """What is ours and can't be taken out by an installer: all, unless there is just one sound dist-info.

    Of several nobody knows which of them speaks for the package.
    """
    infos = sorted(directory.glob(f"{PACKAGE}-*.dist-info"))
    unsound = [info for info in infos if not sound(info)]
    aside = sorted(path for path in directory.glob("~*") if _is_aside(path.name))
    if len(infos) - len(unsound) == 1:
        return [*aside, *unsound]
    package = (directory / f"{DISTRIBUTION}.pth", directory / PACKAGE)
    return [*aside, *infos, *filter(os.path.lexists, package)]


def sound(info: Path) -> bool:
    """Whether an installer can take a distribution out: it has METADATA, and RECORD to its end, where RECORD is."""
    try:
        record = (info / "RECORD").read_text(encoding="utf-8", errors="replace")
        return bool((info / "METADATA").stat().st_size) and f"{info.name}/RECORD," in record
    except OSError:
        return False


def _is_aside(name: str) -> bool:
    """Our package, or a dist-info of it, as pip renames it: `~itasks_kernels`, then `~-tasks_kernels`.

    As many characters are replaced as are put before the rest; none, where all such names are taken.
    """
    found = _ASIDE.fullmatch(name)
    if found is None:
        return False
    replaced, rest = len(found[1]) + 1, found[2]
    return rest in {PACKAGE[replaced:], PACKAGE}
