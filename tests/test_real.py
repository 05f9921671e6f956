"""The whole path with the real FlashInfer and the real nvcc: `page`, the quickest kernel (about 15 s of two cores)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.doit_project import Project

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

# What a server does with a module, with a compiler that leaves a trace and fails.
_SERVER = """
import json, os, pathlib, sys
from flashinfer.jit.page import gen_page_module
spec = gen_page_module()
before = pathlib.Path(spec.jit_library_path).stat().st_mtime_ns
spec.build(verbose=True, need_lock=True)
print("BUILT" if pathlib.Path(spec.jit_library_path).stat().st_mtime_ns != before else "NOTHING")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    pytest.importorskip("flashinfer", exc_type=Exception)
    made = Project.make(tmp_path_factory.mktemp("real"), 'targets: ["9.0a"]\nkernels:\n  page:\n')
    del made.env["FLASHINFER_NVCC"]
    made.doit("kernel:page")
    return made


def server(project: Project) -> str:
    """FlashInfer's own `spec.build()` in the serving interpreter, in the environment that `doit env` prints."""
    lines = project.doit("env")
    script = f"{lines}\nexport FLASHINFER_CUDA_ARCH_LIST=9.0a\nexec \"{sys.executable}\" -c '{_SERVER}'"
    done = subprocess.run(["sh", "-c", script], env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_runtime_finds_nothing_to_do(project: Project) -> None:
    out = server(project)
    assert "ninja: no work to do." in out
    assert out.endswith("NOTHING\n")


def test_the_receipt_names_what_was_built(project: Project) -> None:
    receipt = json.loads((project.library("page").parent / "fitasks-receipt.json").read_text())
    assert receipt["architectures"] == ["sm_90a"]
    assert "libcudart.so.13" in receipt["needed"]
    assert receipt["toolchain"]["nvcc"].startswith("V13.")
    lines = receipt["inputs"].split("\n")
    assert len(lines) > 100
    assert any(line[65:] == "{FLASHINFER}/data/csrc/page.cu" for line in lines)
    assert any(line[65:].startswith("{CUDA}/include/") for line in lines)
    assert not any(str(project.root.parent) in line for line in lines)
    assert receipt["seconds"] > 1
    assert receipt["peak_rss"] > 100 << 20


def test_check_agrees_and_a_second_doit_compiles_nothing(project: Project) -> None:
    assert "Found 1 compiled kernel(s) of 1" in project.doit("check")
    assert project.doit() == "1 kernel: 1 fresh\n"


def test_the_same_wheel_reinstalled_is_healed_for_the_server_too(project: Project, tmp_path: Path) -> None:
    """Newer header times, as pip leaves them: on a private copy of the package, put first on the path."""
    site = tmp_path / "site"
    _copy_flashinfer(site)
    env = project.env["PYTHONPATH"]
    project.env["PYTHONPATH"] = f"{env}{os.pathsep}{site}"
    try:
        # Another place with equal contents: the commands that ninja remembers have other paths.
        assert "ninja's log has the same commands with other paths" in project.doit("why")
        assert "timestamps put right, nothing compiled" in project.doit()
        assert server(project).endswith("NOTHING\n")
        for path in (site / "flashinfer" / "data").rglob("*.*h"):
            path.touch()
        assert "timestamps put right, nothing compiled" in project.doit()
        assert server(project).endswith("NOTHING\n")
    finally:
        project.env["PYTHONPATH"] = env


def _copy_flashinfer(site: Path) -> None:
    import importlib.metadata

    distribution = importlib.metadata.distribution("flashinfer-python")
    package = distribution.locate_file("flashinfer")
    site.mkdir()
    shutil.copytree(str(package), site / "flashinfer", copy_function=_link, ignore=_not_needed)
    (info,) = __import__("pathlib").Path(str(package)).parent.glob("flashinfer_python-*.dist-info")
    shutil.copytree(info, site / info.name)
    data = site / "flashinfer" / "data"
    for path in data.rglob("*.*h"):  # own inodes for what will be touched
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)


def _link(source: str, target: str) -> None:
    os.link(source, target)


def _not_needed(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name in {"__pycache__", "cubins"}]


def test_the_doctor_finds_nothing_wrong_in_the_assembled_toolkit(project: Project) -> None:
    """Compiled, linked and loaded for real, in a cache that is thrown away."""
    before = sorted(project.cached_ops.iterdir())
    project.doit("doctor", "--json", "doctor.json")
    data = json.loads((project.root / "doctor.json").read_text())
    assert data["good"]
    trial = {one["subject"]: one["value"] for one in data["findings"] if one["section"] == "trial"}
    assert list(trial) == [f"{step} for 9.0a" for step in ("import", "compile and link", "load", "run")]
    assert trial["load for 9.0a"].startswith("all symbols found")
    assert sorted(project.cached_ops.iterdir()) == before


def test_the_doctor_reports_what_the_compiler_said(project: Project) -> None:
    out = project.doit("doctor", status=1, FLASHINFER_EXTRA_CUDAFLAGS="--no-such-option")
    assert "nvcc fatal" in out
