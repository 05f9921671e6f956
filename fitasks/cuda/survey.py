"""What a directory has of a toolkit and what it lacks: files, and what nvcc says of its own version."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem, NoCompiler
from fitasks.cuda.components import DISTRIBUTIONS, STUB, compiler_command, component_of
from fitasks.cuda.probe import LAUNCHERS, ProbeMemo

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_RELEASE = re.compile(r"release (\d+\.\d+), V(\d+\.\d+\.\d+)")
_BUILD = re.compile(r"^Build (\S+)", re.MULTILINE)
_SEARCH_DIR = re.compile(r'SEARCH_DIR\("=?([^"]+)"\)')
_DIST_INFO = re.compile(r"(nvidia_\w+)-([^-]+)\.dist-info")

# What nvcc itself consists of; some packages bring single ones of these (triton ptxas, CUDA 12's wheels).
_FIXED = (
    ("bin/cudafe++", "nvcc"),
    ("bin/fatbinary", "nvcc"),
    ("bin/ptxas", "nvcc"),
    ("nvvm/bin/cicc", "nvvm"),
    ("include/crt/host_config.h", "crt"),
    ("include/cuda_runtime.h", "cudart"),
)


@dataclass(frozen=True)
class Hole:
    """A file that a toolkit lacks, and the component that would bring it (see components.py)."""

    file: str
    component: str

    def __str__(self) -> str:
        return f"{self.file} ({self.component})"


@dataclass(frozen=True)
class Survey:
    """A directory seen as a toolkit. `release` "13.0", `version` "13.0.88", `cudart` what -lcudart finds.

    `refuses` is what its nvcc says of FlashInfer's commands where it can't do them (capability.py).
    """

    holes: tuple[Hole, ...]
    release: str = ""
    version: str = ""
    build: str = ""
    cudart: Path | None = None
    refuses: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing of it; what its nvcc can do is another question."""
        return not self.holes and self.cudart is not None

    def __str__(self) -> str:
        """What keeps it from being used: "lacks …"."""
        if self.refuses:
            return f"can't do FlashInfer's commands (nvcc {self.version}: {self.refuses})"
        return self.lacks

    @property
    def lacks(self) -> str:
        """`lacks cublasLt.h (cublas), nvrtc.h (nvrtc)`."""
        return "lacks " + ", ".join(str(hole) for hole in self.holes)


def host_compiler(env: Mapping[str, str]) -> Path:
    """The host compiler of FlashInfer's ninja commands: $CXX, else c++. Raises NoCompiler."""
    words = [word for word in shlex.split(env.get("CXX", "")) if Path(word).name not in LAUNCHERS]
    name = words[0] if words else "c++"
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None:
        remedy = f"correct CXX, or unset it: {name} isn't there" if words else ""
        raise NoCompiler(
            f"no host compiler: {name} is not on PATH",
            remedy=remedy or f"{compiler_command()}, or set CXX to the compiler",
        )
    return Path(found)


@dataclass
class Linker:
    """Where FlashInfer's link command looks for libraries beside the toolkit's own lib64 and lib64/stubs."""

    env: Mapping[str, str]
    probe: ProbeMemo
    _dirs: tuple[Path, ...] | None = field(default=None, init=False)

    def dirs(self) -> tuple[Path, ...]:
        """LIBRARY_PATH, -L of FLASHINFER_EXTRA_LDFLAGS, and what compiler and linker search by default."""
        if self._dirs is None:
            extra = [word[2:] for word in self.env.get("FLASHINFER_EXTRA_LDFLAGS", "").split() if word[:2] == "-L"]
            named = [*extra, *self.env.get("LIBRARY_PATH", "").split(":")]
            self._dirs = tuple(dict.fromkeys(Path(name) for name in (*named, *self._defaults()) if name))
        return self._dirs

    def _defaults(self) -> list[str]:
        try:
            compiler = host_compiler(self.env)
        except NoCompiler:  # which is said where something is to be compiled
            return []
        listed = self.probe.output(compiler, "-print-search-dirs")
        libraries = re.search(r"^libraries: =?(.*)$", listed, re.MULTILINE)
        ld = self.probe.output(compiler, "-print-prog-name=ld").strip()
        path = shutil.which(ld, path=self.env.get("PATH", os.defpath))
        scripts = _SEARCH_DIR.findall(self.probe.output(Path(path), "--verbose")) if path else []
        return [*(libraries[1].split(":") if libraries else ()), *scripts]


