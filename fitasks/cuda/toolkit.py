"""Which CUDA toolkit kernels are compiled with: the first complete one, in FlashInfer's own order of search.

FlashInfer takes the first that exists (jit/cpp_ext.py, get_cuda_path) and fails minutes later, in the
compiler or the linker, if something is missing. Here each is surveyed before anything is compiled. A choice
that was made before costs stat calls only: answers of nvcc and the compiler are remembered by `ProbeMemo`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.assemble import assemble, assembled_root
from fitasks.cuda.capability import nvcc_of, refusal, wanted_of
from fitasks.cuda.components import STUB, install_command, pip_command
from fitasks.cuda.probe import ProbeMemo, exec_chain
from fitasks.cuda.release import pip_release
from fitasks.cuda.survey import Hole, Linker, Survey, host_compiler, survey, survey_pip

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from fitasks.cuda.capability import Commands

__all__ = ["Candidate", "Choice", "Hole", "Toolkit", "choose_toolkit", "surveyed"]

DEFAULT_HOME = Path("/usr/local/cuda")
_TOP = re.compile(r"^#\$ TOP=(.+)$", re.MULTILINE)
_PIP_DIRECTORY = re.compile(r"cu\d+")


@dataclass(frozen=True)
class Toolkit:
    """The toolkit that kernels are compiled with; `home` is the string that FlashInfer's commands contain."""

    home: Path  # what CUDA_HOME must say: a real toolkit, or a directory of links assembled around a pip one
    origin: str  # "CUDA_HOME", "CUDA_PATH", "PATH", "default", "pip"
    root: Path  # where the files really are
    release: str  # "13.0"
    build: str  # "V13.0.88 cuda_13.0.r13.0/compiler.36424714_0"
    cudart: Path  # the libcudart.so.N that -lcudart resolves to


@dataclass(frozen=True)
class Choice:
    """The toolkit, and a sentence for each one that came before it and could not be used."""

    toolkit: Toolkit
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A directory that might be a toolkit.

    Of a pip one also the directory of links, if it already has one.
    """

    origin: str
    home: Path
    links: Path | None = None

    def __str__(self) -> str:
        return str(self.home) if self.origin == "default" else f"{self.home} ({_FROM[self.origin]})"


_FROM = {
    "CUDA_HOME": "from CUDA_HOME",
    "CUDA_PATH": "from CUDA_PATH",
    "PATH": "nvcc on PATH",
    "pip": "from pip",
}


def choose_toolkit(
    env: Mapping[str, str],
    site_packages: Sequence[Path],
    needs: Collection[str],
    probe: ProbeMemo,
    cache_home: Path,
    *,
    commands: Commands | None = None,
) -> Choice:
    """The first complete toolkit of CUDA_HOME, CUDA_PATH, nvcc on PATH, /usr/local/cuda and pip's that can do it.

    `env` is the server's environment, `needs` the headers that kernels need (needs.py), `commands` the flags that
    its nvcc has to know (capability.py), `cache_home` XDG_CACHE_HOME or ~/.cache: a pip toolkit is assembled below it.
    Where no complete one's nvcc knows all flags, the first complete one. The caller saves `probe`. Raises NoCompiler,
    and EnvironmentProblem, with what each candidate lacks and how to get it, if none is complete.
    """
    host_compiler(env)  # nothing is linked without one
    refused: list[tuple[Candidate, Survey]] = []
    for candidate, found in surveyed(env, site_packages, needs, probe, commands):
        if found.complete and not found.refuses:
            toolkit = _made(candidate, found, env, cache_home)
            return Choice(toolkit, tuple(_note(other, lacks, toolkit) for other, lacks in refused))
        refused.append((candidate, found))
    for candidate, found in refused:
        if found.complete:
            toolkit = _made(candidate, found, env, cache_home)
            return Choice(toolkit, (f"{candidate} {found}, nor can any other: some kernels would fail",))
    raise _nothing_usable(refused, site_packages)


def surveyed(
    env: Mapping[str, str],
    site_packages: Sequence[Path],
    needs: Collection[str],
    probe: ProbeMemo,
    commands: Commands | None = None,
) -> Iterator[tuple[Candidate, Survey]]:
    """Every toolkit in FlashInfer's order of search, pip's last, with what it has, lacks and can't do."""
    linker = Linker(env, probe)
    for candidate in _candidates(env, site_packages, probe):
        is_pip = candidate.origin == "pip"
        found = survey_pip(candidate.home, needs, probe) if is_pip else survey(candidate.home, needs, linker)
        if found.complete and (flags := wanted_of(found.build, commands or {})):
            refuses = refusal(nvcc_of(candidate.home, env), found.build, flags, probe)
            found = replace(found, refuses=refuses)
        yield candidate, found


def _candidates(env: Mapping[str, str], site_packages: Sequence[Path], probe: ProbeMemo) -> Iterator[Candidate]:
    """Each place once, under the first name by which it is found."""
    seen: set[tuple[bool, str]] = set()
    for candidate in _named(env, site_packages, probe):
        place = (candidate.origin == "pip", os.path.realpath(candidate.home))
        if place not in seen:
            seen.add(place)
            yield candidate


