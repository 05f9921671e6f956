"""Dividing kernels among machines: each in one part, alike on machines that know different things, and evenly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.compile.pool.costs import Cost, Costs, guess
from fitasks.compile.pool.shards import Division, Shard, divide
from fitasks.graph.shard import this_shard
from fitasks.graph.words import taken
from fitasks.plan.kernel import Kernel

FILES = ["page.cu", "cub_topk.cu", "sampling.cu", "binding.cu", "batch_prefill_kernel_1.cu", "batch_decode.cu"]
NAMES = ["page", "fused_moe", "batch_prefill_sm90", "topk", "sampling", "rope", "decode", "cascade"]


def kernel(label: str, name: str, files: list[str], place: str = "/a") -> Kernel:
    directory = Path(place, name)
    sources = tuple(directory / file for file in files)
    return Kernel(label, label, name, "9.0a", "", {}, name=name, build_dir=directory, sources=sources)


some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORKS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 40)), max_size=60)


def plan_of(works: list[tuple[str, int]]) -> list[Kernel]:
    """Kernels of these names, with so many files."""
    files = [FILES[index % len(FILES)] for index in range(40)]
    return [kernel(f"{name}-{index}", name, files[:count]) for index, (name, count) in enumerate(works)]


def weight(one: Kernel) -> float:
    return guess(one).cpu_seconds or 8.0


@some
@given(WORKS, st.integers(1, 40))
def test_each_kernel_is_in_one_part_and_no_part_has_more_than_one_kernel_too_much(
    works: list[tuple[str, int]], count: int
) -> None:
    plan = plan_of(works)
    division = divide(plan, count)
    assert sorted(label for shard in division.shards for label in shard) == sorted(one.label for one in plan)
    assert len(division.shards) == count
    weights = {one.label: weight(one) for one in plan}
    sums = [sum(weights[label] for label in shard) for shard in division.shards]
    assert division.seconds == pytest.approx(tuple(sums))
    longest = max(weights.values(), default=0)
    assert max(sums) - min(sums) <= longest
    assert max(sums) <= sum(sums) / count + longest * (1 - 1 / count) + 1e-6


@some
@given(WORKS, st.integers(1, 40), st.randoms(use_true_random=False))
def test_every_machine_divides_alike(works: list[tuple[str, int]], count: int, random: object) -> None:
    """Whatever the order of its kernels, and wherever its cache and its packages lie."""
    plan = plan_of(works)
    elsewhere = [
        replace(one, build_dir=Path("/b"), sources=tuple(Path("/b/c", s.name) for s in one.sources)) for one in plan
    ]
    random.shuffle(elsewhere)  # type: ignore[attr-defined]
    assert divide(elsewhere, count) == divide(plan, count)


def test_what_this_machine_has_learnt_counts_for_nothing(tmp_path: Path) -> None:
    plan = [kernel(f"page-{index}", f"page_{index}", ["page.cu"]) for index in range(9)]
    before = divide(plan, 4)
    Costs.load(tmp_path / "costs.json").learn(plan[0], Cost(1000.0, 1000.0, 1 << 30, files={"page.cu": 1000.0}))
    assert divide(plan, 4) == before


def test_costs_that_the_user_names_count(tmp_path: Path) -> None:
    plan = [kernel(f"page-{index}", f"page_{index}", ["own.cu"]) for index in range(9)]
    Costs.load(tmp_path / "costs.json").learn(plan[4], Cost(1000.0, 1000.0, 1 << 30, files={"own.cu": 1000.0}))
    division = divide(plan, 4, Costs.given(tmp_path / "costs.json").of)
    assert division.shards[0] == ("page-4",)
    assert division.largest == ("page-4", 1000.0)
    assert division.digest != divide(plan, 4).digest


def test_a_module_of_sglangs_is_called_otherwise_on_each_machine(tmp_path: Path) -> None:
    one = replace(kernel("rope", "sgl_kernel_rope_0123456789abcdef", ["rope.cu"]), kind="sglang")
    Costs.load(tmp_path / "costs.json").learn(one, Cost(1000.0, 1000.0, 1 << 30))
    assert divide([one], 1, Costs.given(tmp_path / "costs.json").of).seconds == (guess(one).cpu_seconds,)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"version": 2, "modules": {}}'])
def test_a_file_of_costs_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(BadInput, match=r"costs.json: this file says of no module what it costs\n  remedy: name a copy"):
        Costs.given(tmp_path / "costs.json")
    with pytest.raises(BadInput, match=r"none\.json: there is no such file"):
        Costs.given(tmp_path / "none.json")


def test_more_parts_than_kernels() -> None:
    division = divide([kernel("page", "page", ["page.cu"])], 3)
    assert division.shards == (("page",), (), ())
    assert divide([], 2) == Division(((), ()), (0.0, 0.0), ("", 0.0), divide([], 2).digest)


@pytest.mark.parametrize("text", ["1/1", "3/20", "20/20", "0003/20"])
def test_a_part_is_written_as_a_fraction(text: str) -> None:
    number, count = map(int, text.split("/"))
    assert Shard.of(text) == Shard(number, count)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/20", "there is no part 0 of 20\n  remedy: the parts of 20 machines are called 1/20 to 20/20"),
        ("21/20", "there is no part 21 of 20\n  remedy: the parts of 20 machines are called 1/20 to 20/20"),
        ("1/0", "nothing can be divided among 0 machines"),
        *[
            (text, "not a part of the whole, such as 3/20")
            for text in ("x/y", "3", "3/", "/20", "-1/20", "3/20/1", "\u0661/\u0662")
        ],
        ("1e3/20", "not a part"),
        ("3 / 20", "not a part"),
    ],
)
def test_what_is_no_part_is_refused(text: str, said: str) -> None:
    with pytest.raises(EnvironmentProblem) as error:
        Shard.of(text)
    assert str(error.value).startswith(f"--shard {text}: {said}")


def test_costs_without_a_shard_are_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="--shard-costs says by what to divide, and nothing is"):
        this_shard([], {}, shard=None, shard_costs="costs.json")


OPTIONS = [{"name": "shard", "long": "shard"}, {"name": "costs", "long": "shard-costs"}]


@pytest.mark.parametrize(
    ("words", "left", "shard"),
    [
        (["page", "--shard", "1/2"], ["page"], "1/2"),
        (["page", "--shard=1/2", "cascade"], ["page", "cascade"], "1/2"),
        (["page", "--shard"], ["page", "--shard"], ""),
        (["page", "--shards", "1/2", "a=b"], ["page", "--shards", "1/2", "a=b"], ""),
    ],
)
def test_options_behind_names_are_ours(words: list[str], left: list[str], shard: str) -> None:
    params = {"shard": ""}
    assert taken(params, words, OPTIONS) == left
    assert params["shard"] == shard
