"""Environments in which no FlashInfer works: said before anything is planned or compiled, with what mends it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fitasks.base.environment import cache_home, home, missing_compilers, problems, refuse_unusable, switch
from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.fetching import fetch_only
from fitasks.store.elsewhere import requested

HERE = {"HOME": "/home/x", "PATH": os.defpath}


def said(**env: str) -> list[str]:
    return [problem.message for problem in problems(HERE | env)]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"CC": "gcc", "CXX": "g++", "FLASHINFER_NVCC": "/opt/nvcc"},
        {"CXX": "ccache g++", "FLASHINFER_NVCC": "ccache nvcc"},  # the first word of ninja's command may be a launcher
        {"CC": "/nowhere/gcc"},  # what was compiled with it is loaded all the same
    ],
)
def test_what_works(env: dict[str, str]) -> None:
    assert said(**env) == []


@pytest.mark.parametrize(
    ("env", "told", "remedy"),
    [
        ({"CC": "ccache gcc"}, "CC='ccache gcc': FlashInfer's command says `nvcc -ccbin ccache gcc`", "CC=gcc with"),
        (
            {"CC": "gcc -m64"},
            "CC='gcc -m64': FlashInfer's command says `nvcc -ccbin gcc -m64`",
            "CC=a script of one word",
        ),
        ({"CC": ""}, "CC is set to nothing: FlashInfer's commands would have no word for nvcc's -ccbin", "unset CC"),
        ({"CXX": " "}, "CXX is set to nothing", "unset CXX"),
        ({"FLASHINFER_NVCC": ""}, "FLASHINFER_NVCC is set to nothing", "unset FLASHINFER_NVCC"),
    ],
)
def test_compilers_that_the_commands_cannot_name(env: dict[str, str], told: str, remedy: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        refuse_unusable(HERE | env)
    assert caught.value.message.startswith(told)
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize("variable", ["CC", "CXX", "FLASHINFER_NVCC"])
def test_a_path_with_a_blank(tmp_path: Path, variable: str) -> None:
    compiler = tmp_path / "my tools" / "gcc"
    compiler.parent.mkdir()
    compiler.touch()
    (told,) = said(**{variable: str(compiler)})
    assert told.startswith(f"{variable}='{compiler}': FlashInfer's commands have it unquoted, so its blank makes two")
    assert said(**{variable: f"'{compiler}'"}) == [], "quoted for the shell that ninja starts"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    assert home({"HOME": "/h"}) == Path("/h")
    assert home({"HOME": ""}) == Path("/"), "as Path.home() has it"
    assert home({}).is_absolute(), "of the password database"
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(EnvironmentProblem, match="user 54321 has no entry in the password database"):
        home({})


def test_missing_compilers(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "CC": "gcc", "CXX": "/nowhere/g++ -m64"}
    assert list(missing_compilers(env)) == [("CC", "gcc"), ("CXX", "/nowhere/g++")]
    (tmp_path / "gcc").touch(0o755)
    assert list(missing_compilers(env)) == [("CXX", "/nowhere/g++")]


def test_nvcc_takes_two_words_for_a_compiler_and_a_source(pip_toolkit: Path) -> None:
    """The surprising fact that all this rests on."""
    nvcc = str(pip_toolkit / "bin" / "nvcc")
    command = [nvcc, "--dryrun", "-ccbin", "ccache", "gcc", "-c", "-x", "cu", os.devnull, "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "A single input file is required" in done.stderr


@pytest.mark.parametrize(
    ("word", "told"),
    [("1", True), ("Yes", True), (" on ", True), ("0", False), ("false", False), ("NO", False), ("", None)],
)
def test_a_switch_is_yes_or_no(word: str, told: bool | None) -> None:
    for default in (True, False):
        assert switch({"X": word}, "X", default=default) is (default if told is None else told)
        assert switch({}, "X", default=default) is default


@pytest.mark.parametrize("word", ["maybe", "2", "tru"])
def test_another_word_is_no_switch(word: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"FITASKS_FETCH_ONLY={word!r} is neither yes nor no"):
        fetch_only({"FITASKS_FETCH_ONLY": word})
    with pytest.raises(EnvironmentProblem, match="FITASKS_STORE_PUSH"):
        requested((), {"FITASKS_STORE": "/s", "FITASKS_STORE_PUSH": word})


def test_a_relative_cache_home_is_ignored() -> None:
    """As the XDG Base Directory Specification asks: commands would name a path that is another in each directory."""
    assert cache_home({"HOME": "/home/me", "XDG_CACHE_HOME": "rel"}) == Path("/home/me/.cache")
    assert cache_home({"HOME": "/home/me", "XDG_CACHE_HOME": "/big"}) == Path("/big")
