"""Removing what is half-built, or all that was built; never a module that somebody holds the lock of.

Nor anything that isn't known to be what is to be removed: a cache is shared with other toolchains, and with people.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.begun import NAME as BEGUN
from fitasks.compile.lock import is_locked
from fitasks.compile.scratch import abandoned, places
from fitasks.cuda.elf import is_shared_object
from fitasks.plan.caches import CACHED_OPS, GENERATED, LOCKS
from fitasks.plan.modules import strangers, toolchain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitasks.plan.plan import Plan


@dataclass(frozen=True)
class Incomplete:
    """A module directory without a usable `.so`; `kept` is why it was not removed, "" where it was."""

    path: Path
    bytes: int
    kept: str = ""


def clear_incomplete(base: Path, elsewhere: Iterable[Path] = ()) -> list[Incomplete]:
    """Remove the half-built nvcc modules below `base`, in every cache layout; those that are being built are kept.

    With them goes what a killed unbundle left there, and in the directories `elsewhere`. Kept is whatever shows no
    marks of such a module: other toolchains keep theirs in the same place.
    """
    found = []
    for module in _modules(base):
        if not any(module.iterdir()):
            module.rmdir()
            found.append(Incomplete(module, 0))
        elif toolchain_of(module) == "nvcc" and not _complete(module):
            found.append(_cleared(module))
    return [*found, *_unpacked(base, elsewhere)]


def _cleared(module: Path) -> Incomplete:
    """Remove a module, unless somebody holds its lock or has put something of their own into it."""
    left = Incomplete(module, bytes_in(module), _claim(module))
    if not left.kept:
        shutil.rmtree(module, ignore_errors=True)
    return left


def _claim(module: Path) -> str:
    return "locked" if is_locked(_lock(module)) else _foreign(module)


def _foreign(module: Path) -> str:
    foreign = strangers(module)
    return f"holds {foreign[0]}, which no build leaves there" if foreign else ""


def _lock(module: Path) -> Path:
    """FlashInfer's."""
    return module.parent / LOCKS / f"{module.name}.lock"


def _unpacked(base: Path, elsewhere: Iterable[Path]) -> Iterator[Incomplete]:
    """What an unbundle left that was killed, in every cache layout."""
    workspaces = [*sorted(base.glob("*/")), *sorted(base.glob("*/*/"))]
    for place in dict.fromkeys((base, *sorted(base.glob("*/")), *places(workspaces), *sorted(elsewhere))):
        with abandoned(place) as left:
            for path in left:
                yield Incomplete(path, bytes_in(path))
                shutil.rmtree(path, ignore_errors=True)


def reset_targets(plan: Plan) -> list[Path]:
    """Return what `reset` removes of this version, for the planned targets: each nvcc module, and all of `generated`.

    Not what other toolchains have compiled, nor what shows no marks of a module.
    """
    modules = (module for module in _of_nvcc(plan) if not strangers(module))
    return [*modules, *filter(Path.is_dir, (target.generated for target in plan.targets.values()))]


def left_by_reset(plan: Plan) -> list[Incomplete]:
    """Return the nvcc modules that `reset` leaves, because they hold something that no build leaves there."""
    return [Incomplete(module, bytes_in(module), _foreign(module)) for module in _of_nvcc(plan) if strangers(module)]


def _of_nvcc(plan: Plan) -> Iterator[Path]:
    for target in plan.targets.values():
        for module in sorted(target.cached_ops.glob("*")):
            if _is_module(module) and toolchain_of(module) == "nvcc":
                yield module


def reset(directories: list[Path]) -> None:
    """Remove them. Raises EnvironmentProblem, before anything is gone, where a module is being built or loaded."""
    locks = [_lock(directory) for directory in directories]
    if held := [str(lock) for lock in locks if is_locked(lock)]:
        raise EnvironmentProblem(
            f"{held[0]} is held by another process; nothing was removed",
            remedy="stop the server or the build first",
        )
    for directory in directories:
        shutil.rmtree(directory)
    for place in dict.fromkeys(directory.parent for directory in directories if directory.name != GENERATED):
        _tidy(place)


def _tidy(cached_ops: Path) -> None:
    """Remove the locks of modules that aren't there and that nobody holds, and what is empty then."""
    for lock in (cached_ops / LOCKS).glob("*.lock"):
        if not (cached_ops / lock.stem).exists() and not is_locked(lock):
            lock.unlink(missing_ok=True)
    for place in (cached_ops / LOCKS, cached_ops):
        with contextlib.suppress(OSError):  # it holds something else
            place.rmdir()


def bytes_in(directory: Path) -> int:
    """Size of all files below a directory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
    return total


def _modules(base: Path) -> Iterator[Path]:
    """Module directories of `<version>/<arch>/cached_ops` (since 0.4.1) and of the older `<arch>/cached_ops`."""
    for pattern in (f"*/{CACHED_OPS}/*", f"*/*/{CACHED_OPS}/*"):
        yield from filter(_is_module, sorted(base.glob(pattern)))


def _is_module(directory: Path) -> bool:
    return directory.is_dir() and not directory.is_symlink() and directory.name != LOCKS


def _complete(module: Path) -> bool:
    if (module / BEGUN).exists():
        return False
    library = module / f"{module.name}.so"
    return library.is_file() and not is_shared_object(library)
