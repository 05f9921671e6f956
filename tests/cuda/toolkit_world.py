"""A machine without a toolkit below a directory, in which tests put some."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.probe import ProbeMemo
from fitasks.cuda.toolkit import Choice, Toolkit, choose_toolkit

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.cuda.capability import Commands

BUILD = "V13.0.88 cuda_13.0.r13.0/compiler.1_0"
NEEDS = ("cublasLt.h", "cuda_runtime.h")


class World:
    """A machine below tmp_path: no toolkit, a host compiler on PATH, and no libraries beside the toolkits'."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.site = base / "site"
        self.site.mkdir()
        self.bin = base / "bin"
        self.bin.mkdir()
        (self.bin / "c++").symlink_to(str(shutil.which("c++")))
        self.env = {"PATH": str(self.bin)}

    def choose(self, needs: tuple[str, ...] = NEEDS, *, commands: Commands | None = None, **env: object) -> Choice:
        probe = ProbeMemo(self.base / "memo.json")
        environment = self.env | {name: str(value) for name, value in env.items()}
        choice = choose_toolkit(environment, [self.site], needs, probe, self.base / "cache", commands=commands)
        probe.save()
        return choice

    def problem(self, needs: tuple[str, ...] = NEEDS, **env: object) -> str:
        with pytest.raises(EnvironmentProblem) as caught:
            self.choose(needs, commands=None, **env)
        return str(caught.value).replace(str(self.base), "…")

    def expect_installed(self, home: Path, origin: str) -> Choice:
        cudart = home.resolve() / "lib64" / "libcudart.so.13"
        return Choice(Toolkit(home, origin, home.resolve(), "13.0", BUILD, cudart), ())

    def expect_pip(self, root: Path, *notes: str) -> Choice:
        home = self.base / "cache" / "fitasks" / "cuda-13.0.88"
        cudart = root / "lib" / "libcudart.so.13"
        full = tuple(note.replace("…", str(self.base)) for note in notes)
        return Choice(Toolkit(home, "pip", root, "13.0", BUILD, cudart), full)
