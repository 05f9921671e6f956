"""How many compilers may run at once: by cores and by memory, whichever allows fewer."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Slots:
    """A number of compilers, and the sentence that says why it is this one."""

    count: int
    reason: str


def slots(requested: int | None, *, peak_bytes: int, root: Path = Path("/")) -> Slots:
    """As many as asked for; otherwise as cores and memory allow for compilers of `peak_bytes` each."""
    if requested:
        return Slots(requested, f"{requested} compilers, as asked for")
    by_cores, available = cores(root), memory(root)
    by_memory = max(1, available // peak_bytes)
    gigabytes = f"{available / 1e9:.1f} GB for compilers of {peak_bytes / 1e9:.1f} GB"
    count = min(by_cores, by_memory)
    return Slots(count, f"{count} compilers: {by_cores} cores; {gigabytes} would allow {by_memory}")


def cores(root: Path = Path("/")) -> int:
    """Those this process may use: its affinity, and the CPU quota of its cgroup and all above it."""
    allowed = float(len(os.sched_getaffinity(0)))
    for group in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            allowed = min(allowed, _quota(group))
    return max(1, math.floor(allowed))


def memory(root: Path = Path("/")) -> int:
    """Bytes that may still be taken: MemAvailable, and what the cgroups' limits leave (their caches are free)."""
    available = _available(root)
    for group in _groups(root, "memory"):
        with contextlib.suppress(OSError, ValueError):
            available = min(available, _left(group))
    return max(0, available)


def _groups(root: Path, controller: str) -> list[Path]:
    """The cgroup directories of this process for a controller, innermost first, up to the top."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
            top = top if top.exists() else root / "sys/fs/cgroup" / controller
        else:
            continue
        place = top / path.lstrip("/")
        found += [place, *(parent for parent in place.parents if parent.is_relative_to(top))]
    return found


def _quota(group: Path) -> float:
    """Cores of one cgroup. Raises OSError where it has no such file, ValueError where it sets no limit."""
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    if int(quota) <= 0:
        raise ValueError(quota)
    return int(quota) / int(period)


def _left(group: Path) -> int:
    """Bytes that one cgroup leaves. Raises as above."""
    if (group / "memory.max").exists():
        limit, used, cache = "memory.max", "memory.current", "inactive_file"
    else:
        limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    free = int((group / limit).read_text()) - int((group / used).read_text())
    stat = dict(line.split() for line in _lines(group / "memory.stat"))
    return free + int(stat.get(cache, 0))


def _available(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 40


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
