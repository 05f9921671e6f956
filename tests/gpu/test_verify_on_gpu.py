"""`doit verify` on a real GPU: what is right is proven, what is wrong is caught. Compiles three quick kernels first."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doit_project import Project

pytestmark = pytest.mark.real

ALTERED = ("a_scale = (d_sum > 0.f) ? s_a_val / d_sum", "a_scale = (d_sum > 0.f) ? 1.05f * s_a_val / d_sum")


@pytest.fixture(scope="module")
def project(hopper: Callable[[str], Project]) -> Project:
    return hopper("  page:\n  cascade:\n  quantization:\n")


def test_all_are_proven_and_the_second_time_nothing_is_done(project: Project) -> None:
    out = project.doit("verify")
    assert "\n3 proven numerically\n" in out
    begin = time.monotonic()
    again = project.doit("verify")
    assert time.monotonic() - begin < 3
    assert again.count("numerical before") == 3
    proof = json.loads((project.library("page").parent / "fitasks-proof.json").read_text())["proofs"][0]
    assert proof["kind"] == "numerical"
    assert all(check["error"] <= check["tolerance"] for check in proof["checks"])


def test_a_library_swapped_for_another_modules_is_caught(project: Project) -> None:
    page, kept = project.library("page"), project.library("page").read_bytes()
    try:
        shutil.copy(project.library("cascade"), page)
        out = project.doit("-s", "verify", "--force", "page", status=1)
        assert "page (9.0): failed" in out
    finally:
        page.write_bytes(kept)


def test_one_constant_is_caught(project: Project, tmp_path: Path) -> None:
    """Compiled by FlashInfer's own commands with one header altered: loads, runs, and is wrong by five per cent."""
    library = project.library("cascade")
    kept = shutil.copytree(library.parent, tmp_path / "kept")
    ninja_file = library.parent / "build.ninja"
    include = Path(re.findall(r"-isystem (\S+/flashinfer/data/include)\s", ninja_file.read_text())[0])
    shutil.copytree(include / "flashinfer", tmp_path / "flashinfer")
    header = tmp_path / "flashinfer" / "attention" / "cascade.cuh"
    assert header.read_text().count(ALTERED[0]) == 1
    header.write_text(header.read_text().replace(*ALTERED))
    listed = subprocess.run(
        ["ninja", "-f", str(ninja_file), "-t", "commands"], capture_output=True, text=True, check=True
    )
    try:
        for command in listed.stdout.splitlines():
            altered = command.replace("-isystem", f"-I{tmp_path} -isystem", 1) if " -c " in command else command
            subprocess.run(shlex.split(altered), cwd=library.parent, check=True)
        for compiled in kept.glob("*.o"):  # or ninja would see that something was compiled
            shutil.copy2(compiled, library.parent)
        out = project.doit("-s", "verify", "--force", "cascade", status=1)
        assert re.search(r"cascade \(9.0\): failed .*error 0\.0\d+, tolerance", out)
    finally:
        shutil.copytree(kept, library.parent, dirs_exist_ok=True)


def test_a_kernel_that_would_be_compiled_is_caught(project: Project) -> None:
    log = project.library("page").parent / ".ninja_log"
    kept = log.read_bytes()
    try:
        log.unlink()
        out = project.doit("-s", "verify", "--force", "page", status=1)
        assert "a server would compile: page would be compiled" in out
    finally:
        log.write_bytes(kept)
