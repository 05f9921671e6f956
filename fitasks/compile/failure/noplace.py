"""A kernel that failed for its place, not for its code: the disk is full, read-only, or something is in the way."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.errors import KernelFailure

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel

_FULL = {errno.ENOSPC, errno.EDQUOT}


def no_place(kernel: Kernel, error: OSError) -> KernelFailure:
    """What it was about, and the remedy for just that: a kernel has files in the cache, in .fitasks and in TMPDIR."""
    named = Path(error.filename) if isinstance(error.filename, str) and error.filename else None
    if named is None and error.errno in _FULL:  # a write doesn't say where
        places = [kernel.build_dir.parent, temporary.home()]
        full = min(places, key=lambda place: shutil.disk_usage(place).free if place.exists() else 0)
        remedy = f"leave room in {places[0]} and in {places[1]} (TMPDIR)"
        return KernelFailure(f"{kernel.label}: {error.strerror}, in {full}", remedy=f"{remedy}; run doit again")
    where = named or kernel.build_dir
    remedy = f"{_remedy(where, error.errno or 0)}; run doit again"
    return KernelFailure(f"{kernel.label}: {where}: {error.strerror or error}", remedy=remedy)


def _remedy(where: Path, number: int) -> str:
    there = next((place for place in (where, *where.parents) if os.path.exists(place)), Path("/"))  # noqa: PTH110 - Path.exists() raises where one may not look
    if number in _FULL:
        return f"leave room on the file system of {there}"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"make {there} writable"
    if number in {errno.ENOTDIR, errno.EEXIST} and not there.is_dir():
        return f"mv {there} {there}.old: a directory belongs there"
    if number == errno.EISDIR:
        return f"mv {there} {there}.old: a file belongs there"
    if number in {errno.EMFILE, errno.ENFILE}:
        return "raise the limit: ulimit -n 4096"
    return f"see `ls -ld {there}`"
