"""What is unpacked or written beside its destination, and how what a killed run left is told from what is in use."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import IO, TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.files import replacing
from fitasks.plan.caches import CACHED_OPS, GENERATED, LOCKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fitasks.plan.plan import Plan

UNPACKED = ".fitasks-unbundle-"  # directories, in one that is locked while they are in use
WRITTEN = ".fitasks-bundle-"  # files, each locked while it is written


def places(workspaces: Iterable[Path]) -> Iterator[Path]:
    """Where bundles are unpacked for these caches of architecture sets: beside each, and where parts of one are mounts.

    A module's way into such a part is by cached_ops/tmp, which is no module, and by generated.
    """
    for workspace in workspaces:
        yield from (workspace.parent, workspace / CACHED_OPS / LOCKS, workspace / GENERATED)


def everywhere(plan: Plan, store: Path) -> set[Path]:
    """Each directory that bundles are unpacked in: of FlashInfer's caches and SGLang's, and beside the store."""
    of_sglang = filter(None, (plan.sglang_cache, plan.keyed_cache))
    return {store.parent, *places(target.workspace for target in plan.targets.values()), *of_sglang}


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[bool]:
    """Whether nobody else unpacks in `directory` meanwhile. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield temporary.lock(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def abandoned(directory: Path) -> Iterator[list[Path]]:
    """What killed runs unpacked in `directory`; nobody begins to meanwhile. Empty where somebody is at work."""
    with contextlib.ExitStack() as stack:
        ours = False
        with contextlib.suppress(OSError):
            ours = stack.enter_context(claimed(directory))
        yield sorted(directory.glob(f"{UNPACKED}*")) if ours else []


def remove_leftovers(directory: Path) -> None:
    """Remove what killed runs left in `directory`."""
    with abandoned(directory) as left:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(f"{WRITTEN}*"):
        with contextlib.suppress(OSError):
            temporary.remove_unlocked(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A stream that replaces `path` whole, locked meanwhile; what killed runs left beside it goes first.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with replacing(path, prefix=WRITTEN) as stream:
        yield stream
