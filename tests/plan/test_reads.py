"""What an answer of another interpreter rests on: each way in which it can change, and those that are no change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.plan.reads import Reads

if TYPE_CHECKING:
    from collections.abc import Callable

SERVING = Path(__file__).parents[2] / "fitasks" / "serving" / "plan"
SCRIPT = f"""
import json, sys
sys.path.insert(0, {str(SERVING)!r})
from plan_reads import Reads
del sys.path[0]
reads = Reads()
reads.start()
import kernels
with open(sys.argv[1], "w") as stream:
    json.dump(reads.noted(), stream)
"""
KERNELS = """
import os
here = os.path.dirname(__file__)
text = open(here + "/template.jinja").read()
try:
    open(here + "/local.cfg")
except OSError:
    pass
try:
    from kernels import broken
except ImportError:
    pass
try:
    import provider
except ImportError:
    pass
from kernels.helper import value
"""


@dataclass
class Place:
    """Two directories of PYTHONPATH, the package in the second, and what an interpreter noted of importing it."""

    root: Path
    since: int = 0

    @property
    def first(self) -> Path:
        return self.root / "first"

    @property
    def package(self) -> Path:
        return self.root / "second" / "kernels"

    def ask(self) -> Reads:
        env = os.environ | {"PYTHONPATH": f"{self.first}:{self.package.parent}"}
        command = [sys.executable, "-c", SCRIPT, str(self.root / "noted.json")]
        subprocess.run(command, env=env, check=True, cwd=self.root)
        return Reads.of(
            [json.loads((self.root / "noted.json").read_text())], self.since or time.time_ns(), Path(sys.executable)
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    place.first.mkdir()
    place.package.mkdir(parents=True)
    for name, text in {
        "__init__.py": KERNELS,
        "template.jinja": "{{ name }}",
        "helper.py": "value = 1\n",
        "broken.py": "raise ImportError('no such library')\n",
    }.items():
        (place.package / name).write_text(text)
    return place


@pytest.fixture(scope="module")
def reads(place: Place) -> Reads:
    place.ask()  # byte code and its directories are made by the first import
    return place.ask()


def held(reads: Reads) -> Reads | None:
    """As it would be read again from a memo."""
    return Reads.holding(json.loads(json.dumps(reads.as_record())))


def test_nothing_changed(reads: Reads) -> None:
    again = held(reads)
    assert again
    assert not again.renewed


CHANGES: dict[str, Callable[[Place], Path]] = {
    "a module": lambda place: place.package / "helper.py",
    "a module's package": lambda place: place.package / "__init__.py",
    "a module that fails": lambda place: place.package / "broken.py",
    "a template": lambda place: place.package / "template.jinja",
    "a file that wasn't there": lambda place: place.package / "local.cfg",
    "a module that wasn't there": lambda place: place.package.parent / "provider.py",
    "a package in front of it": lambda place: place.first / "kernels",
    "a module in its place": lambda place: place.package / "helper",
    "a .pth file": lambda place: place.first / "added.pth",
    "a distribution": lambda place: place.package.parent / "flashinfer_jit_cache_sm90a-0.7.4.dist-info",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed_and_its_taking_back_too(
    place: Place, reads: Reads, change: Callable[[Place], Path]
) -> None:
    path = change(place)
    before = path.read_bytes() if path.exists() else None
    if path.suffix or before is not None:
        path.write_bytes((before or b"") + b"\n# other\n")
    else:
        path.mkdir()
    assert held(reads) is None
    if before is not None:
        path.write_bytes(before)
    elif path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    assert held(reads)


def test_an_edit_under_the_old_time_is_noticed(place: Place, reads: Reads) -> None:
    now = held(reads)  # with the present times
    assert now
    helper = place.package / "helper.py"
    stat = helper.stat()
    helper.write_text("value = 2\n")
    os.utime(helper, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert held(now) is None
    helper.write_text("value = 1\n")
    assert held(reads)


def test_other_times_alone_are_no_change_and_are_hashed_once(place: Place, reads: Reads) -> None:
    for path in place.package.glob("*.*"):
        path.touch()
    again = held(reads)
    assert again
    assert again.renewed
    once_more = held(again)
    assert once_more
    assert not once_more.renewed


def test_what_nobody_asked_for_is_no_change(place: Place, reads: Reads) -> None:
    unasked = (place.first / "unrelated.py", place.package / "unrelated.py", place.first / "notes.txt")
    for path in unasked:
        path.write_text("")
    assert held(reads)
    for path in unasked:
        path.unlink()


def test_what_was_edited_while_the_interpreter_read_it_never_holds(place: Place) -> None:
    begin = time.time_ns()
    (place.package / "helper.py").write_text("value = 1\n")
    edited = Place(place.root, since=begin - 10**9).ask()
    assert held(edited) is None


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"files": []},
        {"files": {"/": {"etc": 3}}},
        {"files": {"/": {"etc": []}}},
        {"directories": {"/": []}},
        {"directories": {"/": [[], "", 0]}, "names": []},
        {"others": {}},
    ],
)
def test_a_damaged_memo_holds_nothing(record: object) -> None:
    assert Reads.holding(record) is None


def test_the_interpreters_own_library_is_left_out(reads: Reads) -> None:
    assert not [directory for directory in reads.files if directory.startswith(str(Path(json.__file__).parent))]
    assert os.path.realpath(sys.executable) in {f"{at}/{name}" for at, names in reads.files.items() for name in names}


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_files_in_memory_are_files_and_devices_are_none(place: Place) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (inside := Path(directory, "kernels.cfg")).write_text("x\n")
        script = SCRIPT.replace("import kernels", f"open({str(inside)!r}).read(); open('/dev/null').read()")
        command = [sys.executable, "-c", script, str(place.root / "shm.json")]
        subprocess.run(command, check=True, cwd=place.root)
    files = json.loads((place.root / "shm.json").read_text())["files"]
    assert str(inside) in files
    assert "/dev/null" not in files
