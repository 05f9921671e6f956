"""Hopper's modules left out of a plan, each way of saying so: kernels.yaml, an option of doit's, a variable of make's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.doit_project import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = """\
targets: ["9.0a"]
kernels:
  prefill: {op: batch_prefill, backend: fa3, dtype_q: bfloat16, head_dim: 128}
"""
PLANNED = "fa2 is planned instead (sm90: false)"
NEEDED = "Provided that the server has FLASHINFER_DISABLE_SM90=1"
EXPORT = "export FLASHINFER_DISABLE_SM90=1\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Project:
    project = Project.make(tmp_path_factory.mktemp("sm90"), KERNELS)
    plugins = "run = fitasks.graph.command:Run\nlist = fitasks.graph.command:List\n"
    (project.root / "doit.cfg").write_text(f"[COMMAND]\n{plugins}")  # doit itself knows no --no-sm90
    return project


def make(project: Project, *words: str, status: int = 0) -> str:
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *words, f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=project.root, env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if status else 0), done.stdout + done.stderr  # make's own status
    return done.stdout


def test_with_them(project: Project) -> None:
    assert PLANNED not in project.doit("list", "--all")
    assert NEEDED not in project.doit("check", status=1)
    assert EXPORT not in project.doit("env")
    assert EXPORT not in make(project, "env")


def test_by_option(project: Project) -> None:
    assert PLANNED in project.doit("list", "--all", "--no-sm90")
    assert NEEDED in project.doit("--no-sm90", "check", status=1)
    assert NEEDED in project.doit("check", "--no-sm90", status=1)
    assert EXPORT in project.doit("env", "--no-sm90")


def test_by_make(project: Project) -> None:
    assert PLANNED in make(project, "list", "SM90=0")
    assert NEEDED in make(project, "check", "SM90=0", status=1)
    assert EXPORT in make(project, "env", "SM90=0")
    assert EXPORT in make(project, "env", "SM90=off")


@pytest.mark.parametrize("target", ["kernels", "check", "doctor", "verify", "why", "list", "reset"])
def test_make_says_it_to_every_doit(tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-f", str(ROOT / "Makefile"), target, "SM90=0", "PYTHON=/no/such/python"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "FITASKS_SM90=0 PATH=" in done.stdout


def test_by_kernels_yaml(project: Project) -> None:
    file = project.root / "kernels.yaml"
    file.write_text(f"sm90: false\n{KERNELS}")
    try:
        assert PLANNED in project.doit("list", "--all")
        assert NEEDED in project.doit("check", status=1)
        assert EXPORT in project.doit("env")
    finally:
        file.write_text(KERNELS)
