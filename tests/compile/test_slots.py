"""The pool of compiler slots: never too many, the heaviest first, nothing lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.compile.pool.jobserver import MakeTokens, parent_fifo
from fitasks.compile.pool.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def together(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Gauge:
    """How many are inside at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def stay(self, seconds: float, weight: int = 1) -> None:
        with self.lock:
            self.now += weight
            self.most = max(self.most, self.now)
        time.sleep(seconds)
        with self.lock:
            self.now -= weight


def test_never_more_than_there_are_slots() -> None:
    pool, gauge = Pool(3), Gauge()

    def work(index: int) -> None:
        count = 2 if index % 5 == 0 else 1
        with pool.slot(float(index), count=count):
            gauge.stay(0.01, count)

    together(60, work)
    assert gauge.most == 3
    assert pool.free == 3


def test_the_heaviest_waiter_is_served_first() -> None:
    served, pool = [], Pool(1)

    def work(index: int) -> None:
        with pool.slot((1.0, 3.0, 2.0)[index]):
            served.append(index)

    with pool.slot(float("inf")):
        threads = threading.Thread(target=together, args=(3, work))
        threads.start()
        time.sleep(0.5)
    threads.join()
    assert served == [1, 2, 0]


def test_a_heavier_one_that_arrives_a_moment_later_is_first_all_the_same() -> None:
    served, pool = [], Pool(1)

    def work(index: int) -> None:
        time.sleep(index * 0.1)
        with pool.slot(float(index)):
            served.append(index)
            time.sleep(0.01)

    together(2, work)
    assert served == [1, 0]


