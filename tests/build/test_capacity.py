"""Cores and memory, from trees that look like /proc and /sys/fs/cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fitasks.build.capacity import cores, memory, slots


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n"}
V2 = {
    "proc/self/cgroup": "0::/system/build\n",
    "sys/fs/cgroup/system/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/system/memory.max": "8000000000\n",
    "sys/fs/cgroup/system/memory.current": "3000000000\n",
    "sys/fs/cgroup/system/memory.stat": "anon 5\ninactive_file 1000000000\n",
    "sys/fs/cgroup/system/build/cpu.max": "max 100000\n",
    "sys/fs/cgroup/system/build/memory.max": "max\n",
    "sys/fs/cgroup/system/build/memory.current": "3000000000\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n",
    "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "4000000000\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "1000000000\n",
    "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 500000000\n",
}


@pytest.mark.parametrize(
    ("files", "expected_memory", "expected_cores"),
    [
        ({}, 32_768_000_000, None),
        (V2, 6_000_000_000, 1),
        (V1, 3_500_000_000, 1),
        ({"proc/self/cgroup": "0::/gone\n"}, 32_768_000_000, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "nonsense\n"}, 32_768_000_000, None),
    ],
)
def test_the_smallest_limit_wins(
    tmp_path: Path, files: dict[str, str], expected_memory: int, expected_cores: int | None
) -> None:
    root = put(tmp_path, MEMINFO | files)
    assert memory(root) == expected_memory
    assert cores(root) == (expected_cores or len(os.sched_getaffinity(0)))


def test_slots_say_why(tmp_path: Path) -> None:
    root = put(tmp_path, MEMINFO | V1)
    assert slots(None, peak_bytes=4 * 10**9, root=root).reason == (
        "1 compilers: 1 cores; 3.5 GB for compilers of 4.0 GB would allow 1"
    )
    assert slots(7, peak_bytes=4 * 10**9, root=root).count == 7
