"""Order and threads for the kernels of one run, from costs alone."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from filelock import FileLock

from fitasks.compile.pool.costs import Cost, Costs, guess
from fitasks.compile.pool.forecast import Work, makespan
from fitasks.compile.pool.schedule import Schedule, Turn, longest_first, schedule
from fitasks.plan.kernel import Kernel
from tests.measured import SECONDS

TOTAL = sum(sum(files.values()) for files in SECONDS.values())


def kernel(label: str) -> Kernel:
    sources = tuple(map(Path, SECONDS[label]))
    name = "batch_prefill_sm90" if label == "fa3" else label  # its family is seen in the name
    return Kernel(label, label, label, "9.0a", "", {}, name=name, sources=sources)


def costs(tmp_path: Path) -> Costs:
    known = Costs(tmp_path / "costs.json")
    for label, files in SECONDS.items():
        known.learn(kernel(label), Cost(sum(files.values()), max(files.values()), 1 << 30, files=files))
    return Costs.load(tmp_path / "costs.json")


def of_all(tmp_path: Path, slots: int, *, split: bool = True) -> Schedule:
    return schedule(map(kernel, SECONDS), costs(tmp_path), slots, split=split)


def split(found: Schedule) -> list[tuple[str, str]]:
    turns = found.turns.items()
    return [(label, name) for label, files in turns for name, turn in files.items() if turn.threads > 1]


def worked(turn: Turn, seconds: float, *, sampling: bool) -> Work:
    """A file that takes so many seconds, begun as it was scheduled."""
    return Work(seconds, 1.0 if turn.threads == 1 else 0.62 if sampling else 0.93, turn.patient)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 64])
def test_no_number_of_cores_has_a_bad_order(tmp_path: Path, slots: int) -> None:
    found = of_all(tmp_path, slots)
    assert {label: len(files) for label, files in found.turns.items()} == {
        label: len(files) for label, files in SECONDS.items()
    }
    assert 0.999 * found.bound <= found.expected <= 1.1 * found.bound


def test_what_would_end_last_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16)
    longest = "batch_prefill_ragged_sm90_kernel_mask_3.cu"
    assert split(found) == [
        ("sampling", "sampling.cu"),
        ("fa3", longest),
        ("fa3", "batch_prefill_paged_sm90_kernel_mask_3.cu"),
    ]
    assert found.turn("sampling", "sampling.cu").slots == 1, "a second one would be idle for most of the time"
    assert not found.turn("fa3", longest).patient
    assert found.turn("sampling", "renorm.cu").patient
    assert found.turn("sampling", "sampling.cu").seconds == 122.0
    assert found.turn("sampling", "renorm.cu").threads == 1
    assert found.bound == pytest.approx(88.6), "fa3's longest file that isn't split, over an even spread of 85.6 s"


def test_with_two_cores_nothing_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 2)
    assert split(found) == []
    assert found.bound == pytest.approx(TOTAL / 2)
    assert found.expected == pytest.approx(found.bound, rel=0.01)


def test_split_compile_false(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16, split=False)
    assert split(found) == []
    assert found.bound == 122
    assert not any(turn.patient for files in found.turns.values() for turn in files.values()), "cores aren't scarce"


def test_one_kernel_alone_is_split(tmp_path: Path) -> None:
    one = schedule([kernel("sampling")], costs(tmp_path), 8, split=True)
    assert split(one) == [("sampling", "sampling.cu")]
    assert one.turn("sampling", "sampling.cu").threads == 8
    assert split(schedule([kernel("sampling")], costs(tmp_path), 2, split=True)) == []


def test_what_is_not_known_takes_no_time() -> None:
    assert Schedule().turn("page", "page.cu") == Turn(0.0)


def test_hundreds_of_kernels_are_ordered_all_the_same() -> None:
    many = [
        Kernel(f"k{index}", "x", "x", "9.0a", "", {}, name=f"k{index}", sources=(Path("a.cu"), Path("b.cu")))
        for index in range(655)
    ]
    found = schedule(many, Costs(Path("/dev/null")), 16, split=True)
    assert len(found.turns) == 655
    assert found.expected < 1.05 * found.bound


def test_nothing_to_do() -> None:
    assert schedule([], Costs(Path("/dev/null")), 2, split=True) == Schedule()


def test_doit_begins_with_the_longest(tmp_path: Path) -> None:
    labels = [one.label for one in longest_first(map(kernel, SECONDS), costs(tmp_path))]
    assert labels == ["sampling", "fa3", "rope", "page", "fa2", "quantization", "decode", "cascade"]


def test_first_guesses_know_the_long_ones(tmp_path: Path) -> None:
    """What was never built: by family. sampling.cu must be split on 16 cores at the first build already."""
    found = schedule(map(kernel, SECONDS), Costs(tmp_path / "none.json"), 16, split=True)
    assert split(found)[0][0] == "sampling"
    assert found.expected < 1.1 * found.bound
    assert not guess(kernel("sampling")).learnt


@pytest.mark.parametrize("slots", [8, 16, 24])
def test_what_is_foretold_may_be_wrong(tmp_path: Path, slots: int) -> None:
    """Each file takes a tenth more or less, at random; files are split so that it matters little which."""
    dice, none = random.Random(1), Costs(tmp_path / "none.json")
    turned = schedule(map(kernel, SECONDS), none, slots, split=True).turns
    ratios = []
    for _ in range(10):
        seconds = {
            label: {name: each * dice.lognormvariate(0.0, 0.1) for name, each in files.items()}
            for label, files in SECONDS.items()
        }
        files = [(turn, seconds[label][name]) for label, turns in turned.items() for name, turn in turns.items()]
        files.sort(key=lambda file: -file[0].seconds)
        known = Costs(tmp_path / "known.json")
        for label, each in seconds.items():
            known._known[kernel(label).name] = Cost(sum(each.values()), max(each.values()), 1 << 30, files=each)
        works = [worked(turn, each, sampling=each == seconds["sampling"]["sampling.cu"]) for turn, each in files]
        ratios.append(makespan(works, slots) / schedule(map(kernel, SECONDS), known, slots, split=True).bound)
    assert sum(ratios) / len(ratios) < 1.03


@pytest.mark.parametrize("slots", [2, 4, 8, 12, 16])
def test_an_order_by_first_guesses_is_nearly_as_good(tmp_path: Path, slots: int) -> None:
    """The files' real seconds, in the order and with the threads of a first build."""
    found = schedule(map(kernel, SECONDS), Costs(tmp_path / "none.json"), slots, split=True)
    turns = [(turn, SECONDS[label][name]) for label, files in found.turns.items() for name, turn in files.items()]
    turns.sort(key=lambda pair: -pair[0].seconds)
    works = [worked(turn, seconds, sampling=seconds == 122.0) for turn, seconds in turns]
    assert makespan(works, slots) < 1.05 * of_all(tmp_path, slots).expected


