"""Cores and memory, from trees that look like /proc and /sys/fs/cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fitasks.compile.pool.capacity import Memory, Slots, cores, memory, slots


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


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


HYBRID = {
    "proc/self/cgroup": "4:memory:/job\n1:cpu:/job\n0::/job\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "1000000000\n",
    "sys/fs/cgroup/unified/job/memory.high": "5000000000\n",
    "sys/fs/cgroup/unified/job/memory.current": "1000000000\n",
    "sys/fs/cgroup/unified/cpu.max": "390000 100000\n",
    "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
}
# As docker without a cgroup namespace shows it: the path is the host's, the container's own group is mounted on top.
CONTAINER_V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000000\n",
}
NAMESPACE = {
    "proc/self/cgroup": "0::/../other\n",
    "sys/fs/cgroup/cpu.max": "300000 100000\n",
    "sys/fs/cgroup/memory.max": "7000000000\n",
    "sys/fs/cgroup/memory.current": "9000000000\n",
    "sys/fs/cgroup/memory.stat": "inactive_file 500000000\n",
}
UNLIMITED = Memory(32_768_000_000, None, "MemAvailable")


@pytest.mark.parametrize(
    ("files", "expected_memory", "expected_cores"),
    [
        ({}, UNLIMITED, 16),
        (V2, Memory(6_000_000_000, 8_000_000_000, "/sys/fs/cgroup/system/memory.max"), 1),
        (
            V2 | {"sys/fs/cgroup/system/build/memory.high": "4500000000\n"},
            Memory(1_500_000_000, 4_500_000_000, "/sys/fs/cgroup/system/build/memory.high"),
            1,
        ),
        (V1, Memory(3_500_000_000, 4_000_000_000, "/sys/fs/cgroup/memory/job/memory.limit_in_bytes"), 1),
        (HYBRID, Memory(4_000_000_000, 5_000_000_000, "/sys/fs/cgroup/unified/job/memory.high"), 3),
        (CONTAINER_V1, Memory(1_500_000_000, 2_000_000_000, "/sys/fs/cgroup/memory/memory.limit_in_bytes"), 2),
        (NAMESPACE, Memory(0, 7_000_000_000, "/sys/fs/cgroup/memory.max"), 3),
        ({"proc/self/cgroup": "0::/gone\n"}, UNLIMITED, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "nonsense\n"}, UNLIMITED, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, UNLIMITED, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, UNLIMITED, 16),
    ],
)
@pytest.mark.usefixtures("sixteen_cores")
def test_the_smallest_limit_wins(
    tmp_path: Path, files: dict[str, str], expected_memory: Memory, expected_cores: int
) -> None:
    root = put(tmp_path, MEMINFO | files)
    assert memory(root) == expected_memory
    assert cores(root) == expected_cores


def test_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7})
    assert cores(put(tmp_path, NAMESPACE)) == 2


def test_nothing_is_readable(tmp_path: Path) -> None:
    """A directory where a file should be raises as a file without permission does, for root as well."""
    for name in ("proc/meminfo", "proc/self/cgroup"):
        (tmp_path / name).mkdir(parents=True)
    assert memory(tmp_path) == Memory(1 << 62, None, "unknown")
    assert cores(tmp_path) == len(os.sched_getaffinity(0))
    for name in ("memory.max", "cpu.max", "memory.stat"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").rmdir()
    put(tmp_path, {"proc/self/cgroup": "0::/\n"})
    assert memory(tmp_path).source == "unknown"


def test_this_very_machine() -> None:
    found = memory()
    assert 0 < found.available < 1 << 50
    assert 1 <= cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "requested", "peak", "expected"),
    [
        (V1, 7, 4.0, Slots(7, "7 compilers, as asked for")),
        (V1, 1, 4.0, Slots(1, "1 compiler, as asked for")),
        (
            CONTAINER_V1,
            None,
            0.5,
            Slots(2, "2 compilers: 2 cores; memory, 1.5 GB (/sys/fs/cgroup/memory/memory.limit_in_bytes), would allow 3 of 0.5 GB"),
        ),
        ({}, None, 3.6, Slots(9, "9 compilers: memory, 32.8 GB (MemAvailable), allows 9 of 3.6 GB; 16 cores")),
        (
            V1,
            None,
            4.0,
            Slots(1, "1 compiler: 3.5 GB (/sys/fs/cgroup/memory/job/memory.limit_in_bytes) is less than one takes, 4.0 GB; 1 core"),
        ),
        ({}, None, 0.0, Slots(16, "16 compilers: 16 cores; memory, 32.8 GB (MemAvailable), would allow 32768000000 of 0.0 GB")),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("sixteen_cores")
def test_slots_say_why(
    tmp_path: Path, files: dict[str, str], requested: int | None, peak: float, expected: Slots
) -> None:
    assert slots(requested, peak_bytes=int(peak * 1e9), root=put(tmp_path, MEMINFO | files)) == expected
