"""Shared by the tests that need a Hopper GPU. Run by hand: python -m pytest tests/gpu."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fitasks.cuda.gpus import all_gpus
from tests.doit_project import Project

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """Makes a project with these `kernels:`, compiled for real."""
    if not any(gpu.capability == "9.0" for gpu in all_gpus()):
        pytest.skip("no Hopper GPU here")

    def make(kernels: str) -> Project:
        project = Project.make(tmp_path_factory.mktemp("gpu"), f'targets: ["9.0a"]\nkernels:\n{kernels}')
        project.env["PYTHONPATH"] = os.pathsep.join([project.env["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
        del project.env["FLASHINFER_NVCC"]
        out, err = project.start().communicate(timeout=1200)
        assert "compiled" in out.splitlines()[-1], out + err
        return project

    return make