def find_library(name: str, home: Path, linker: Linker) -> Path | None:
    """What `-L$CUDA_HOME/lib64 -L$CUDA_HOME/lib64/stubs -l…` links, or None. Empty files do not count.

    (A container runtime leaves empty driver libraries behind where it ran without a GPU.)
    """
    own = (home / "lib64" / name, home / "lib64" / "stubs" / name)
    found = next(filter(_has_content, own), None)
    return found or next(filter(_has_content, (directory / name for directory in linker.dirs())), None)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def survey(home: Path, needs: Collection[str], linker: Linker) -> Survey:
    """What `home` lacks to compile and link a module that needs the headers `needs`, as FlashInfer would."""
    said, holes = _nvcc(home, linker.probe)
    holes += _lacking(home, needs)
    cudart = find_library("libcudart.so", home, linker)
    if cudart is None or not _fits(cudart.resolve(), said.release):
        holes.append(Hole("lib64/libcudart.so" if cudart is None else f"libcudart.so of {said.release}", "cudart"))
    if find_library("libcuda.so", home, linker) is None:
        holes.append(Hole("lib64/stubs/libcuda.so", STUB))
    return Survey(tuple(holes), said.release, said.version, said.build, cudart and cudart.resolve())


def survey_pip(root: Path, needs: Collection[str], probe: ProbeMemo) -> Survey:
    """The same for pip's layout, which needs no lib64, libcudart.so or stub: `assemble` makes these."""
    said, holes = _nvcc(root, probe)
    holes += _lacking(root, needs)
    holes += _mixture(root, said)
    libraries = sorted((root / "lib").glob("libcudart.so.*"))
    if not libraries:
        holes.append(Hole("lib/libcudart.so.*", "cudart"))
    return Survey(tuple(holes), said.release, said.version, said.build, libraries[-1] if libraries else None)


def nvcc_says(home: Path, probe: ProbeMemo) -> Survey:
    """Release, version and build of a toolkit's nvcc; empty where it can't tell them."""
    return _nvcc(home, probe)[0]


def _nvcc(home: Path, probe: ProbeMemo) -> tuple[Survey, list[Hole]]:
    nvcc = home / "bin" / "nvcc"
    if not nvcc.is_file():
        return Survey(()), [Hole("bin/nvcc", "nvcc")]
    try:
        text = probe.output(nvcc, "--version")
    except EnvironmentProblem as problem:
        return Survey(()), [Hole(f"a bin/nvcc that runs: {problem.message}", "nvcc")]
    release, build = _RELEASE.search(text), _BUILD.search(text)
    if release is None:
        return Survey(()), [Hole("a bin/nvcc that tells its release", "nvcc")]
    exact = f"V{release[2]}" + (f" {build[1]}" if build else "")
    return Survey((), release[1], release[2], exact), []


def _lacking(home: Path, needs: Collection[str]) -> list[Hole]:
    """Fixed files and headers that are not there. nvcc itself adds targets/… and include/cccl."""
    holes = [Hole(file, component) for file, component in _FIXED if not (home / file).is_file()]
    targets = _target(home) / "include"
    places = (home / "include", home / "include" / "cccl", targets, targets / "cccl")
    return holes + [
        Hole(header, component_of(header) or "cudart")
        for header in sorted(needs)
        if not any((place / header).is_file() for place in places)
    ]


def _target(home: Path) -> Path:
    """What a toolkit has of this machine's architecture; NVIDIA calls Arm servers sbsa, and Jetsons aarch64."""
    machine = platform.machine()
    names = ["sbsa", machine] if machine == "aarch64" else [machine]
    found = [home / "targets" / f"{name}-linux" for name in names]
    return next(filter(Path.is_dir, found), found[-1])


def _fits(cudart: Path, release: str) -> bool:
    """Whether a resolved libcudart.so.13[.0.96] is of nvcc's major release; true where either doesn't say."""
    major = re.search(r"\.so\.(\d+)", cudart.name)
    return major is None or not release or major[1] == release.split(".", maxsplit=1)[0]


def pip_versions(root: Path) -> dict[str, str]:
    """Component → version of the wheels that make up `site-packages/nvidia/cuNN`, from their metadata."""
    found: dict[str, str] = {}
    try:
        names = os.listdir(root.parent.parent)  # noqa: PTH208, names only, of a thousand entries
    except OSError:
        return found
    for name in names:
        match = _DIST_INFO.fullmatch(name) if name.startswith("nvidia_") else None
        if match and match[1] in DISTRIBUTIONS:
            found[DISTRIBUTIONS[match[1]]] = match[2]
    return found


def _mixture(root: Path, said: Survey) -> list[Hole]:
    """Nvvm and crt of another release than nvcc's, which pip chooses freely unless every extra is named."""
    versions = pip_versions(root)
    return [
        Hole(
            f"{component} {said.release} (it has {versions[component]}, its nvcc is {said.version})",
            component,
        )
        for component in ("nvvm", "crt")
        if said.release and component in versions and not f"{versions[component]}.".startswith(f"{said.release}.")
    ]