def test_only_after_a_pause_are_heavier_ones_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files one after another, as of a kernel with a slot of its own: each would wait a quarter of a second."""
    now, pool = 100.0, Pool(2)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert pool._ready(1.0) == 100.25
    now, pool._given = 100.3, 100.2
    with pool.slot(1.0):
        now = 109.0
        assert pool._ready(1.0) < now, "somebody has a slot"
    now = 109.2
    with pool.slot(1.0), pool.slot(1.0):
        pass
    now = 109.5
    assert pool._ready(1.0) == 109.75
    assert pool._ready(float("inf")) < now


def test_nobody_overtakes_one_that_needs_several() -> None:
    served, pool = [], Pool(2)

    def work(index: int) -> None:
        with pool.slot(2.0 - index, count=2 - index):
            served.append(index)

    with pool.slot(float("inf")):
        threads = threading.Thread(target=together, args=(2, work))
        threads.start()
        time.sleep(0.5)
        assert served == [], "one slot is free, and the first in the queue needs two"
    threads.join()
    assert served == [0, 1]


def test_alone_means_that_nothing_else_runs() -> None:
    pool = Pool(3)
    with pool.every_slot() as alone, pool.slot(stopping=lambda: True) as other:
        assert (alone, other, pool.free) == (True, False, 0)
    assert pool.free == 3


def test_two_who_want_to_be_alone_are_so_one_after_another() -> None:
    pool, gauge = Pool(3), Gauge()

    def work(index: int) -> None:
        with pool.every_slot() if index else pool.slot(1.0):
            gauge.stay(0.05)

    together(3, work)
    assert gauge.most == 1
    assert pool.free == 3


def test_a_slot_is_not_waited_for_once_all_is_to_stop() -> None:
    pool, stop = Pool(1), threading.Event()
    given = []

    def work(index: int) -> None:
        with pool.slot(float(index), stopping=stop.is_set) as slot:
            given.append(slot)

    with pool.slot():
        threads = threading.Thread(target=together, args=(5, work))
        threads.start()
        time.sleep(0.1)
        stop.set()
        begin = time.monotonic()
        threads.join()
        assert time.monotonic() - begin < 1
    assert given == [False] * 5
    assert pool.free == 1


def test_a_narrowed_pool() -> None:
    """While slots are held, and with one who waits for more than there are now."""
    pool, gauge = Pool(8), Gauge()
    with pool.slot(count=8):
        assert pool.narrow() == 4
        assert pool.free == -4

    def work(index: int) -> None:
        with pool.slot(float(index), count=6 if index == 3 else 1):
            gauge.stay(0.05)

    together(8, work)
    assert gauge.most <= 4
    assert (pool.narrow(), pool.narrow(), pool.narrow(), pool.free) == (2, 1, 1, 1)


def test_those_who_are_killed_together_narrow_it_once() -> None:
    """One moment of want: all that ran then had begun while there were eight."""
    pool, begun = Pool(8), time.monotonic()
    assert [pool.narrow(begun) for _ in range(4)] == [4] * 4
    assert pool.narrow(time.monotonic()) == 2, "one that began since"
    assert pool.free == 2


def test_an_error_gives_the_slot_back() -> None:
    pool = Pool(1)
    with pytest.raises(ZeroDivisionError), pool.slot():
        _ = 1 / 0
    assert pool.free == 1


# ---- within a `make -jN`


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """What a `make -j3` holds open: two tokens besides the implicit one."""
    path = tmp_path / "GMfifo1"
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(held, b"ab")
    yield path
    os.close(held)


def tokens(fifo: Path) -> bytes:
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    found = b""
    with contextlib.suppress(BlockingIOError):
        found = os.read(reader, 100)
        os.write(reader, found)
    os.close(reader)
    return found


def test_makes_tokens_and_our_implicit_one_are_used_and_given_back(fifo: Path) -> None:
    found = parent_fifo({"MAKEFLAGS": f" -j3 --jobserver-auth=fifo:{fifo}"})
    assert found == fifo
    pool, gauge = Pool(16, MakeTokens(found)), Gauge()

    def work(index: int) -> None:
        with pool.slot(float(index)):
            gauge.stay(0.02)

    together(12, work)
    assert gauge.most == 3
    assert sorted(tokens(fifo)) == sorted(b"ab"), "each as it came"


def test_our_own_limit_holds_within_make_as_well(fifo: Path) -> None:
    pool, gauge = Pool(2, MakeTokens(fifo)), Gauge()

    def work(index: int) -> None:
        with pool.slot(float(index)):
            gauge.stay(0.02)

    together(8, work)
    assert gauge.most == 2


def test_what_make_gives_to_others_is_waited_for(fifo: Path) -> None:
    make = MakeTokens(fifo)
    assert make.take(5) == 3
    pool, begin = Pool(4, MakeTokens(fifo)), time.monotonic()
    with pool.slot(float("inf")):  # the implicit one
        threading.Timer(0.3, make.give, [3]).start()
        with pool.slot(float("inf")):
            assert time.monotonic() - begin > 0.25
    make.close()


def test_a_split_file_does_not_wait_for_tokens_that_make_will_never_have(fifo: Path) -> None:
    other = MakeTokens(fifo)
    other.take(3)  # its own implicit one, and both of the fifo: a `make -j1` for us
    pool, begin = Pool(8, MakeTokens(fifo)), time.monotonic()
    with pool.slot(1.0, count=2, stopping=lambda: time.monotonic() > begin + 5) as slot:
        assert slot
    other.close()
    assert sorted(tokens(fifo)) == sorted(b"ab")


def test_everything_is_given_back_at_the_end(fifo: Path) -> None:
    make = MakeTokens(fifo)
    make.take(2)
    make.close()
    assert sorted(tokens(fifo)) == sorted(b"ab")


@pytest.mark.parametrize(
    "makeflags",
    ["", "kn --jobserver-auth=fifo:{fifo}", " -j -- V=--jobserver-auth=fifo:{fifo}", " -j --jobserver-auth=3,4"],
)
def test_when_there_is_none_to_join(fifo: Path, makeflags: str) -> None:
    assert parent_fifo({"MAKEFLAGS": makeflags.format(fifo=fifo)}) is None


def test_a_fifo_whose_make_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert parent_fifo({"MAKEFLAGS": f" -j4 --jobserver-auth=fifo:{tmp_path / 'fifo'}"}) is None


JOINS = """
import os, sys, threading, time
from fitasks.compile.pool.jobserver import MakeTokens, parent_fifo
from fitasks.compile.pool.pool import Pool
found = parent_fifo(os.environ)
pool, lock, running, most = Pool(16, MakeTokens(found) if found else None), threading.Lock(), 0, 0
def work():
    global running, most
    with pool.slot():
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.2)
        with lock:
            running -= 1
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("most at once:", most, flush=True)
"""
MAKEFILE = """\
all: first second
first second:
\t+@{python} joins.py
"""


def test_a_real_make_lends_its_tokens_and_has_them_back(tmp_path: Path) -> None:
    """By pipe or by fifo, whichever it speaks. Two recipes at once share them; none is lost for the second."""
    (tmp_path / "joins.py").write_text(JOINS)
    (tmp_path / "Makefile").write_text(MAKEFILE.format(python=sys.executable))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}

    def make(*words: str) -> list[int]:
        done = subprocess.run(["make", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert "INTERNAL" not in done.stderr, "make counts its tokens in the end"
        return [int(line.rpartition(" ")[2]) for line in done.stdout.splitlines() if line.startswith("most at once")]

    assert make("-j3", "first") == [3]
    assert make("first") == [8], "no -j: our own limit, 16, alone"
    both = make("-j3")
    assert len(both) == 2
    assert max(both) <= 3


def test_descriptors_that_make_did_not_hand_on_are_not_taken_for_its(tmp_path: Path) -> None:
    """As in a recipe without `+`: the numbers in MAKEFLAGS are of files that Python has opened since."""
    read, write = os.pipe()
    try:
        assert parent_fifo({"MAKEFLAGS": f" -j3 --jobserver-auth={read},{write}"}) is None
        os.set_inheritable(read, True)
        assert parent_fifo({"MAKEFLAGS": f" -j3 --jobserver-auth={read},{write}"}) == Path(f"/proc/self/fd/{read}")
    finally:
        os.close(read)
        os.close(write)


def test_makefile_does_nothing_in_a_dry_run(tmp_path: Path) -> None:
    """Although `kernels` is marked with `+`."""
    done = subprocess.run(
        ["make", "-n", "kernels", "PYTHON=/no/such/python"],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/no/such/python -m doit" in done.stdout
