"""What no server could work in: an environment without a home, or with compilers that FlashInfer's commands can't name.

Said before anything is planned or compiled; FlashInfer itself fails of it at import, or in the compiler's first line.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# nvcc's -ccbin takes one word; the others stand at the beginning of ninja's commands, where several words are a
# launcher and its compiler (jit/cpp_ext.py: build_cuda_cflags, generate_ninja_build_for_op).
_YES, _NO = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_COMPILERS = {"CC": "nvcc's -ccbin", "CXX": "the host compiler", "FLASHINFER_NVCC": "nvcc"}


def home(env: Mapping[str, str]) -> Path:
    """The home directory as `Path.home()` would find it in this environment. Raises EnvironmentProblem without one."""
    if "HOME" in env:
        return Path(env["HOME"] or "/")
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise EnvironmentProblem(
            f"no home directory: HOME is not set, and user {os.getuid()} has no entry in the password database; "
            "`import flashinfer` fails of that",  # jit/env.py, even where FLASHINFER_WORKSPACE_BASE is set
            remedy="set HOME to a directory that this user can write to, for doit and the server alike",
        ) from None


def cache_home(env: Mapping[str, str]) -> Path:
    """Where a user's caches lie: XDG_CACHE_HOME, or ~/.cache. Raises EnvironmentProblem where there is no home.

    A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
    """
    named = Path(env.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else home(env) / ".cache"


def switch(env: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """What a variable of ours says: yes or no; `default` where it is empty or missing. Raises EnvironmentProblem."""
    word = env.get(name, "").strip().lower()
    if not word:
        return default
    if word not in _YES | _NO:
        problem = f"{name}={env[name]!r} is neither yes nor no"
        raise EnvironmentProblem(problem, remedy=f"set {name} to 1 or 0, or not at all")
    return word in _YES


def refuse_unusable(env: Mapping[str, str]) -> None:
    """Raise EnvironmentProblem for the first thing that keeps every FlashInfer in this environment from working."""
    for problem in problems(env):
        raise problem


def problems(env: Mapping[str, str]) -> Iterator[EnvironmentProblem]:
    """Everything that keeps every FlashInfer in this environment from working."""
    try:
        home(env)
    except EnvironmentProblem as problem:
        yield problem
    for variable in _COMPILERS:
        if variable in env and (said := _wrong(variable, env[variable])):
            yield EnvironmentProblem(said[0], remedy=said[1])


def missing_compilers(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(variable, executable) of each compiler that the environment names and that isn't there or not on PATH."""
    for variable in _COMPILERS:
        words = _words(env.get(variable, ""))
        if words and not shutil.which(words[0], path=env.get("PATH", os.defpath)):
            yield variable, words[0]


def _wrong(variable: str, value: str) -> tuple[str, str] | None:
    """What is wrong with a compiler's variable, and the remedy."""
    words = _words(value)
    if not words:
        lack = f"{variable} is set to nothing: FlashInfer's commands would have no word for {_COMPILERS[variable]}"
        return lack, f"unset {variable}"
    if len(words) > 1 and Path(value).is_file():
        link = f"make a link to it without a blank (ln -s {shlex.quote(value)} …), and name that"
        return f"{variable}={value!r}: FlashInfer's commands have it unquoted, so its blank makes two words of it", link
    if variable == "CC" and len(words) > 1:
        said = (
            f"CC={value!r}: FlashInfer's command says `nvcc -ccbin {value}`, and nvcc takes {words[0]} for the compiler"
        )
        return f"{said} and {words[1]} for a word of its own (A single input file is required)", _one_word(words)
    return None


def _one_word(words: list[str]) -> str:
    """How to have the same with a CC of one word; of two words without an option the first is a launcher."""
    launcher, *rest = words
    script = f"CC=a script of one word that runs `{' '.join(words)}`"
    if len(rest) > 1 or rest[0].startswith("-"):
        return script
    return f"CC={rest[0]} with FLASHINFER_NVCC_LAUNCHER={launcher}, or {script}"


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:  # an open quotation mark, which the shell will not like either
        return value.split()
