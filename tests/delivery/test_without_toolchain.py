"""A host that only serves: FlashInfer and the installed package, no host compiler, no nvcc."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.delivery import official
from tests.delivery.wheelwright import Shop, module, unpacked
from tests.doit_project import Project

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workshop import Workshop

KERNELS = 'targets: ["9.0a"]\nkernels:\n  page:\n  cascade:\n'


@pytest.fixture
def project(tmp_path: Path, flashinfer: Path) -> Project:
    made = Project.make(tmp_path / "host", KERNELS)
    (made.tools / "bin").mkdir()
    for tool in ("sh", "env", "uname"):
        (made.tools / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    made.env["PATH"] = str(made.tools / "bin")
    return made


def test_check_tells_what_is_loaded_ahead_of_time(project: Project, workshop: Workshop, tmp_path: Path) -> None:
    made = Shop(version("flashinfer-python")).add(workshop, module(workshop, "page", ("sm_90a",)))
    site = unpacked(made.wheel(tmp_path / "dist").path, tmp_path / "site")
    official.shim(site, made.version)  # of PYTHONPATH no .pth file is read
    project.env["PYTHONPATH"] += f":{site}"
    lines = [" ".join(line.split()) for line in project.doit("check", status=1).splitlines()]
    assert lines[1].startswith("page ahead-of-time ")
    assert "cascade would fail nothing to compile it with: " in " ".join(lines)
    assert "Provided that" not in " ".join(lines)
    (project.root / "kernels.yaml").write_text(KERNELS.replace("  cascade:\n", ""))
    assert "1 of 1 kernel found" in project.doit("check")


def test_without_the_package_the_missing_toolchain_is_the_answer(project: Project) -> None:
    assert "no host compiler: c++ is not on PATH" in project.doit("check", status=2)
    assert project.doit("uninstall") == "fitasks-kernels is not installed\n"
