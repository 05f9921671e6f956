"""Which mount a file lies on, and what that mount forbids."""

from __future__ import annotations

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")


def mount_of(path: Path, mounts: Path = _MOUNTS) -> tuple[Path, str]:
    """The mount point that `path` is below, and its file system's type ("ext4", "nfs4"); "" where neither is known."""
    best, kind = Path(), ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return best, kind
    real = path.resolve()
    for fields in (line.split() for line in lines):
        point = Path(fields[1].replace("\\040", " "))
        if real.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, fields[2]
    return best, kind


def forbids(path: Path, flag: int) -> str:
    """The mount point of an existing `path` where it has the flag (os.ST_NOEXEC, os.ST_RDONLY); "" where it hasn't."""
    try:
        found = os.statvfs(path).f_flag & flag
    except OSError:
        return ""
    return str(mount_of(path)[0]) if found else ""


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
