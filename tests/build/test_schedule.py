"""Order and threads for the kernels of one run, from costs alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fitasks.build.costs import Cost, Costs, guess
from fitasks.build.schedule import Schedule, Turn, longest_first, schedule
from fitasks.plan.kernel import Kernel
from tests.measured import SECONDS

TOTAL = sum(map(sum, SECONDS.values()))


def kernel(label: str) -> Kernel:
    sources = tuple(Path(f"{index}.cu") for index, _ in enumerate(SECONDS[label]))
    name = "batch_prefill_sm90" if label == "fa3" else label  # its family is seen in the name
    return Kernel(label, label, label, "9.0a", "", {}, name=name, sources=sources)


def costs(tmp_path: Path) -> Costs:
    known = Costs(tmp_path / "costs.json")
    for label, files in SECONDS.items():
        by_name = {f"{index}.cu": seconds for index, seconds in enumerate(files)}
        known.learn(kernel(label), Cost(sum(files), max(files), 1 << 30, files=by_name))
    return Costs.load(tmp_path / "costs.json")


def of_all(tmp_path: Path, slots: int, *, split: bool = True) -> Schedule:
    return schedule(map(kernel, SECONDS), costs(tmp_path), slots, split=split)


def split(found: Schedule) -> list[tuple[str, str]]:
    turns = found.turns.items()
    return [(label, name) for label, files in turns for name, turn in files.items() if turn.threads > 1]


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 64])
def test_no_number_of_cores_has_a_bad_order(tmp_path: Path, slots: int) -> None:
    found = of_all(tmp_path, slots)
    assert {label: len(files) for label, files in found.turns.items()} == {
        label: len(files) for label, files in SECONDS.items()
    }
    assert 0.999 * found.bound <= found.expected <= 1.1 * found.bound


def test_what_would_end_last_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16)
    assert split(found) == [("sampling", "0.cu"), ("fa3", "7.cu"), ("fa3", "6.cu")]
    assert found.turn("sampling", "0.cu").slots == 2, "as many as it keeps busy"
    assert found.turn("fa3", "7.cu").slots == 1
    assert found.turn("sampling", "0.cu").seconds == 122.0
    assert found.turn("sampling", "1.cu").threads == 1
    assert found.threads("sampling") == 4
    assert found.threads("page") == 1
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


def test_one_kernel_alone_is_split(tmp_path: Path) -> None:
    one = schedule([kernel("sampling")], costs(tmp_path), 8, split=True)
    assert split(one) == [("sampling", "0.cu")]
    assert one.turn("sampling", "0.cu").threads == 4
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


def test_the_largest_source_is_guessed_to_take_longest(tmp_path: Path) -> None:
    for name, size in (("a.cu", 10), ("b.cu", 1000), ("c.cu", 20)):
        (tmp_path / name).write_text("x" * size)
    sources = tuple(tmp_path / name for name in ("a.cu", "b.cu", "c.cu"))
    one = Kernel("page", "page", "page", "9.0a", "", {}, name="page", sources=sources)
    assert Costs(tmp_path / "none.json").files(one) == {"a.cu": 12.5, "b.cu": 20.0, "c.cu": 12.5}


def test_costs_that_an_older_version_learnt_are_good_enough(tmp_path: Path) -> None:
    old = {"cpu_seconds": 40.0, "longest": 30.0, "peak_rss": 1 << 30, "longest_file": "page.o", "learnt": True}
    for files in ({}, {"files": [30.0, 10.0]}):
        (tmp_path / "costs.json").write_text(json.dumps({"version": 1, "modules": {"page": old | files}}))
        known = Costs.load(tmp_path / "costs.json")
        assert known.files(kernel("page")) == {"0.cu": 30.0, "1.cu": 10.0}
        assert known.of(kernel("page")).longest_file == "page.o"
