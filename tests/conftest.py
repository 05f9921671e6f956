"""Fixtures that several packages' tests share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.compile.ninja.ninja import Ninja, find_ninja
from fitasks.compile.pool.pool import Pool
from fitasks.cuda.probe import ProbeMemo
from tests import warm, warm_client
from tests.cuda.fake_toolkit import Maker, build_library, build_talker
from tests.doit_project import Planned
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator


warm_client.install(lambda env: warm.name_of(warm.TORCH, env.get("LD_LIBRARY_PATH", "")))


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


# What isn't installed everywhere: a test asks for the fixture of its name, and is skipped without it. A module that
# imports torch itself has pytest.importorskip.


@pytest.fixture(scope="session")
def torch() -> Path:
    return _installed("torch")


@pytest.fixture(scope="session")
def tvm_ffi() -> Path:
    return _installed("tvm_ffi")


@pytest.fixture(scope="session")
def flashinfer(torch: Path) -> Path:
    """The installed package's directory. Without torch it can't be imported."""
    return _installed("flashinfer")


@pytest.fixture(scope="session")
def pip_toolkit() -> Path:
    """CUDA_HOME in pip's packages."""
    home = Path(sysconfig.get_path("purelib"), "nvidia", "cu13")
    if not (home / "bin" / "nvcc").exists():
        pytest.skip("pip's CUDA toolkit isn't installed")
    return home


def _installed(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} isn't installed")
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Planned:
    return Planned(tmp_path_factory.mktemp("planned"))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 kB, where this environment permits one."""
    place = tmp_path / "full"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


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
