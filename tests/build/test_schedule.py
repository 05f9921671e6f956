"""Order and threads for the kernels of one run, from costs alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fitasks.build.costs import Cost, Costs, guess
from fitasks.build.schedule import Schedule, heaviest_first, schedule
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
        known.learn(kernel(label), Cost(sum(files), max(files), 1 << 30, files=files))
    return Costs.load(tmp_path / "costs.json")


def of_all(tmp_path: Path, slots: int, *, split: bool = True) -> Schedule:
    return schedule(map(kernel, SECONDS), costs(tmp_path), slots, split=split)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 64])
def test_no_number_of_cores_has_a_bad_order(tmp_path: Path, slots: int) -> None:
    """Kernels by CPU seconds, or by their longest file, take 1.9 and 1.3 times the bound on 12 cores."""
    found = of_all(tmp_path, slots)
    assert sorted(found.order) == sorted(SECONDS)
    assert 0.999 * found.bound <= found.expected <= 1.18 * found.bound


def test_what_would_end_last_begins_first_and_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16)
    assert set(found.order[:2]) == {"sampling", "fa3"}
    assert found.split == {"sampling": 4}
    assert found.bound == pytest.approx(92.7), "fa3's longest file, over an even spread of 85.6 s"


def test_with_two_cores_nothing_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 2)
    assert found.split == {}
    assert found.bound == pytest.approx(TOTAL / 2)
    assert found.expected == pytest.approx(found.bound, rel=0.01)


def test_split_compile_false(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16, split=False)
    assert found.split == {}
    assert found.order[0] == "sampling", "it begins first all the same"
    assert found.bound == 122


def test_one_kernel_alone_is_split(tmp_path: Path) -> None:
    assert schedule([kernel("sampling")], costs(tmp_path), 8, split=True).split == {"sampling": 4}
    assert schedule([kernel("sampling")], costs(tmp_path), 2, split=True).split == {}


def test_the_same_question_has_the_same_answer(tmp_path: Path) -> None:
    known = costs(tmp_path)
    backwards = [kernel(label) for label in reversed(SECONDS)]
    assert schedule(backwards, known, 12, split=True).order == of_all(tmp_path, 12).order


def test_hundreds_of_kernels_are_ordered_all_the_same() -> None:
    many = [
        Kernel(f"k{index}", "x", "x", "9.0a", "", {}, name=f"k{index}", sources=(Path("a.cu"), Path("b.cu")))
        for index in range(655)
    ]
    found = schedule(many, Costs(Path("/dev/null")), 16, split=True)
    assert len(found.order) == 655
    assert found.expected < 1.05 * found.bound


def test_nothing_to_do() -> None:
    assert schedule([], Costs(Path("/dev/null")), 2, split=True) == Schedule()


def test_doit_begins_with_the_heaviest(tmp_path: Path) -> None:
    labels = [one.label for one in heaviest_first(map(kernel, SECONDS), costs(tmp_path))]
    assert labels == ["fa3", "fa2", "sampling", "rope", "decode", "page", "quantization", "cascade"]


def test_first_guesses_know_the_long_ones(tmp_path: Path) -> None:
    """What was never built: by family. sampling.cu must be split on 16 cores at the first build already."""
    found = schedule(map(kernel, SECONDS), Costs(tmp_path / "none.json"), 16, split=True)
    assert list(found.split) == ["sampling"]
    assert found.expected < 1.2 * found.bound
    assert not guess(kernel("sampling")).learnt


def test_costs_that_an_older_version_learnt_are_good_enough(tmp_path: Path) -> None:
    old = {"cpu_seconds": 40.0, "longest": 30.0, "peak_rss": 1 << 30, "longest_file": "page.o", "learnt": True}
    (tmp_path / "costs.json").write_text(json.dumps({"version": 1, "modules": {"page": old}}))
    found = Costs.load(tmp_path / "costs.json").of(kernel("page"))
    assert (found.files, found.longest_file, found.learnt) == ((30.0, 10.0), "page.o", True)
