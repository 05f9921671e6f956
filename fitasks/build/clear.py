"""Removing what is half-built, or all that was built; never a module that somebody holds the lock of."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.build.begun import NAME as BEGUN
from fitasks.build.lock import is_locked
from fitasks.build.scratch import abandoned, places
from fitasks.cuda.elf import is_shared_object
from fitasks.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.plan import Plan


@dataclass(frozen=True)
class Incomplete:
    """A module directory without a usable `.so`."""

    path: Path
    bytes: int
    locked: bool


def base_of(plan: Plan) -> Path:
    """FlashInfer's cache directory for this server: `…/.cache/flashinfer`, above versions and architectures."""
    return Path(next(iter(plan.facts.values()))["workspace"]).parent.parent


def clear_incomplete(base: Path) -> list[Incomplete]:
    """Remove the half-built modules below `base`, in every cache layout; those that are being built are kept."""
    found = []
    for module in _modules(base):
        if _complete(module):
            continue
        lock = module.parent / "tmp" / f"{module.name}.lock"
        incomplete = Incomplete(module, bytes_in(module), is_locked(lock))
        found.append(incomplete)
        if not incomplete.locked:
            shutil.rmtree(module, ignore_errors=True)
    return [*found, *_unpacked(base)]


def _unpacked(base: Path) -> Iterator[Incomplete]:
    """What an unbundle left that was killed, in every cache layout."""
    workspaces = [*sorted(base.glob("*/")), *sorted(base.glob("*/*/"))]
    for place in dict.fromkeys((base, *sorted(base.glob("*/")), *places(workspaces))):
        with abandoned(place) as left:
            for path in left:
                yield Incomplete(path, bytes_in(path), locked=False)
                shutil.rmtree(path, ignore_errors=True)


def reset_targets(plan: Plan) -> list[Path]:
    """The directories that `reset` removes: cached_ops and generated of this version, for the planned targets."""
    wanted = [Path(facts["workspace"]) / name for facts in plan.facts.values() for name in ("cached_ops", "generated")]
    return [directory for directory in wanted if directory.is_dir()]


def reset(plan: Plan, directories: list[Path]) -> None:
    """Remove them. Raises EnvironmentProblem, before anything is gone, where a module is being built or loaded."""
    held = [str(kernel.lock) for kernel in plan.buildable() if is_locked(kernel.lock)]
    if held:
        raise EnvironmentProblem(
            f"{held[0]} is held by another process; nothing was removed",
            remedy="stop the server or the build first",
        )
    for directory in directories:
        shutil.rmtree(directory)


def bytes_in(directory: Path) -> int:
    """Size of all files below a directory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
    return total


def _modules(base: Path) -> Iterator[Path]:
    """Module directories of `<version>/<arch>/cached_ops` (since 0.4.1) and of the older `<arch>/cached_ops`."""
    for pattern in ("*/cached_ops/*", "*/*/cached_ops/*"):
        for module in sorted(base.glob(pattern)):
            if module.is_dir() and not module.is_symlink() and module.name != "tmp":
                yield module


def _complete(module: Path) -> bool:
    if (module / BEGUN).exists():
        return False
    library = module / f"{module.name}.so"
    return library.is_file() and not is_shared_object(library)
