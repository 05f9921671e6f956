"""The pool of compiler slots, with real ninjas."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.build.jobserver import Jobserver, is_client, parent_fifo
from fitasks.build.ninja import find_ninja
from fitasks.cuda.probe import ProbeMemo

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = "python3 -S -c \"import time; open('log','a').write(f'{time.time()} 1\\n'); time.sleep(0.1); open('log','a').write(f'{time.time()} -1\\n')\""


@pytest.fixture
def ninja(tmp_path: Path) -> str:
    import sys

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = find_ninja({"PATH": path}, ProbeMemo(tmp_path / "probe.json"))
    if not is_client(found.version):
        pytest.skip(f"ninja {found.version} is no jobserver client")
    return str(found.executable)


def start(pool: Jobserver, ninja: str, directory: Path, jobs: int) -> subprocess.Popen[bytes]:
    directory.mkdir()
    log = directory.parent / "log"
    edges = "".join(f"build out{index}: job\n" for index in range(jobs))
    command = JOB.replace("'log'", f"'{log}'").replace("$", "$$")
    (directory / "build.ninja").write_text(f"rule job\n  command = {command}\n{edges}")
    env = os.environ | {"MAKEFLAGS": pool.makeflags}
    return subprocess.Popen([ninja, "-C", str(directory)], env=env, stdout=subprocess.DEVNULL)


def peak(log: Path) -> int:
    running = most = 0
    for line in sorted(log.read_text().splitlines(), key=lambda line: float(line.split()[0])):
        running += int(line.split()[1])
        most = max(most, running)
    return most


def tokens(pool: Jobserver) -> int:
    count = 0
    while True:
        try:
            count += len(os.read(pool._descriptor, 100))
        except BlockingIOError:
            os.write(pool._descriptor, b"+" * count)
            return count


def test_four_ninjas_never_run_more_compilers_than_there_are_slots(tmp_path: Path, ninja: str) -> None:
    with Jobserver(3) as pool:

        def one(index: int) -> None:
            with pool.slot():
                assert start(pool, ninja, tmp_path / f"n{index}", 6).wait() == 0

        threads = [threading.Thread(target=one, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert peak(tmp_path / "log") == 3
        assert tokens(pool) == 3


def test_the_tokens_of_a_killed_ninja_come_back(tmp_path: Path, ninja: str) -> None:
    with Jobserver(3) as pool:
        with pool.slot():
            victim = start(pool, ninja, tmp_path / "victim", 30)
            while not (tmp_path / "log").exists() or peak(tmp_path / "log") < 3:
                time.sleep(0.02)
            victim.kill()
            victim.wait()
            assert tokens(pool) < 2, "the victim holds some"
        assert tokens(pool) == 3


def test_alone_does_not_wait_for_tokens_that_were_lost() -> None:
    """A ninja that was killed took them along, and the pool is filled up again only when nobody holds a slot."""
    with Jobserver(4, busy=lambda: (0, 0)) as pool:
        os.read(pool._descriptor, 2)
        begin = time.monotonic()
        with pool.alone(stopping=lambda: time.monotonic() > begin + 10) as alone:
            assert alone
        assert tokens(pool) == 4


def test_a_slot_is_not_waited_for_once_all_is_to_stop() -> None:
    with Jobserver(1) as pool, pool.slot() as first, pool.slot(stopping=lambda: True) as second:
        assert (first, second) == (True, False)


def test_a_hundred_clients_lose_no_token() -> None:
    with Jobserver(4) as pool:

        def one() -> None:
            with pool.slot():
                time.sleep(0.001)

        threads = [threading.Thread(target=one) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tokens(pool) == 4


def test_nothing_is_left_behind() -> None:
    with Jobserver(2) as pool:
        fifo = Path(pool.makeflags.rpartition(":")[2])
        assert fifo.is_fifo()
        assert fifo.stat().st_mode & 0o777 == 0o600
    assert not fifo.parent.exists()


@pytest.mark.parametrize(
    ("version", "client"),
    [("1.13.0.git.kitware.jobserver-pipe-1", True), ("1.13.2", True), ("2.0", True), ("1.11.1", False), ("", False)],
)
def test_which_ninjas_are_clients(version: str, client: bool) -> None:
    assert is_client(version) is client


# ---- the pool of a `make -jN` above us (fifo, GNU make 4.4 and later)


@pytest.fixture
def make() -> Iterator[Jobserver]:
    """What a `make -j3` would hold open: two tokens besides the implicit slot."""
    with Jobserver(2) as pool:
        yield pool


def test_its_slots_and_our_implicit_one_are_used_and_given_back(make: Jobserver, tmp_path: Path, ninja: str) -> None:
    fifo = parent_fifo({"MAKEFLAGS": make.makeflags})
    assert fifo
    with Jobserver(16, fifo) as joined:
        assert joined.makeflags.endswith(str(fifo))

        def one(index: int) -> None:
            with joined.slot():
                assert start(joined, ninja, tmp_path / f"n{index}", 5).wait() == 0

        threads = [threading.Thread(target=one, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert peak(tmp_path / "log") == 3
    assert tokens(make) == 2


@pytest.mark.parametrize(
    "makeflags",
    ["", "kn --jobserver-auth=fifo:{fifo}", " -j -- V=--jobserver-auth=fifo:{fifo}", " -j --jobserver-auth=3,4"],
)
def test_when_there_is_none_to_join(make: Jobserver, makeflags: str) -> None:
    fifo = make.makeflags.rpartition(":")[2]
    assert parent_fifo({"MAKEFLAGS": makeflags.format(fifo=fifo)}) is None


def test_a_fifo_whose_make_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert parent_fifo({"MAKEFLAGS": f" -j4 --jobserver-auth=fifo:{tmp_path / 'fifo'}"}) is None


def test_the_heaviest_waiter_is_served_first() -> None:
    served = []
    with Jobserver(1) as pool:

        def one(weight: float) -> None:
            with pool.slot(weight):
                served.append(weight)

        threads = [threading.Thread(target=one, args=(weight,)) for weight in (1.0, 3.0, 2.0)]
        with pool.slot():
            for thread in threads:
                thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join()
    assert served == [3.0, 2.0, 1.0]


def test_alone_means_that_nothing_else_runs() -> None:
    with Jobserver(3) as pool, pool.alone() as alone, pool.slot(stopping=lambda: True) as other:
        assert (alone, other) == (True, False)
        assert tokens(pool) == 0


def test_what_a_killed_process_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "fitasks-jobs-left"
    left.mkdir()
    os.mkfifo(left / "fifo")
    os.utime(left, (1, 1))
    with Jobserver(1) as pool:
        assert not left.exists()
        mine = Path(pool.makeflags.rpartition(":")[2]).parent
        os.utime(mine, (1, 1))
        with Jobserver(1):
            assert mine.exists()


SLOW = (
    "rule job\n  command = sh -c 'date +%s.%N >> {log}; sleep $seconds; date +%s.%N >> {log}'\n"
    "build one: job\n  seconds = 0.6\nbuild two: job\n  seconds = 2.5\nbuild linked: job one two\n  seconds = 0.1\n"
)


def test_an_idle_implicit_slot_is_lent(tmp_path: Path, ninja: str) -> None:
    """Two commands on two slots; the first to end leaves its slot to a ninja that waits, not idle until the other."""
    from fitasks.build.usage import usage

    live: dict[int, subprocess.Popen[bytes]] = {}

    def busy() -> tuple[int, int]:
        return len(live), usage(frozenset(live)).busy

    with Jobserver(2, busy=busy) as pool:
        times = {}

        def one(name: str, after: float) -> None:
            time.sleep(after)
            with pool.slot():
                directory = tmp_path / name
                directory.mkdir()
                (directory / "build.ninja").write_text(SLOW.format(log=directory / "log"))
                env = os.environ | {"MAKEFLAGS": pool.makeflags}
                times[name] = time.monotonic()
                process = subprocess.Popen(
                    [ninja, "-C", str(directory)], env=env, stdout=subprocess.DEVNULL, start_new_session=True
                )
                live[process.pid] = process
                assert process.wait() == 0
                del live[process.pid]
                times[f"{name} ended"] = time.monotonic()

        threads = [threading.Thread(target=one, args=pair) for pair in (("first", 0), ("second", 0.3), ("third", 0.4))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert times["second"] < times["first ended"] - 0.5, "begun in the idle slot"
        assert times["third"] > times["first ended"] - 0.5, "and no third one"
        assert tokens(pool) == 2
        assert pool._lent == 0


def test_what_was_lent_is_paid_by_what_comes_back() -> None:
    with Jobserver(2, busy=lambda: (0, 0)) as pool:
        assert pool._borrow() == 1
        pool._take()
        pool._give_back(1)
        assert (pool._held, pool._lent) == (1, 0)
        assert tokens(pool) == 1
        pool._give_back(1)
        assert tokens(pool) == 2