def test_what_was_learnt_of_other_files_is_not_used(tmp_path: Path) -> None:
    """A FlashInfer whose module has other sources."""
    known = Costs(tmp_path / "costs.json")
    known.learn(kernel("page"), Cost(40.0, 30.0, 1 << 30, files={"page.cu": 30.0, "more.cu": 10.0}))
    assert known.files(kernel("page")) == pytest.approx(guess(kernel("page"), pace=known.pace).files)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1, "modules": {}}', '{"version": 2, "modules": {"page": {}}}']
)
def test_a_damaged_or_older_file_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    assert not Costs.load(tmp_path / "costs.json").of(kernel("page")).learnt


GOOD = {"cpu_seconds": 30.0, "longest": 20, "peak_rss": 1 << 30, "longest_file": "page.cu", "files": {"page.cu": 20.0}}
BAD = [
    {"cpu_seconds": None, "longest": None, "peak_rss": 1},
    {"cpu_seconds": 1.0, "longest": 1.0, "peak_rss": "x", "files": None},
    {"peak_rss": "x"},
    {"peak_rss": 1e9},
    {"files": None},
    {"files": {"page.cu": "long"}},
    {"files": {"page.cu": float("nan")}},
    {"cpu_seconds": float("inf")},
    {"longest": -1},
    {"longest": 10**400},
    {"learnt": "yes"},
    {"longest_file": 3},
    {"gain": True},
    {"unknown": 3},
    [],
    None,
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_of_a_damaged_file_of_costs_what_is_sound_counts(tmp_path: Path, bad: object) -> None:
    file = tmp_path / "costs.json"
    damaged = GOOD | bad if isinstance(bad, dict) and "longest" not in bad else bad
    file.write_text(json.dumps({"version": 2, "modules": {"page": GOOD, "sampling": damaged}}))
    costs = Costs.load(file)
    assert costs.of(kernel("page")).cpu_seconds == 30.0
    assert not costs.of(kernel("sampling")).learnt, "guessed"
    assert schedule([kernel("page"), kernel("sampling")], costs, 4, split=True).expected > 0


def test_costs_that_somebody_else_is_writing_are_not_waited_for(tmp_path: Path) -> None:
    costs = Costs.load(tmp_path / "costs.json")
    begin = time.monotonic()
    with FileLock(tmp_path / "costs.lock"):
        costs.learn(kernel("page"), Cost(30.0, 20.0, 1 << 30))
    assert time.monotonic() - begin < 5
    assert costs.of(kernel("page")).learnt
    assert not (tmp_path / "costs.json").exists()
