"""The bench that kills runs: that it sees what it is for. Kills themselves take seconds each."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench import kills
from bench.kills_world import KERNELS, MARKER, World, compile_the_header
from tests.doit_project import NVCC, Project

MARK = "test-of-kills"


class Judged(World):
    """A world whose doit says what the test wants."""

    said: set[str] = set()  # noqa: RUF012 - set by each test
    there: dict[str, str] = {}  # noqa: RUF012

    def fresh(self) -> tuple[set[str], str]:
        return self.said, ""

    def digests(self) -> dict[str, str]:
        return self.there


@pytest.fixture
def world(tmp_path: Path) -> Judged:
    for name in ("project", "tmp", "tools"):
        (tmp_path / name).mkdir()
    made = Judged(Project(tmp_path / "project", {MARKER: MARK}), tmp_path / "site")
    made.libraries = [dict.fromkeys(KERNELS, "right"), dict.fromkeys(KERNELS, "other")]
    return made


def test_a_kernel_that_is_called_fresh_must_be_what_a_whole_build_makes(world: Judged) -> None:
    tally = kills.Tally()
    world.said, world.there = {"page", "norm"}, {"page": "right", "norm": "other"}
    assert kills._false_fresh(world, "build", tally) == {"page", "norm"}
    assert tally.found == ["false fresh: build: norm"]


def test_what_is_stale_may_be_anything(world: Judged) -> None:
    tally = kills.Tally()
    world.said, world.there = set(), {"page": "torn"}
    kills._false_fresh(world, "build", tally)
    assert not tally.found


def test_a_stray_is_seen_and_ended(world: Judged) -> None:
    stray = subprocess.Popen(["sleep", "30"], env={MARKER: MARK}, start_new_session=True)
    deadline = time.monotonic() + 10
    while not kills._marked(f"{MARKER}={MARK}".encode()) and time.monotonic() < deadline:
        time.sleep(0.01)  # it shows its environment only after exec
    assert kills._strays(world, 0.0) == ["sleep 30 "]
    assert stray.wait(10) == -9
    assert kills._strays(world, 0.0) == []


def test_left_overs_are_files_and_directories_that_no_clean_run_leaves(world: Judged) -> None:
    (world.project.root / ".fitasks" / "journals").mkdir(parents=True)
    (world.project.root / ".fitasks" / "journals" / "1795916687837299703-4711.jsonl").touch()
    world.usual |= world.files()
    (world.project.root / ".fitasks" / "journals" / "1795916687837299999-4712.jsonl").touch()
    (world.root / "tmp" / "fitasks-plan-x").mkdir()
    assert world.files() - world.usual == {"tmp/fitasks-plan-x"}


def pack(world: Judged, **libraries: bytes) -> None:
    with tarfile.open(world.root / "new.tar.gz", "w:gz") as archive:
        for name, data in libraries.items():
            member = tarfile.TarInfo(f"90a/cached_ops/{name}/{name}.so")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_bundle_that_is_cut_or_of_another_header_is_not_right(world: Judged) -> None:
    world.libraries[0] = {"page": hashlib.sha256(b"page").hexdigest()}
    pack(world, page=b"page")
    assert kills._is_right(world)
    whole = (world.root / "new.tar.gz").read_bytes()
    (world.root / "new.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert not kills._is_right(world)
    pack(world, page=b"older")
    assert not kills._is_right(world)


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("Traceback\n  File <frozen importlib._bootstrap>\nKeyboardInterrupt\n", False),
        ("Traceback\n  File fitasks/compile/pool/pool.py\nKeyboardInterrupt\n", True),
        ("Traceback\n  File <frozen importlib._bootstrap>\nKeyError: 1\n", True),
    ],
)
def test_an_interrupted_import_is_nobodys_fault(said: str, counts: bool) -> None:
    assert kills._was_importing(said) is not counts


def test_the_stand_in_compiles_the_header(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(NVCC.format(python=sys.executable))
    compile_the_header(nvcc)
    compile(nvcc.read_text(), "nvcc", "exec")
    assert "made_of_" in nvcc.read_text()


def test_kinds_come_in_their_shares() -> None:
    rng = Random(1)
    chosen: Any = [kills._chosen({"often": 90, "seldom": 10}, rng) for _ in range(200)]
    assert 150 < chosen.count("often") < 200
