"""`doit bundle` and `doit unbundle` as they are called: what they say, and their exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doit_project import Planned, Project


@pytest.fixture(scope="module")
def project(planned: Planned) -> Project:
    made = planned.project()
    made.doit()
    return made


@pytest.fixture(scope="module")
def packed(project: Project) -> Path:
    path = project.root.parent / "kernels.tar.gz"
    assert re.match(rf"{path}: 3 kernels, \d+ files, ", project.doit("bundle", str(path)))
    return path


def test_a_bundle_that_leaves_a_kernel_out_is_written_and_exits_1(project: Project, packed: Path) -> None:
    project.library("page").unlink()
    path = packed.with_name("two.tar.gz")
    lines = project.doit("bundle", str(path), status=1).splitlines()
    assert lines[0] == "left out  kernel:page: page.so is missing"
    assert re.match(rf"{path}: 2 kernels, \d+ files, ", lines[1])
    assert lines[2:] == ["1 kernel left out"]
    assert project.doit("unbundle", str(path)) == "2 kernels there already\n"
    assert project.doit("unbundle", str(packed)) == "2 kernels there already\n1 kernel into FlashInfer's cache\n"


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_bundle_may_come_through_a_pipe(project: Project, packed: Path, name: str) -> None:
    def unbundled(data: bytes, status: int) -> bytes:
        words = [sys.executable, "-m", "doit", "unbundle", name]
        done = subprocess.run(words, cwd=project.root, env=project.env, input=data, capture_output=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert unbundled(packed.read_bytes(), 0) == b"3 kernels there already\n"
    called = "standard input" if name == "-" else name
    assert f"{called} is refused: it is damaged or cut short: ".encode() in unbundled(packed.read_bytes()[:-9], 2)


def test_kernels_of_no_use_are_counted_and_a_package_is_offered(project: Project, packed: Path, tmp_path: Path) -> None:
    """Another nvcc, as far as the commands tell."""
    there = Project.make(tmp_path)
    assert there.doit("unbundle", str(packed), status=1).splitlines()[-1] == (
        f"3 kernels of no use here as built: doit compiles, or doit unbundle --wheel {packed} makes a package "
        "that needs neither compiler nor these paths"
    )
    same = {"FLASHINFER_NVCC": project.env["FLASHINFER_NVCC"]}
    said = there.doit("unbundle", str(packed), given=same).splitlines()
    assert said[-1] == "3 kernels into the store, for the next doit to adopt"
    assert there.doit(given=same).splitlines()[-1].startswith("3 kernels: 3 adopted")


def test_where_nothing_can_be_planned_the_package_can_be_made(project: Project, packed: Path, tmp_path: Path) -> None:
    there = Project.make(tmp_path, "targets: [auto]\nkernels:\n  page:\n")
    env = {"CUDA_VISIBLE_DEVICES": ""}
    said = there.doit("unbundle", str(packed), status=2, given=env)
    assert f"or doit unbundle --wheel {packed}, which asks for no toolkit and no GPU" in said
    lines = there.doit("unbundle", "--wheel", str(packed), given=env).splitlines()
    (wheel,) = (there.root / "dist").iterdir()
    assert lines[-1].endswith(f" -m pip install dist/{wheel.name}")
    project.doit("wheel")
    (ours,) = (project.root / "dist").iterdir()
    assert (wheel.name, wheel.read_bytes()) == (ours.name, ours.read_bytes())
