"""Kernels made by Dask's workers: real schedulers and workers, other paths, really killed.

They share a scheduler and workers where none is killed: a process of Dask's takes seconds to start.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fleet.conftest import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 8
EACH = sorted(f"k{index:02}_{file}.cpp" for index in range(COUNT) for file in (0, 1))


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """With two workers that have made nothing yet."""
    if shared.processes["scheduler"].poll() is not None:
        shared.scheduler()
    yield shared
    shared.stop(all_but="scheduler")
    for name in ("hold", "calls", "fail"):
        (shared.tools / name).unlink(missing_ok=True)


def test_each_file_is_compiled_once_and_heard_of_by_who_asked(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.worker(name)
    cluster.ask("asker")
    assert set(cluster.end("asker").values()) == {"compiled"}
    assert sorted(cluster.calls()) == EACH
    told = cluster.said("asker").splitlines()
    assert len({line for line in told if ": compiling 2 files on tcp://" in line}) == COUNT
    assert len({line.split()[5].rstrip(";") for line in told if ": compiling 2 files on " in line}) == 2, "both worked"
    events = (cluster.root / "asker" / "journal.jsonl").read_text()
    assert events.count('"event": "file"') == 3 * COUNT, "two objects and a library each"


def test_what_a_killed_worker_had_goes_to_others(cluster: Cluster) -> None:
    doomed, _ = cluster.worker("doomed"), cluster.worker("survivor")
    (cluster.tools / "hold").touch()
    cluster.ask("of-killed")
    cluster.wait(lambda: {"doomed", "survivor"} <= {name for name, _ in compilers(cluster)})
    doomed.send_signal(signal.SIGKILL)
    cluster.wait(lambda: "doomed" not in {name for name, _ in compilers(cluster)})  # its watchdog ends them
    (cluster.tools / "hold").unlink()
    assert set(cluster.end("of-killed").values()) == {"compiled"}
    assert sorted(set(cluster.calls("end"))) == EACH
    assert len(cluster.calls()) > len(EACH), "some were begun twice"


def test_a_killed_asker_leaves_nothing_half_written(cluster: Cluster) -> None:
    cluster.worker("patient")
    (cluster.tools / "hold").touch()
    asker = cluster.ask("killed")
    cluster.wait(cluster.calls)
    asker.send_signal(signal.SIGKILL)
    (cluster.tools / "hold").unlink()
    asker.wait()
    half = list((cluster.root / "killed" / "cache").rglob("*.so"))
    assert half == [], "nothing was finished"
    cluster.ask("killed")
    assert set(cluster.end("killed").values()) == {"compiled"}
    assert sorted(cluster.calls()) == EACH, "what was begun for the killed one isn't compiled again"


def test_a_worker_with_other_headers_gets_no_work_and_is_told_in_what(cluster: Cluster) -> None:
    header = cluster.root / "other" / "site" / "flashinfer" / "include" / "common.h"
    header.parent.mkdir(parents=True)
    header.write_text("inline int common() { return 2; }\n")
    cluster.worker("other")
    asker = cluster.ask("refusing")
    assert asker.wait(timeout=60) == 1
    said = cluster.said("refusing")
    assert "gets no work: {FLASHINFER}/include: common.h (" in said
    assert (
        "has no worker that could compile\n  remedy: dask scheduler; and in the project, on each machine: dask worker"
        in said
    )
    assert cluster.calls() == []


def test_a_worker_may_share_the_cache_of_who_asks(cluster: Cluster) -> None:
    """Neither waits for a lock of the other's."""
    cluster.worker("in-place", place="same")
    cluster.ask("same")
    assert set(cluster.end("same").values()) == {"compiled"}
    assert sorted(cluster.calls()) == EACH


def test_what_fails_there_fails_here_with_the_compilers_words(cluster: Cluster) -> None:
    cluster.worker("failing")
    (cluster.tools / "fail").write_text("k03_1.cpp")
    cluster.ask("of-failing")
    ends = cluster.end("of-failing")
    failed = ends.pop("k03")
    assert set(ends.values()) == {"compiled"}
    assert "k03: " in failed
    assert "error: nonsense" in failed
    assert "(on tcp://" in failed


def test_without_workers_it_ends(cluster: Cluster) -> None:
    """The last one is killed; nobody comes."""
    worker = cluster.worker("last")
    (cluster.tools / "hold").touch()
    cluster.ask("alone")
    cluster.wait(cluster.calls)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert {end.partition("\n")[0].partition(": ")[2] for end in cluster.end("alone").values()} == {"no worker is left"}


def test_a_scheduler_that_dies_ends_the_run(cluster: Cluster) -> None:
    cluster.worker("orphan")
    (cluster.tools / "hold").touch()
    cluster.ask("bereft")
    cluster.wait(cluster.calls)
    cluster.processes["scheduler"].send_signal(signal.SIGKILL)
    ends = set(cluster.end("bereft").values())
    assert len(ends) == COUNT
    assert all(": the scheduler at tcp://" in end and " is gone\n" in end for end in ends), ends


def test_where_no_scheduler_is_it_says_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITASKS_TEST_TIMEOUT", "0.5")
    asker = cluster.start("nobody", "tests.fleet.shops", "tcp://127.0.0.1:9", "nobody")
    assert asker.wait(timeout=60) == 1
    said = cluster.said("nobody")
    assert said.startswith("no Dask scheduler answers at tcp://127.0.0.1:9: ")
    assert said.endswith(
        "remedy: dask scheduler; and in the project, on each machine: dask worker --preload fitasks.worker tcp://127.0.0.1:9\n"
    )


def compilers(cluster: Cluster) -> list[tuple[str, int]]:
    """The worker's name, and the pid, of each compiler that runs."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(cluster.tools / "c++").encode() in (entry / "cmdline").read_bytes().split(
                b"\0"
            ):
                found.append(((entry / "cwd").readlink().relative_to(cluster.root).parts[0], int(entry.name)))
        except (OSError, ValueError):
            continue
    return found
