"""The pool of compiler slots, with real ninjas."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fitasks.build.jobserver import Jobserver, is_client
from fitasks.build.ninja import find_ninja
from fitasks.cuda.probe import ProbeMemo

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
