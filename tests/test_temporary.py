"""What killed runs left in a place for temporary files goes, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fitasks.base import temporary
from fitasks.base.files import replacing, write_atomic

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from fitasks.base import files, temporary
with temporary.directory(sys.argv[1]) as made, files.replacing(Path(sys.argv[2])) as stream:
    (made / "deep").mkdir()
    (made / "deep" / "file").write_text("x")
    print(made, flush=True)
    time.sleep(60)
"""

OPENED = """
import sys, tempfile
from fitasks.base import temporary
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
temporary.sweep()
with temporary.directory("plan") as made:
    tempfile.mkdtemp()
print(made.parent, [path for path in opened if path.startswith(sys.argv[1]) and not path.endswith("-locked")])
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_SWEPT", set())
    return tmp_path


@pytest.mark.parametrize("what", ["plan", "nvcc", "ops"])
def test_of_a_killed_run_nothing_stays_and_of_a_living_one_all(place: Path, what: str) -> None:
    (place / "state").mkdir()
    env = os.environ | {"TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, what, str(place / "state" / "plan.json")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            made = Path(process.stdout.readline().strip())
            temporary.sweep()
            temporary.sweep_files(place / "state")
            assert (made / "deep" / "file").exists()
            assert len(list((place / "state").iterdir())) == 1
        finally:
            process.kill()
    assert made.parent == place
    temporary.sweep()
    write_atomic(place / "state" / "plan.json", "whole")
    assert not made.exists()
    assert [path.name for path in (place / "state").iterdir()] == ["plan.json"]


def test_a_new_one_sweeps_its_place_once(place: Path) -> None:
    within = place / "cache"
    (within / ".fitasks-doctor-abcdefgh-locked").mkdir(parents=True)
    (place / "fitasks-plan-abcdefgh-locked").mkdir()
    with temporary.directory("doctor", within) as made:
        assert [*within.iterdir()] == [made]
    with temporary.directory("plan") as made:
        assert {path.name for path in place.iterdir()} == {"cache", made.name}
    assert [path.name for path in place.iterdir()] == ["cache"]


def test_what_others_made_stays(place: Path) -> None:
    """Also what an older fitasks, which locked none, may be using."""
    target = place / "target"
    target.mkdir()
    names = ["fitasks-notes", "fitasks-plan-mine", "fitasks-plan-abcdefgh", "my-fitasks-plan-abcdefgh-locked"]
    for name in names:
        (place / name).mkdir()
    (place / "fitasks-plan-aaaaaaaa-locked").write_text("a file")
    (place / "fitasks-plan-bbbbbbbb-locked").symlink_to(target)
    (place / ".plan.json.old.tmp").touch()
    before = {path.name for path in place.iterdir()}
    temporary.sweep()
    temporary.sweep_files(place)
    assert {path.name for path in place.iterdir()} == before
    hours_ago = time.time() - 7200
    for name in names:
        os.utime(place / name, (hours_ago, hours_ago))
    temporary.sweep()
    assert {path.name for path in place.iterdir()} == before - {"fitasks-plan-abcdefgh"}


def test_a_name_that_was_swept_before_it_was_locked_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = temporary.kept
    stolen: list[Path] = []

    def stealing(descriptor: int) -> bool:
        if not stolen:
            found = next(path for path in place.iterdir())
            stolen.append(found)
            found.rmdir() if found.is_dir() else found.unlink()
        return lock(descriptor)

    monkeypatch.setattr(temporary, "kept", stealing)
    with temporary.directory("plan") as made:
        assert made.is_dir()
        assert stolen != [made]
    stolen.clear()
    with replacing(place / "file") as stream:
        stream.write(b"whole")
    assert (place / "file").read_bytes() == b"whole"
    assert len(stolen) == 1


def test_a_link_that_a_killed_run_was_about_to_rename_goes(place: Path) -> None:
    """It can't be locked: what is a minute old is nobody's any more."""
    young, old = (place / f".journal.jsonl.{name}.tmp" for name in ("0123abcd", "4567cdef"))
    for link in (young, old):
        link.symlink_to("journals/1-1.jsonl")
    os.utime(old, (1, 1), follow_symlinks=False)
    temporary.sweep_files(place)
    assert [path.name for path in place.iterdir()] == [young.name]


@pytest.mark.parametrize("variable", ["TMPDIR", "TEMP", "TMP"])
def test_no_place_is_tried_out_with_a_file(place: Path, variable: str) -> None:
    """A kill at that moment left tempfile's own, under a name that nobody knows."""
    env = {name: value for name, value in os.environ.items() if name not in {"TMPDIR", "TEMP", "TMP"}}
    env |= {variable: str(place), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OPENED, str(place)]
    assert subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout == f"{place} []\n"


def test_a_place_that_is_none_is_left_for_tempfile_to_replace(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(place / "none"))
    monkeypatch.setenv("TEMP", str(place))
    assert temporary.home() == place


def test_who_writes_the_same_file_takes_no_others_away(place: Path) -> None:
    """Each sweeps what isn't locked, so that a file is locked until it has its name."""
    path = place / "file"

    def write(text: str) -> None:
        for _ in range(6):
            write_atomic(path, text, sync=False)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, "abcdefgh"))
    assert path.read_text() in set("abcdefgh")
    assert [*place.iterdir()] == [path]
