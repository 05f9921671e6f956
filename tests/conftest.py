"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.compile.ninja.ninja import Ninja, find_ninja
from fitasks.compile.pool.pool import Pool
from fitasks.cuda.probe import ProbeMemo
from tests.cuda.fake_toolkit import Maker, build_library, build_talker
from tests.doit_project import Planned
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    probe = ProbeMemo(tmp_path / "probe.json")
    return Workshop(tmp_path, find_ninja(_environment(), probe), Pool(2))


@pytest.fixture(scope="session")
def one_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that is the same for all tests, for workshops whose tests begin with a kernel that is built."""
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture
def shop(one_place: Path) -> Iterator[Workshop]:
    """An empty workshop, in which `built` compiles only once."""
    root = one_place / "root"
    root.mkdir()
    probe = ProbeMemo(one_place / "probe.json")
    yield Workshop(root, find_ninja(_environment(), probe), Pool(2), kept=one_place)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    directory = tmp_path_factory.mktemp("parts")
    return Maker(build_talker(directory), build_library(directory))


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Skips what asks for it where FlashInfer isn't installed."""
    pytest.importorskip("flashinfer", exc_type=Exception)
    return Planned(tmp_path_factory.mktemp("planned"))


@pytest.fixture
def old_ninja(tmp_path: Path) -> Ninja:
    """A ninja whose log another version than the first one's writes, e.g. Debian's beside the environment's."""
    probe = ProbeMemo(tmp_path / "probe-old.json")
    first = find_ninja(_environment(), probe)
    for directory in ("/usr/bin", "/usr/local/bin"):
        found = shutil.which("ninja", path=directory)
        if found and _log_version(found) != _log_version(str(first.executable)):
            return Ninja(Path(found), probe.output(Path(found), "--version").strip())
    pytest.skip("one ninja on this machine only")


def _log_version(executable: str) -> str:
    return subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout[:4]


def _environment() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
