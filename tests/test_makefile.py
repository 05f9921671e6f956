"""What `make` installs, and when: with a stand-in for the environment's Python, which notes what it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$*" in *pip*) echo "$7" >> {tmp_path}/pip;; esac\n')
    python.chmod(0o755)
    return tmp_path


def installed(clone: Path, *words: str) -> list[str]:
    """What pip was asked for by one call of make."""
    (said := clone / "pip").write_text("")
    env = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "PYTHON", "VENV"}}
    subprocess.run(["make", *words], cwd=clone, env=env, capture_output=True, check=True)
    return said.read_text().splitlines()


USERS, OURS = ".[flashinfer,cuda13,store]", ".[flashinfer,cuda13,store,dev]"


def test_who_compiles_gets_no_tools_of_tests(clone: Path) -> None:
    assert installed(clone, "kernels", "K=page") == [USERS]
    assert installed(clone, "check") == installed(clone, "doctor") == []
    assert installed(clone, "test") == [OURS]
    assert installed(clone, "test-readme") == installed(clone, "kernels") == []


def test_who_tests_first_installs_once(clone: Path) -> None:
    assert installed(clone, "test") == [OURS]
    assert installed(clone, "kernels") == []


def test_another_pyproject_brings_both_up_to_date(clone: Path) -> None:
    installed(clone, "test")
    with (clone / "pyproject.toml").open("a") as stream:
        stream.write("# another\n")
    os.utime(clone / "pyproject.toml", (2e9, 2e9))
    assert installed(clone, "kernels") == [USERS]
    assert installed(clone, "test") == [OURS]


def test_an_environment_that_is_there_already_is_left_alone(clone: Path) -> None:
    assert installed(clone, "kernels", "PYTHON=.venv/bin/python") == []
    assert installed(clone, "test", "PYTHON=.venv/bin/python") == []


def test_tests_without_torch_need_no_flashinfer(clone: Path) -> None:
    assert installed(clone, "test", "EXTRAS=") == [".[dev]"]
