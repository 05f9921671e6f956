"""The bench of predictions itself: that it puts back, sees what runs, and counts honestly; and a few of its situations."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.predictions import Row, play
from bench.predictions_harness import Said, Served, Snapshot, Stage, make_venv, outcome, watch
from tests.doit_project import Project

ROOT = Path(__file__).parent.parent.parent


def row(state: str, kind: str, *conditions: str, foreign: bool = False, met: bool = True) -> str:
    return Row("a situation", Said(state, conditions=conditions), Served(kind), foreign, met, (0, 0)).verdict


@pytest.mark.parametrize(
    ("state", "kind", "verdict"),
    [
        ("cached", "loaded", "right"),
        ("cached", "compiles", "WRONG"),
        ("ahead-of-time", "failed", "WRONG"),
        ("would compile", "compiles", "right"),
        ("would compile", "failed", "wrong"),
        ("would fail", "loaded", "wrong"),
        ("refused", "refused", "right"),
        ("outdated", "loaded", "right"),
        ("unknown", "failed", "unknown"),
        ("error", "failed", "right"),
        ("error", "loaded", "wrong"),
        ("traceback", "failed", "wrong"),
        ("a state of tomorrow", "loaded", "wrong"),
    ],
)
def test_a_prediction_is_right_where_the_server_does_what_it_said(state: str, kind: str, verdict: str) -> None:
    assert row(state, kind) == verdict


def test_a_condition_says_what_happens_without_it() -> None:
    condition = "the server has X (without it it would compile again)"
    assert row("cached", "compiles", condition, met=False) == "right"
    assert row("cached", "failed", condition, met=False) == "WRONG"
    assert row("cached", "compiles", condition, met=True) == "WRONG"


def test_what_is_loaded_and_has_no_code_for_the_gpu_is_no_success() -> None:
    assert row("cached", "loaded", foreign=True) == "WRONG"
    assert row("would fail", "loaded", foreign=True) == "right"


def test_a_server_that_dies_or_says_nothing_has_failed() -> None:
    assert outcome(-7, "").words == "dies of SIGBUS"
    assert outcome(3, "nonsense\n").kind == "failed"
    assert outcome(0, 'noise\n{"kind": "loaded", "words": "", "libraries": []}').kind == "loaded"


def test_everything_is_put_back_with_its_times(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "kept").mkdir(parents=True)
    for name in ("edited", "touched", "lost", "kept/alike"):
        (place / name).write_text(name)
    (place / "link").symlink_to("edited")
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    snapshot = Snapshot.take((place,), tmp_path / "saved")

    (place / "edited").write_text("otherwise")
    (place / "touched").touch()
    (place / "lost").unlink()
    alike = (place / "kept/alike").stat()
    (place / "kept/alike").write_text("ekil/atpek")
    os.utime(place / "kept/alike", ns=(alike.st_atime_ns, alike.st_mtime_ns))
    (place / "new" / "directory").mkdir(parents=True)
    (place / "link").unlink()
    kept = Snapshot.kept(tmp_path / "saved")
    assert kept
    kept.restore()

    assert {path: path.lstat().st_mtime_ns for path in place.rglob("*")} == before
    assert {path.name: path.read_text() for path in place.rglob("*") if path.is_file()} == {
        "edited": "edited",
        "touched": "touched",
        "lost": "lost",
        "alike": "kept/alike",
        "link": "edited",
    }
    assert snapshot.states.keys() == dict(snapshot.found()).keys()


def _ninja(directory: Path, command: str) -> subprocess.Popen[bytes]:
    (directory / "build.ninja").write_text(f"rule r\n  command = {command}\nbuild out: r\n")
    ninja = Path(sys.executable).parent / "ninja"
    return subprocess.Popen([ninja, "-C", directory], stdout=subprocess.DEVNULL, start_new_session=True)


def test_a_compile_is_what_ninja_starts_and_is_stopped_when_it_takes_long(tmp_path: Path) -> None:
    begin = time.monotonic()
    process = _ninja(tmp_path, "sleep 60")
    assert watch(process, 0.3) == (True, "compiles")
    assert time.monotonic() - begin < 10
    assert process.returncode < 0


def test_a_ninja_without_work_compiles_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    _ninja(tmp_path, "touch out").wait()
    assert watch(_ninja(tmp_path, "touch out"), 0.3) == (False, "")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> tuple[Stage, Snapshot]:
    """A project whose nvcc is the stand-in, served by the real FlashInfer."""
    root = tmp_path_factory.mktemp("predictions")
    project = Project.make(root, "")
    made = Stage(root)
    made.env = {name: value for name, value in project.env.items() if name != "FLASHINFER_WORKSPACE_BASE"}
    for name in ("home", "out"):
        (root / name).mkdir()
    make_venv(made, copied=())
    done = made.doit()
    assert done.returncode == 0, done.stdout + done.stderr
    places = tuple(root / name for name in ("project", "home", "xdg", "out"))
    return made, Snapshot.take(places, root / "saved")


@pytest.mark.parametrize(
    ("name", "state", "kind"),
    [
        ("no-ninja-log", "would compile", "compiles"),
        ("library-is-text", "would fail", "failed"),
        ("baseline", "cached", "loaded"),
    ],
)
def test_what_was_said_is_what_is_done(stage: tuple[Stage, Snapshot], name: str, state: str, kind: str) -> None:
    found = play(name, *stage, verbose=False)
    assert (found.said.state, found.served.kind, found.verdict) == (state, kind, "right"), (found.said, found.served)
