"""The doctor makes a table whatever is missing: each thing taken away has its row, and every other section is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.model import Serving
from fitasks.cuda import toolkit as toolkit_module
from fitasks.doctor import trial
from fitasks.doctor.examine import examine
from fitasks.graph.session import Session
from fitasks.plan.server import Server
from tests.cuda.fake_toolkit import put

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.doctor.finding import Finding

SECTIONS = ["toolkit", "serving environment", "machine", "caches"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a compiler and a ninja on PATH, a home, no toolkit; without the trial."""
    for name, says in (("c++", "c++ 12.2.0"), ("ninja", "1.13.2")):
        put(tmp_path / "bin" / name, f"#!/bin/sh\necho {says}\n").chmod(0o755)
    put(tmp_path / "kernels.yaml", 'targets: ["9.0a"]\nkernels: {page: }\n')
    for name in [name for name in os.environ if name.startswith(("FLASHINFER", "CUDA", "XDG", "CC", "CXX"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toolkit_module, "DEFAULT_HOME", tmp_path / "default")
    monkeypatch.setattr(Server, "toolkit_places", lambda self: self.site_packages if self.packages else ())
    monkeypatch.setattr(trial, "examine", lambda *_args: iter(()))
    monkeypatch.setattr("fitasks.plan.server._environment", _without_our_interpreter)
    return tmp_path


def _without_our_interpreter(serving: Serving, _python: Path, environ: dict[str, str]) -> dict[str, str]:
    """This interpreter's directory has a ninja, and is put on PATH as if it were activated: not here."""
    return dict(environ) | serving.env


def table(machine: Path) -> list[Finding]:
    """As `doit doctor` on this host; every section must be there."""
    findings = examine(Session(machine, EnvironmentProblem("no plan here")))
    assert list(dict.fromkeys(one.section for one in findings if one.section != "plan")) == SECTIONS
    return findings


def problems(machine: Path) -> dict[str, str]:
    return {one.subject: f"{one.value} → {one.remedy}" for one in table(machine) if one.state == "problem"}


@pytest.mark.usefixtures("flashinfer")
def test_nothing_is_missing_but_a_toolkit(machine: Path) -> None:
    assert set(problems(machine)) <= {"used", "not made", "libcudart"}


def test_no_host_compiler(machine: Path) -> None:
    (machine / "bin" / "c++").unlink()
    found = problems(machine)
    assert found["host compiler"].startswith("no host compiler: c++ is not on PATH → ")
    assert "ninja" not in found


@pytest.mark.parametrize("variable", ["CXX", "CC", "FLASHINFER_NVCC"])
def test_a_compiler_that_is_not_there(machine: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/nowhere/compiler")
    assert problems(machine)[variable] == (
        f"/nowhere/compiler: /nowhere/compiler is not there, or not on PATH → install it, or correct {variable}, "
        "or unset it"
    )


def test_no_ninja(machine: Path) -> None:
    (machine / "bin" / "ninja").unlink()
    assert problems(machine)["ninja"].startswith("no ninja on the server's PATH")


@pytest.mark.parametrize("path", ["", "/nowhere", None])
def test_no_path(machine: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    if path is None:
        monkeypatch.delenv("PATH")
        table(machine)
    else:
        monkeypatch.setenv("PATH", path)
        assert {"host compiler", "ninja"} <= set(problems(machine))


@pytest.mark.parametrize("engine", ["none", "sglang"])
@pytest.mark.parametrize("cache", [True, False])
def test_no_home(machine: Path, monkeypatch: pytest.MonkeyPatch, engine: str, cache: bool) -> None:
    """Neither HOME nor an entry in the password database, as of a container's arbitrary user."""
    put(machine / "kernels.yaml", f'serving: {{engine: {engine}}}\ntargets: ["9.0a"]\nkernels: {{page: }}\n')
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "cache"))
    told = problems(machine)["environment"]
    assert told.startswith("no home directory: HOME is not set, and user 54321 has no entry in the password database")
    assert told.endswith("→ set HOME to a directory that this user can write to, for doit and the server alike")


def test_a_directory_of_packages_that_cannot_be_read(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so that the answer of the system is stood in for."""
    hidden = machine / "hidden"
    hidden.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **how: str(path) != str(hidden) and access(path, mode, **how))
    assert problems(machine)["site-packages"].startswith(f"{hidden} can't be read by user ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is not an executable file"),
        ("#!/nowhere/interpreter\n", "No such file or directory"),
        ("#!/bin/sh\necho hello\n", "packages: it ended without an answer (exit status 0):\n  hello"),
        ("#!/bin/sh\necho broken >&2; exit 3\n", "packages: it ended without an answer (exit status 3):\n  broken"),
    ],
)
def test_no_serving_interpreter(machine: Path, text: str | None, told: str) -> None:
    python = machine / "server" / "python"
    if text:
        put(python, text).chmod(0o755)
    put(machine / "kernels.yaml", f'serving: {{python: {python}}}\ntargets: ["9.0a"]\nkernels: {{page: }}\n')
    assert told in problems(machine)["python"]


def test_a_cache_that_is_no_directory(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(machine / "file")
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(machine / "file" / "below"))
    table(machine)
