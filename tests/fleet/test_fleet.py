"""What comes from workers is believed only if it is whole, and made of what is here; workers in threads of this process."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.compile import receipt as receipts
from fitasks.compile.pool.costs import Cost
from fitasks.compile.pool.usage import Usage
from fitasks.fleet.dask import DaskWorkers
from fitasks.fleet.environment import Environment, describe, difference, lines, tree_difference
from fitasks.fleet.fleet import Fleet, Lost
from fitasks.fleet.work import Answer, Described, Order, Worker
from fitasks.processes import sessions
from tests.fleet.shops import Shop

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.fleet.environment import Place


@dataclass
class Threads:
    """One worker, in threads; what it answers may be spoilt on the way."""

    worker: Worker
    spoil: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda files: files
    gone: bool = False
    compilers: int = 2
    address: str = "threads"
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))

    def count(self) -> int:
        return 2

    def slots(self) -> int:
        return self.compilers

    def submit(self, order: Order) -> Future[Answer]:
        return self.executor.submit(self._make, order)

    def _make(self, order: Order) -> Answer:
        answer = self.worker.make(order, lambda event: None)
        return replace(answer, files=self.spoil(answer.files), worker="there")

    def lost(self, future: Future[Answer]) -> bool:
        return self.gone

    def usage(self) -> Usage:
        return Usage()


@dataclass
class Two:
    """An asker and a worker, each in a place of its own."""

    here: Shop
    there: Shop

    def ask(self, spoil: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda files: files) -> str:
        workers = Threads(Worker(self.there), spoil)
        self.here.makers = Fleet(workers, describe(self.there), "run")
        return self.here.builder().build(self.here.kernels[0]).outcome


@pytest.fixture
def two(tmp_path: Path) -> Two:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    return Two(Shop(tmp_path / "here"), Shop(tmp_path / "there"))


def test_what_was_made_elsewhere_is_fresh_here_and_in_the_store(two: Two) -> None:
    assert describe(two.here) == describe(two.there), "though every path differs"
    assert two.ask() == "compiled"
    (kernel,) = two.here.kernels
    assert two.here.shop.verdict(kernel).verdict == "fresh"
    assert two.here.shop.ninja_would_run(kernel) == ""
    assert "adopted" in receipts.read(kernel).notes  # type: ignore[union-attr]
    assert two.here.shop.store
    assert two.here.shop.store.find(kernel, two.here.shop.judge())
    assert kernel.library.read_bytes() == two.there.kernels[0].library.read_bytes()
    assert two.here.builder().build(kernel).outcome == "fresh"


def changed(name: str, data: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: files | {name: data}


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {one: data for one, data in files.items() if one != name}


def altered(files: dict[str, bytes]) -> dict[str, bytes]:
    library = bytearray(files["k00.so"])
    library[len(library) // 2] ^= 1
    return files | {"k00.so": bytes(library)}


def forged(files: dict[str, bytes]) -> dict[str, bytes]:
    """With another fingerprint than its contents have."""
    receipt = json.loads(files[receipts.NAME])
    receipt["fingerprint"] = "0" * 64
    receipt.pop("seal", None)
    return files | {receipts.NAME: json.dumps(receipt).encode()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (altered, "what came is damaged: a file is not what was built"),
        (without("k00.so"), "k00"),
        (without("k00_0.o"), "k00"),
        (without(receipts.NAME), "what came is damaged: its receipt can't be believed"),
        (changed(receipts.NAME, b"{"), "what came is damaged: its receipt can't be believed"),
        (forged, "what came is damaged"),
        (changed("../escaped", b""), "a file called '../escaped' came with it, which no build makes"),
        (changed("k00.so", b""), "what came is damaged: a file is not what was built"),
        (lambda files: {}, "what came is damaged: its receipt can't be believed"),
    ],
    ids=["altered", "no library", "no object", "no receipt", "torn receipt", "forged", "escaping", "empty", "nothing"],
)
def test_what_is_damaged_on_the_way_is_not_believed(two: Two, spoil: object, said: str) -> None:
    with pytest.raises(KernelFailure) as error:
        two.ask(spoil)  # type: ignore[arg-type]
    assert said in error.value.message
    (kernel,) = two.here.kernels
    assert receipts.read(kernel) is None
    assert not kernel.library.exists()
    assert not (two.here.shop.root.parent / "escaped").exists()
    two.here.__dict__.pop("made")
    assert two.ask() == "compiled"


def test_what_was_made_of_other_things_is_not_taken(two: Two) -> None:
    """Where the headers have changed since the worker was described."""
    (two.there.kernels, two.here.kernels)  # noqa: B018 - lays the headers out
    header = two.there.shop.include / "common.h"
    header.write_text("inline int common() { return 2; }\n")
    with pytest.raises(KernelFailure, match=r"k00: there made it of other things than are here: \S*common.h changed"):
        two.ask()
    assert receipts.read(two.here.kernels[0]) is None


def test_a_worker_that_is_another_than_it_was_makes_nothing(two: Two) -> None:
    answer = Worker(two.there).make(Order("run", "mine", "k00", "9.0a", "0" * 64), lambda event: None)
    assert (answer.files, answer.error) == ({}, "mine: this worker is another than it was")


def test_a_worker_that_can_build_nothing_says_why(two: Two) -> None:
    two.there.problem = EnvironmentProblem("no toolkit is here", remedy="get one")
    assert Worker(two.there).describe().problem == "no toolkit is here\n  remedy: get one"


def test_an_asker_whose_workers_are_lost_again_and_again_gives_up(two: Two) -> None:
    workers = Threads(Worker(two.there), gone=True)
    workers.executor = ThreadPoolExecutor(1)
    workers.executor.submit(time.sleep, 2)
    two.here.makers = Fleet(workers, describe(two.there), "run")
    with pytest.raises(KernelFailure, match="k00: 3 workers were lost while they compiled it"):
        two.here.builder().build(two.here.kernels[0])


def test_an_asker_without_workers_gives_up(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Threads(Worker(two.there))

    def nobody(order: Order) -> Future[Answer]:
        raise Lost

    monkeypatch.setattr(workers, "submit", nobody)
    two.here.makers = Fleet(workers, describe(two.there), "run")
    two.here.makers.patience = 0.0
    with pytest.raises(KernelFailure, match="k00: no worker is left"):
        two.here.builder().build(two.here.kernels[0])


@dataclass
class Leaving(Threads):
    """A worker that is told to end while it compiles; another one is asked next."""

    asked: int = 0

    def _make(self, order: Order) -> Answer:
        self.asked += 1
        return Answer(error="k00: stopped", stopped=True) if self.asked == 1 else super()._make(order)


def test_what_a_worker_leaves_unfinished_goes_to_another(two: Two) -> None:
    workers = Leaving(Worker(two.there))
    two.here.makers = Fleet(workers, describe(two.there), "run")
    assert two.here.builder().build(two.here.kernels[0]).outcome == "compiled"
    assert workers.asked == 2


def test_a_worker_that_ends_says_that_it_stopped(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(two.there)
    order = Order("run", "mine", "k00", "9.0a", worker.describe().environment.digest)
    monkeypatch.setattr(sessions.OWN, "stopping", True)
    answer = worker.make(order, lambda event: None)
    assert (answer.files, answer.stopped) == ({}, True), answer.error


def test_what_a_worker_has_read_it_needn_t_read_again(two: Two) -> None:
    """Though it is killed: it has thousands of headers to look at before it gets work."""
    Worker(two.there).describe()
    header = two.there.shop.include / "common.h"
    assert str(header) in json.loads((two.there.shop.root / "contents.json").read_text())["files"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Cost(cpu_seconds=90.0, longest=30.0, peak_rss=1), Cost(cpu_seconds=60.0, longest=50.0, peak_rss=1)),
        (Cost(cpu_seconds=40.0, longest=20.0, peak_rss=1), Cost(cpu_seconds=25.0, longest=25.0, peak_rss=1)),
        (Cost(cpu_seconds=20.0, longest=15.0, peak_rss=1), Cost(cpu_seconds=20.0, longest=10.0, peak_rss=1)),
    ],
)
def test_what_takes_a_worker_longest_goes_first(two: Two, first: Cost, second: Cost) -> None:
    """The workers have a compiler for each kernel, or two for the last of these, whose longest file then counts."""
    workers = Threads(Worker(two.there))
    workers.compilers = 4 if first.cpu_seconds == second.cpu_seconds else 2
    fleet = Fleet(workers, describe(two.there), "run")
    assert fleet.weight(first) > fleet.weight(second)


@dataclass
class Asked:
    """A Dask client whose one worker says what it is once the asker looks what it is itself, or after a while."""

    theirs: Environment
    status: str = "running"
    looks: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    looked: threading.Event = field(default_factory=threading.Event)

    def nthreads(self) -> dict[str, int]:
        self.looks += 1
        return {"tcp://a": 2}

    def run(self, *_words: object, **_how: object) -> dict[str, Described]:
        self.asked.set()
        self.looked.wait(5)
        time.sleep(0.3)
        return {"tcp://a": Described(self.theirs, 2)}

    def close(self, timeout: float = 0.0) -> None:
        self.status = "closed"


def test_workers_and_the_asker_look_at_the_same_time_what_they_are(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Asked(describe(two.there))

    def ours(place: Place) -> Environment:
        assert client.asked.wait(5), "before any worker was asked"
        client.looked.set()
        return describe(place)

    monkeypatch.setattr("fitasks.fleet.dask._client", lambda _address: client)
    monkeypatch.setattr("fitasks.fleet.environment.describe", ours)
    workers = DaskWorkers("tcp://scheduler:8786", two.here, "run", entry="", say=print)
    assert (workers.count(), workers.slots()) == (2, 2)
    workers.close()
    assert client.looks <= 4, "the scheduler isn't asked all the while"


def test_events_tell_how_many_files_are_done(two: Two) -> None:
    fleet = Fleet(Threads(Worker(two.there)), describe(two.there), "run")
    heard: list[str] = []
    fleet.hear = lambda event: heard.append(event["event"])
    for event in ("begin", "file", "file", "begin", "file"):
        fleet.told({"event": event, "label": "k00", "status": 0, "output": "k00_0.o"})
    fleet.told({"event": "file", "label": "k00", "status": 1, "output": "k00_1.o"})
    fleet.told({"event": "file", "label": "k00", "status": 0, "output": "k00.so"})
    assert fleet.files("k00") == 1, "of the worker that has it now"
    assert len(heard) == 7


def test_differences_are_said(two: Two) -> None:
    other = Environment({"nvcc": "V12.8", "c++": "g++ 12"}, {})
    assert difference(Environment({"nvcc": "V13.0", "c++": "g++ 12"}, {}), other) == ["nvcc is V12.8 there, V13.0 here"]
    tree = "{FLASHINFER}/include"
    before = lines(two.here, tree)
    assert sorted(line[65:] for line in before) == ["common.h", "k00_0.h", "k00_1.h"]
    (two.here.shop.include / "new.h").touch()
    two.here.__dict__.pop("judges")
    assert tree_difference(tree, lines(two.here, tree), before) == f"{tree}: new.h (nothing there, e3b0c44298fc here)"
    assert describe(two.here).unlike(describe(two.there)) == [tree]


def test_a_worker_with_another_processor_differs(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvcc and Debian's c++ say the same of themselves on both."""
    ours = describe(two.here)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    told = f"the processor is riscv64 there, {ours.words['the processor']} here"
    assert difference(ours, describe(two.there)) == [told]


def test_another_plan_is_a_difference(two: Two) -> None:
    two.there.count = 2
    assert describe(two.here).unlike(describe(two.there)) == ["kernels", "{FLASHINFER}/include"]
    told = tree_difference("kernels", lines(two.here, "kernels"), lines(two.there, "kernels"))
    assert told.startswith("kernels: k01 for 9.0a (")


def test_without_dask_it_is_said_where_to_get_it(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EnvironmentProblem) as error:
        DaskWorkers("tcp://scheduler:8786", two.here, "run", entry="", say=print)
    assert str(error.value) == "--workers needs Dask\n  remedy: pip install 'fitasks[dask]'"
