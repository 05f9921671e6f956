"""The pool, simulated: what is known of ninja's habits, each alone, and a build that was measured."""

from __future__ import annotations

import pytest

from fitasks.build.forecast import Work, makespan
from tests.measured import SECONDS

# As they were begun; sampling's ninja had two slots, and its long file, split, took 77.9 s. All of it took 99.6 s.
MEASURED = (Work((*SECONDS["sampling"][:2], 77.9), slots=2), *map(Work, list(SECONDS.values())[1:]))


@pytest.mark.parametrize(
    ("works", "slots", "seconds"),
    [
        ([], 2, 0.0),
        ([Work(())], 2, 0.0),
        ([Work((3.0, 2.0, 4.0))], 1, 9.0),
        ([Work((3.0, 2.0, 4.0))], 2, 6.0),
        ([Work((3.0, 2.0, 4.0))], 8, 4.0),
        ([Work((3.0,)), Work((3.0,))], 1, 6.0),
    ],
)
def test_one_after_another_and_side_by_side(works: list[Work], slots: int, seconds: float) -> None:
    assert makespan(works, slots) == pytest.approx(seconds)


def test_a_ninja_looks_for_slots_only_when_one_of_its_own_commands_has_ended() -> None:
    """The second one's slot is free after 1 s; the first one's further files wait until 4 s, and only then are two."""
    assert makespan([Work((4.0,)), Work((1.0,))], 2) == pytest.approx(4.0)
    assert makespan([Work((1.0,)), Work((4.0, 4.0, 4.0))], 2) == pytest.approx(8.0)
    assert makespan([Work((4.0, 4.0, 4.0)), Work((1.0,))], 2) == pytest.approx(8.0)


def test_an_own_slot_that_lies_idle_is_lent() -> None:
    """After 1 s one file of two is left, on a token: the second kernel begins at once."""
    assert makespan([Work((1.0, 5.0)), Work((4.0,))], 2) == pytest.approx(5.0)


def test_split_files_take_more_than_their_slot_and_slow_the_others_where_there_is_no_more() -> None:
    split = Work((10.0,), gain=0.5, slots=2)
    assert makespan([split], 2) == pytest.approx(5.0)
    assert makespan([split, Work((5.0,))], 3) == pytest.approx(5.0)
    assert makespan([Work((10.0, 10.0), gain=0.5, slots=2)], 3) == pytest.approx(5.0 * 4 / 3)


def test_a_build_that_was_measured() -> None:
    assert makespan(MEASURED, 16) == pytest.approx(99.6, rel=0.02)


def test_thousands_of_files() -> None:
    works = [Work((20.0, 10.0, 10.0))] * 655
    assert makespan(works, 16) == pytest.approx(655 * 40 / 16, rel=0.02)