def _named(env: Mapping[str, str], site_packages: Sequence[Path], probe: ProbeMemo) -> Iterator[Candidate]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if env.get(variable):
            yield _candidate(variable, Path(env[variable]))
    nvcc = shutil.which("nvcc", path=env.get("PATH", os.defpath))
    if nvcc is not None:
        yield _candidate("PATH", _home_of(Path(nvcc), probe))
    if DEFAULT_HOME.is_dir():
        yield Candidate("default", DEFAULT_HOME)
    for directory in site_packages:
        yield from (Candidate("pip", root) for root in _pip_roots(directory / "nvidia"))


def _candidate(origin: str, home: Path) -> Candidate:
    """A named directory; as the pip toolkit that it is where it was assembled around one, or is one bare."""
    root = assembled_root(home)
    if root is not None and root.is_dir():
        return Candidate("pip", root, home)
    is_bare = home.parent.name == "nvidia" and _PIP_DIRECTORY.fullmatch(home.name)
    return Candidate("pip" if is_bare else origin, home)


def _pip_roots(nvidia: Path) -> list[Path]:
    """nvidia/cu13, nvidia/cu14 …, newest first."""
    roots = [path for path in nvidia.glob("cu*") if _PIP_DIRECTORY.fullmatch(path.name)]
    return sorted(roots, key=lambda path: int(path.name[2:]), reverse=True)


def _home_of(nvcc: Path, probe: ProbeMemo) -> Path:
    """The toolkit of an nvcc: two levels up, like FlashInfer, unless it is a wrapper or a link to elsewhere.

    The path is kept as PATH has it where it can be, because a server without CUDA_HOME puts it into its
    commands.
    """
    plain = nvcc.parent.parent
    chain = exec_chain(nvcc)
    if chain is None:
        return _told_by_dryrun(nvcc, probe) or plain
    if len(chain) == 1 and (plain / "nvvm").is_dir():
        return plain
    return chain[-1].parent.parent


def _told_by_dryrun(nvcc: Path, probe: ProbeMemo) -> Path | None:
    """What nvcc itself calls TOP, for a wrapper that cannot be read.

    Runs it each time, 10 to 70 ms (measured).
    """
    try:
        top = _TOP.search(probe.output(nvcc, "--dryrun", "-c", "-x", "cu", os.devnull))
    except EnvironmentProblem:
        return None
    return Path(os.path.realpath(top[1])) if top else None


def _toolkit(candidate: Candidate, found: Survey) -> Toolkit:
    assert found.cudart is not None  # noqa: S101 - the caller looked # nosec B101
    root = candidate.home.resolve()
    return Toolkit(candidate.home, candidate.origin, root, found.release, found.build, found.cudart)


def _made(candidate: Candidate, found: Survey, env: Mapping[str, str], cache_home: Path) -> Toolkit:
    if candidate.origin == "pip":
        return _pip_toolkit(candidate, found, env, cache_home)
    return _toolkit(candidate, found)


def _pip_toolkit(candidate: Candidate, found: Survey, env: Mapping[str, str], cache_home: Path) -> Toolkit:
    """Assembles it where it was, so that commands stay the same, but never under another version's name."""
    machine = platform.machine()  # machines of several kinds may share a home
    name = f"cuda-{found.version}" + f"-{machine}" * (machine != "x86_64")
    links = candidate.links
    home = links if links is not None and links.name == name else cache_home / "fitasks" / name
    stubs = sorted(DEFAULT_HOME.parent.glob("cuda*/lib64/stubs/libcuda.so"))
    assemble(candidate.home, home, compiler=host_compiler(env), stubs=stubs)
    root, cudart = assembled_root(home) or candidate.home, (home / "lib64" / "libcudart.so").resolve()
    return Toolkit(home, "pip", root, found.release, found.build, cudart)


def _note(refused: Candidate, found: Survey, chosen: Toolkit) -> str:
    version = chosen.build.split(maxsplit=1)[0].removeprefix("V")
    instead = f"the pip toolkit {version}" if chosen.origin == "pip" else f"{chosen.home} ({version})"
    return f"{refused} {found}; using {instead} instead"


def _nothing_usable(refused: list[tuple[Candidate, Survey]], site_packages: Sequence[Path]) -> EnvironmentProblem:
    if not refused:
        places = ", ".join(str(path) for path in site_packages) or "no site-packages"
        return EnvironmentProblem(
            f"no CUDA toolkit: CUDA_HOME and CUDA_PATH are not set, no nvcc on PATH, no {DEFAULT_HOME}, "
            f"none from pip in {places}",
            remedy=pip_command((), pip_release(site_packages)[0]),
        )
    lines = [f"  {candidate} {found}" for candidate, found in refused]
    remedy = _remedy(refused, pip_release(site_packages)[0])
    return EnvironmentProblem("\n".join(["no complete CUDA toolkit:", *lines]), remedy=remedy)


def _remedy(refused: list[tuple[Candidate, Survey]], release: str) -> str:
    """The pip command, and the one that would complete the first installed toolkit."""
    pip = pip_command({hole.component for _, found in refused for hole in found.holes} - {STUB}, release)
    for candidate, found in refused:
        if candidate.origin != "pip" and found.release:
            command = install_command({hole.component for hole in found.holes}, candidate.home, found.release)
            return f"{pip}\n  or, for {candidate.home}: {command}" if command else pip
    return pip
