"""`doit verify` as a task, on a machine without a GPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.doit_project import Project
from tests.ship import official

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    flashinfer = pytest.importorskip("flashinfer.version", exc_type=Exception)
    made = Project.make(tmp_path, 'targets: ["9.0a"]\nkernels:\n  page:\n')
    site = official.shim(tmp_path / "site", flashinfer.__version__)
    official.provider(site, flashinfer.__version__, "page")
    made.env["CUDA_VISIBLE_DEVICES"] = ""
    return made


def test_what_is_not_there_is_compiled_first(project: Project) -> None:
    project.doit("verify", status=2)
    assert project.calls() == 2


def test_what_a_server_loads_ahead_of_time_is_not(project: Project, tmp_path: Path) -> None:
    project.env["PYTHONPATH"] += f"{os.pathsep}{tmp_path / 'site'}"
    project.doit("verify", status=2)
    assert project.calls() == 0
