"""What a first build knows: seconds and memory that were measured elsewhere, and this machine's pace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from bench.costs import read, table
from fitasks.compile.pool.costs import Cost, Costs, guess
from fitasks.compile.pool.measured import Measured, One, measured
from fitasks.compile.runner import Runner
from fitasks.plan.kernel import Kernel
from fitasks.processes.process import Finished

if TYPE_CHECKING:
    from fitasks.compile.job import Compiling

ROOT = Path(__file__).parents[2]
GENCODE = "-gencode=arch=compute_{0},code=sm_{0} "
SHIPPED = Measured({"page.cu": One(20.0, 10**9), "a_mask_0.cu": One(10.0, 1), "a_mask_1.cu": One(30.0, 9 << 30)}, 0.8)


def kernel(name: str, *sources: str, target: str = "9.0a") -> Kernel:
    ninja = "".join(GENCODE.format(one.replace(".", "")) for one in target.split())
    return Kernel(name, name, name, target, "", {}, name=name, sources=tuple(map(Path, sources)), ninja=ninja)


def costs(*learnt: tuple[Kernel, dict[str, float]]) -> Costs:
    found = Costs(Path("/dev/null/none"), shipped=SHIPPED)
    for one, files in learnt:
        found.learn(one, Cost(sum(files.values()), max(files.values()), 1 << 30, files=files))
    return found


def test_what_is_shipped_was_made_of_the_memos_that_lie_beside_the_bench() -> None:
    memos = sorted((ROOT / "bench" / "costs").glob("*.json"))
    text = (ROOT / "fitasks" / "compile" / "pool" / "measured.json").read_text()
    assert table([(memo.stem, read(memo)) for memo in memos]) == text.rstrip("\n")


def test_what_is_shipped_can_be_true() -> None:
    found = measured()
    assert len(found.files) > 30
    assert all(1 < one.seconds < 1000 and 1e8 < one.peak < 2e10 for one in found.files.values())
    assert 0 < found.further < 1.2


def test_a_file_that_was_measured() -> None:
    assert costs().of(kernel("page", "page.cu")).files == {"page.cu": 20.0}


def test_one_among_its_like_that_was_not() -> None:
    assert SHIPPED.of("a_mask_1.cu") == One(30.0, 9 << 30)
    assert SHIPPED.of("a_mask_7.cu") == One(20.0, 9 << 30), "the mean, and the most memory"
    assert SHIPPED.of("a_mask.cu") == SHIPPED.of("a_mask_7.cu")
    assert SHIPPED.of("b_mask_7.cu") is None


def test_a_file_that_another_flashinfer_adds_is_guessed_by_its_family() -> None:
    files = costs().of(kernel("page", "page.cu", "page_new.cu", "page_binding.cu")).files
    assert files == {"page.cu": 20.0, "page_new.cu": 18.0, "page_binding.cu": 7.0}


def test_memory_is_never_thought_to_be_less_than_before() -> None:
    """A number of compilers that has fitted into a machine's memory must still do."""
    assert costs().of(kernel("page", "page.cu")).peak_rss == 1 << 30, "not the 1.0 GB that were measured"
    assert costs().of(kernel("attention", "a_mask_0.cu", "a_mask_1.cu")).peak_rss == 9 << 30
    everything = kernel("gemm", *measured().files)
    assert guess(everything).peak_rss >= 5 << 30


def test_several_architectures_take_longer() -> None:
    assert costs().of(kernel("page", "page.cu", target="8.0 9.0a")).cpu_seconds == pytest.approx(36.0)
    unknown = costs().of(kernel("page", "other.cu", target="8.0 9.0a 10.0a"))
    assert unknown.cpu_seconds == pytest.approx(18.0 * 2.6), "which families' guesses are told for, too"


def test_a_first_compile_tells_the_pace_of_a_machine() -> None:
    found, other = costs(), kernel("attention", "a_mask_0.cu", "new.cu")
    assert found.of(other).files == {"a_mask_0.cu": 10.0, "new.cu": 18.0}
    found.learn(kernel("page", "page.cu"), Cost(60.0, 60.0, 1 << 30, files={"page.cu": 60.0}))
    assert found.of(other).files == {"a_mask_0.cu": 30.0, "new.cu": 54.0}
    assert found.of(kernel("page", "page.cu")).learnt
    assert found.files(kernel("page", "page.cu", "more.cu")) == {"page.cu": 60.0, "more.cu": 54.0}


def test_of_what_says_nothing_of_the_pace_none_is_taken() -> None:
    two = kernel("page", "page.cu", target="8.0 9.0a")
    assert costs((two, {"page.cu": 60.0})).pace == 1.0, "two architectures"
    assert costs((kernel("page", "other.cu"), {"other.cu": 60.0})).pace == 1.0
    assert costs((kernel("page", "page.cu"), {"page.cu": 0.0})).pace == 1.0


def test_every_machine_divides_by_the_same_guesses() -> None:
    """shards.py: what this one has learnt mustn't decide."""
    assert guess(kernel("page", "page.cu"), SHIPPED).cpu_seconds == 20.0
    assert guess(replace(kernel("page", "page.cu"), target="8.0"), SHIPPED).cpu_seconds == 20.0


def test_a_compile_tells_what_each_file_took_for_the_next_table(tmp_path: Path) -> None:
    runner = cast("Runner", SimpleNamespace(costs=Costs(tmp_path / "costs.json")))
    one = kernel("page", "page.cu", "page_binding.cu")
    seconds, peaks = {"page.cu": 24.1, "page_binding.cu": 10.1}, {"page.cu": 482 << 20, "page_binding.cu": 371 << 20}
    compiling = cast("Compiling", SimpleNamespace(seconds=seconds, peaks=peaks))
    Runner._learn(runner, one, compiling, Finished(0, 20.0, 34.5, 482 << 20))
    (learnt,) = read(tmp_path / "costs.json").values()
    assert (learnt["files"], learnt["peaks"], learnt["longest_file"]) == (seconds, peaks, "page.cu")
    assert Costs.load(tmp_path / "costs.json").of(one).peaks == peaks


def test_what_an_earlier_fitasks_learnt_counts(tmp_path: Path) -> None:
    """It knew no memory of single files."""
    (tmp_path / "costs.json").write_text(
        '{"version": 2, "modules": {"page 9.0a": {"cpu_seconds": 48.2, "longest": 48.2, "peak_rss": 481, '
        '"longest_file": "page.cu", "learnt": true, "files": {"page.cu": 48.2}, "gain": 1.0}}}'
    )
    found = Costs.load(tmp_path / "costs.json")
    assert found.of(kernel("page", "page.cu")).learnt
    assert found.pace == pytest.approx(2.0)
