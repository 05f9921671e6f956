"""Splitting files: what nvcc is told, and what the receipt says of it."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from fitasks.compile.pool.schedule import Schedule, Turn
from tests.doit_project import PAGE, Planned, Project

if TYPE_CHECKING:
    from tests.workshop import Workshop


@pytest.fixture
def project(planned: Planned) -> Project:
    return planned.project(PAGE)


def told(project: Project, **env: str) -> tuple[set[str], object]:
    """The flags of every call of nvcc, and the threads of which the receipt tells."""
    project.doit(MAX_JOBS="3", given=env)
    lines = (project.tools / "calls").read_text().splitlines()
    receipt = json.loads((project.library("page").parent / "fitasks-receipt.json").read_text())
    return {" ".join(line.split()[4:]) for line in lines if " start " in line}, receipt["notes"].get("split_compile")


def test_files_are_split_and_the_receipt_says_so(project: Project) -> None:
    """Both: which of two that were never compiled here takes longer isn't sure."""
    assert told(project, NVCC_APPEND_FLAGS="") == ({"--split-compile=3"}, 3)


def test_what_the_user_appends_stays(project: Project) -> None:
    assert told(project, NVCC_APPEND_FLAGS="-lineinfo")[0] == {"-lineinfo --split-compile=3"}


def test_a_user_who_splits_is_left_alone(project: Project) -> None:
    assert told(project, NVCC_APPEND_FLAGS="-split-compile 2") == ({"-split-compile 2"}, None)


def test_split_compile_false(project: Project) -> None:
    (project.root / "kernels.yaml").write_text(f"split_compile: false\n{PAGE}")
    assert told(project, NVCC_APPEND_FLAGS="") == ({""}, None)


def test_an_nvcc_that_does_not_list_the_option_is_not_given_it(project: Project) -> None:
    older = project.place / "older"
    older.write_text(f'#!/bin/sh\n[ "$1" = --help ] && exit 1\nexec {project.tools}/nvcc "$@"\n')
    older.chmod(0o755)
    assert told(project, NVCC_APPEND_FLAGS="", FLASHINFER_NVCC=str(older)) == ({""}, None)


def test_the_receipt_tells_of_what_an_interrupted_build_had_split(project: Project) -> None:
    """Three slots at first, one when it goes on."""
    (project.tools / "fail").write_text("flashinfer_page_binding.cu")
    project.doit(status=1, MAX_JOBS="3", NVCC_APPEND_FLAGS="")
    (project.tools / "fail").unlink()
    project.doit(MAX_JOBS="1", NVCC_APPEND_FLAGS="")
    directory = project.library("page").parent
    assert json.loads((directory / "fitasks-receipt.json").read_text())["notes"] == {"split_compile": 3}
    assert not (directory / "fitasks-threads").exists()
    (directory / "csrc_flashinfer_page_binding.cuda.o").unlink()
    shutil.rmtree(project.place / "xdg" / "fitasks" / "store")
    project.doit(MAX_JOBS="1", NVCC_APPEND_FLAGS="")
    assert json.loads((directory / "fitasks-receipt.json").read_text())["notes"] == {"split_compile": 3}


def test_short_files_give_way_to_long_ones_and_the_link_to_nobody(workshop: Workshop) -> None:
    compiler = workshop.root / "compiler"
    compiler.write_text('#!/bin/sh\necho "$(nice) $*" >>"$0.calls"\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    workshop.cxx = str(compiler)
    kernel = workshop.kernel()
    short, long = (source.name for source in kernel.sources)
    turns = {kernel.label: {short: Turn(1.0, patient=True), long: Turn(9.0, threads=2)}}
    assert workshop.builder(schedule=Schedule(turns)).build(kernel).outcome == "compiled"
    calls = [line.split(maxsplit=1) for line in (workshop.root / "compiler.calls").read_text().splitlines()]
    here = os.nice(0)
    nice = {next(what for what in (short, long, ".so") if what in words): int(level) for level, words in calls}
    assert nice == {short: here + 10, long: here, ".so": here}
