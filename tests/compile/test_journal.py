"""Journals: one for each run, and the link that the report follows."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.compile.journal import NAME, Journal

if TYPE_CHECKING:
    from tests.workshop import Workshop


def events(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text().splitlines()
    return [(event["event"], event["number"]) for event in map(json.loads, lines)]


def run(state: Path, number: int, *, compiles: bool) -> Journal:
    journal = Journal.of_run(state)
    journal.write("run", number=number)
    if compiles:
        journal.write("begin", number=number)
    journal.write("end", number=number)
    return journal


def test_a_run_that_only_heals_leaves_the_last_compile_to_be_read(tmp_path: Path) -> None:
    link = tmp_path / NAME
    run(tmp_path, 0, compiles=False)
    assert events(link) == [("run", 0), ("end", 0)]  # better than none
    run(tmp_path, 1, compiles=True)
    run(tmp_path, 2, compiles=False)
    assert events(link) == [("run", 1), ("begin", 1), ("end", 1)]


def test_two_runs_at_once_keep_their_lines_apart(tmp_path: Path) -> None:
    one, two = Journal.of_run(tmp_path), Journal.of_run(tmp_path)
    for name in ("run", "begin", "end"):
        one.write(name, number=1)
        two.write(name, number=2)
    found = [events(path) for path in sorted((tmp_path / "journals").iterdir())]
    assert found == [[(name, number) for name in ("run", "begin", "end")] for number in (1, 2)]
    assert events(tmp_path / NAME) == found[1]


def test_a_file_of_before_there_were_links_is_replaced_by_a_compile(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"event": "run", "number": 0}\n')
    run(tmp_path, 1, compiles=False)
    assert events(tmp_path / NAME) == [("run", 0)]
    run(tmp_path, 2, compiles=True)
    assert events(tmp_path / NAME)[0] == ("run", 2)


def test_old_ones_go_but_not_the_one_that_is_read_nor_that_of_a_run_that_goes_on(tmp_path: Path) -> None:
    run(tmp_path, 1, compiles=True)
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    (directory,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (read,) = directory.iterdir()
    old = read.rename(directory / f"0000-{ended}.jsonl")
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to(Path("journals", old.name))
    for number in range(1, 20):
        (directory / f"{number:04}-{ended if number > 1 else os.getpid()}.jsonl").touch()
    Journal.of_run(tmp_path)
    left = sorted(path.name.partition("-")[0] for path in directory.iterdir())
    assert left == ["0000", "0001", *(f"{number:04}" for number in range(12, 20))]


def test_where_nothing_can_be_written_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "journals").touch()
    run(tmp_path, 1, compiles=True)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OverflowError("too long"), "page: OverflowError: too long\n  log: "),
        (EnvironmentProblem("no ninja", remedy="install it"), "page: no ninja\n  remedy: install it"),
    ],
)
def test_whatever_ends_a_kernel_its_end_is_told(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("fitasks.compile.begun.begin", fail)
    with pytest.raises(KernelFailure) as caught:
        workshop.build(workshop.kernel())
    assert str(caught.value).startswith(told)
    (end,) = map(json.loads, (workshop.root / "journal.jsonl").read_text().splitlines())
    assert (end["event"], end["outcome"], end["error"]) == ("end", "failed", str(caught.value))
