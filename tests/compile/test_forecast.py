"""The pool, simulated: its habits, each alone, and a build that was measured."""

from __future__ import annotations

import pytest

from fitasks.compile.pool.forecast import Work, makespan
from tests.measured import SECONDS

FILES = sorted((seconds for files in SECONDS.values() for seconds in files.values()), reverse=True)


@pytest.mark.parametrize(
    ("seconds", "slots", "takes"),
    [
        ([], 2, 0.0),
        ([3.0, 2.0, 4.0], 1, 9.0),
        ([3.0, 2.0, 4.0], 2, 6.0),
        ([4.0, 3.0, 2.0], 2, 5.0),
        ([3.0, 2.0, 4.0], 8, 4.0),
    ],
)
def test_one_after_another_and_side_by_side(seconds: list[float], slots: int, takes: float) -> None:
    assert makespan(map(Work, seconds), slots) == pytest.approx(takes)


def test_a_split_file_takes_no_slot_that_would_be_idle() -> None:
    assert [Work(1.0, gain).slots for gain in (1.0, 0.93, 0.62, 0.3)] == [1, 1, 1, 3]
    split = Work(10.0, gain=0.5)
    assert makespan([split], 2) == pytest.approx(5.0)
    assert makespan([split, Work(5.0)], 3) == pytest.approx(5.0)
    assert makespan([split, Work(5.0)], 2) == pytest.approx(10.0)
    assert makespan([split], 1) == pytest.approx(10.0), "no second core: nothing is won"


def test_where_more_is_wanted_than_there_is_everything_slows_down() -> None:
    assert makespan([Work(8.0, gain=0.8), Work(8.0, gain=0.8)], 2) == pytest.approx(8.0)


def test_patient_files_get_what_others_leave() -> None:
    split = Work(15.0, gain=0.6)  # 1.67 cores for 9 s
    assert makespan([split, Work(3.0)], 2) == pytest.approx(10.0), "3 of 4 s' work is done in the first 4 s"
    assert makespan([split, Work(3.0, patient=True)], 2) == pytest.approx(9.0)
    assert makespan([split, Work(9.0)], 2) == pytest.approx(12.0), "both are held up"
    assert makespan([split, Work(8.0, patient=True)], 2) == pytest.approx(9.0 + 8.0 - 3.0)


def test_a_patient_file_gets_its_share() -> None:
    assert makespan([Work(10.0), Work(10.0, patient=True)], 1) == pytest.approx(20.0)


def test_longest_first_comes_near_the_bound() -> None:
    for slots in (2, 4, 8, 12):
        bound = max(sum(FILES) / slots, FILES[0])
        assert makespan(map(Work, FILES), slots) < 1.08 * bound


def test_thousands_of_files() -> None:
    works = [Work(20.0), Work(10.0), Work(10.0)] * 655
    assert makespan(works, 16) == pytest.approx(655 * 40 / 16, rel=0.02)
