"""How many compilers may run at once: by cores and by memory, whichever allows fewer.

`root` is where /proc and /sys/fs/cgroup are looked for. Unreadable files and `max` are no limit. Each cgroup up to
the top is asked, because a limit above holds as well; in a container /proc/self/cgroup may name directories that
aren't mounted, and the top alone is there.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/")


@dataclass(frozen=True)
class Slots:
    """A number of compilers, and the sentence that says why it is this one."""

    count: int
    reason: str


@dataclass(frozen=True)
class Memory:
    """Bytes that may still be taken, the limit (bytes) that says so or None, and where that was read."""

    available: int
    limit: int | None
    source: str


def slots(requested: int | None, *, peak_bytes: int, root: Path = _ROOT) -> Slots:
    """As many as asked for; otherwise as cores and memory allow for compilers of `peak_bytes` each, at least one."""
    if requested:
        return Slots(requested, f"{_compilers(requested)}, as asked for")
    by_cores, free = cores(root), memory(root)
    by_memory = max(1, free.available // max(1, peak_bytes))
    count = min(by_cores, by_memory)
    what = f"{free.available / 1e9:.1f} GB ({free.source})"
    each = f"{by_memory} of {peak_bytes / 1e9:.1f} GB"
    cores_text = counted(by_cores, "core")
    if free.available < peak_bytes:
        return Slots(1, f"1 compiler: {what} is less than one takes, {peak_bytes / 1e9:.1f} GB; {cores_text}")
    if by_memory < by_cores:
        return Slots(count, f"{_compilers(count)}: memory, {what}, allows {each}; {cores_text}")
    return Slots(count, f"{_compilers(count)}: {cores_text}; memory, {what}, would allow {each}")


def at_most(chosen: Slots, jobs: int | None) -> Slots:
    """What a `make -jN` above us leaves of them."""
    if jobs is None or chosen.count <= jobs:
        return chosen
    return Slots(jobs, f"{_compilers(jobs)}: make -j{jobs} allows no more; else {chosen.reason}")


def cores(root: Path = _ROOT) -> int:
    """Those this process may use: its affinity, and the CPU quota of its cgroup and all above it, rounded down."""
    allowed = len(os.sched_getaffinity(0))
    for group in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):
            allowed = min(allowed, _quota(group))
    return max(1, allowed)


def memory(root: Path = _ROOT) -> Memory:
    """The smallest of MemAvailable and of what each cgroup leaves, whose inactive file cache counts as free."""
    found = [_machine(root)]
    for group in _groups(root, "memory"):
        for limit in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                found.append(_left(group, limit, root))
    return min(found, key=lambda one: one.available)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The cgroup directories of this process for a controller, innermost first, up to the top."""
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        for top in tops:
            place = Path(os.path.normpath(f"{top}{path}"))
            if place.is_relative_to(top):  # with a namespace of its own it may be /../other
                yield place
                yield from (parent for parent in place.parents if parent.is_relative_to(top))
            else:
                yield top


def _quota(group: Path) -> int:
    """Whole cores of one cgroup. Raises OSError where it has no such file, ValueError where it sets no limit."""
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    if int(quota) <= 0 or int(period) <= 0:
        raise ValueError(quota)
    return int(quota) // int(period)


def _left(group: Path, limit: str, root: Path) -> Memory:
    """What one cgroup leaves under one of its limits (version 1 has 2**63 for none). Raises as above."""
    most = int((group / limit).read_text())
    first = limit == "memory.limit_in_bytes"
    used = int((group / ("memory.usage_in_bytes" if first else "memory.current")).read_text())
    stat = dict(line.split() for line in _lines(group / "memory.stat"))
    cache = int(stat.get("total_inactive_file" if first else "inactive_file", 0))
    return Memory(min(most, max(0, most - used + cache)), most, f"/{(group / limit).relative_to(root)}")


def _machine(root: Path) -> Memory:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return Memory(int(line.split()[1]) * 1024, None, "MemAvailable")
    return Memory(1 << 62, None, "unknown")


def _compilers(count: int) -> str:
    return counted(count, "compiler")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
