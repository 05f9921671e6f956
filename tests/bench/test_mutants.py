"""The bench that reads mutants: that it sees what it is for. Its 10,000 a border are no test of every day."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from bench import mutants
from bench.mutants_borders import BORDERS
from bench.mutants_mutate import mutate, of_json
from bench.mutants_worlds import Border
from fitasks.base import memo

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("border", ["kernels", "models", "store", "elsewhere"])
def test_mutants_are_read(border: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "KIND_SHARE", 0.0)
    found = mutants.run(border, 3, seed=1)
    assert (found.mutants, found.kinds) == (3, {})


def test_the_same_seed_makes_the_same_mutant() -> None:
    sample = json.dumps({"a": [1, 2, {"b": "text"}], "c": {"d": None}}).encode()
    assert [mutate(sample, [sample], Random(n), "/x") for n in range(40)] == [
        mutate(sample, [sample], Random(n), "/x") for n in range(40)
    ]


def test_a_sealed_memo_gets_a_seal_that_fits(tmp_path: Path) -> None:
    sample = memo.sealed({"version": 1, "files": {"a": [1, 2]}}).encode()
    taken = 0
    for seed in range(60):
        (tmp_path / "memo").write_bytes(of_json(sample, Random(seed), "/x"))
        taken += memo.read(tmp_path / "memo", dict[str, Any]) is not None
    assert taken > 20


def _reads(path: Path) -> None:
    path.read_bytes()


def _breaks(_: Path) -> None:
    raise KeyError("x")


def _writes_outside(path: Path) -> None:
    (path.parent.parent / "outside" / "victim.txt").write_text("x")


def _removes_outside(path: Path) -> None:
    (path.parent / ".." / "victim.txt").unlink()


def _writes_through_a_link(path: Path) -> None:
    (path.parent / "link").symlink_to("../outside")
    (path.parent / "link" / "x").write_text("x")


def _runs(path: Path) -> None:
    os.system(f"touch {path}.ran")  # noqa: S605 - what is watched for


def _runs_in_vain(path: Path) -> None:
    try:
        subprocess.run(["touch", path], check=False)
    except Exception:  # noqa: BLE001 - as any code may do
        path.read_bytes()


def _imports(_: Path) -> None:
    importlib.import_module("antigravity")


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (_reads, ""),
        (_breaks, "traceback"),
        (_writes_outside, "write"),
        (_removes_outside, "write"),
        (_writes_through_a_link, "write"),
        (_runs, "command"),
        (_runs_in_vain, "command"),
        (_imports, "command"),
    ],
)
def test_what_is_watched(use: Callable[[Path], None], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(9))

    def only_mutants(path: Path) -> None:
        if next(calls) > 1:  # not the sample itself, which is used twice
            use(path)

    monkeypatch.setitem(BORDERS, "made", lambda world: Border([b"{}"], world / "file", only_mutants))
    monkeypatch.setattr(mutants, "KIND_SHARE", 0.0)
    counts = mutants.run("made", 1, seed=3).counts
    assert dict(counts) == ({found: 1} if found else {})


def test_a_table_names_the_seed_that_repeats_a_finding() -> None:
    one = mutants.Found("models", mutants=10)
    one.note("traceback", "KeyError at fitasks/x.py:1 (f)", 42)
    assert mutants.table([one]).splitlines()[-1] == (
        "models: traceback: KeyError at fitasks/x.py:1 (f), 1 times; --borders models --count 1 --seed 42"
    )
