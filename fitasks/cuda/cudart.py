"""libcudart: the one the toolkit links, those in the serving environment, and the one a server really loads.

A kernel names its libcudart by soname only, so whichever of that name is in the process first is used: usually the
one from pip that torch brings, which may be older than the compiler. Versions come from three sources, which must
agree: the package's metadata, the file's name, and cudaRuntimeGetVersion.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base import memo
from fitasks.base.answers import Cudarts
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import look, sha256_file
from fitasks.cuda.elf import exported, inspect_library
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCRIPT = interpreter.SCRIPTS / "loading" / "libcudart.py"
MEMO = "cudart.json"  # in a project's .fitasks
_VERSION = 2
_CACHED = re.compile(rb"(/[^\0]+/libcudart\.so\.[\d.]+)\0")


@dataclass(frozen=True)
class Cudart:
    """One libcudart. `problem` is set, and the rest empty, where the file is no usable library."""

    path: str
    real: str  # where links lead
    soname: str = ""
    package: str = ""  # version of the distribution that brought it, "12.4.127"
    runtime: str = ""  # what cudaRuntimeGetVersion says, "12.4", or why it says nothing
    sha256: str = ""
    symbols: tuple[str, ...] = ()  # exported, as "name@version"
    problem: str = ""

    @property
    def version(self) -> str:
        """The best that is known: the package's, the file name's, the runtime's."""
        named = re.search(r"\.so\.(\d+\.\d+\.\d+)$", self.real)
        return self.package or (named[1] if named else "") or self.runtime

    @property
    def major(self) -> int:
        """12 or 13, from the soname; 0 for a file that is no library."""
        found = re.search(r"\.so\.(\d+)", self.soname)
        return int(found[1]) if found else 0

    @property
    def disagreement(self) -> str:
        """Where package, file name and library tell different versions."""
        named = re.search(r"\.so\.(\d+\.\d+)\.\d+$", self.real)
        told = {
            "its package": ".".join(self.package.split(".")[:2]),
            "its name": named[1] if named else "",
            "cudaRuntimeGetVersion": self.runtime if re.fullmatch(r"\d+\.\d+", self.runtime) else "",
        }
        known = {source: version for source, version in told.items() if version}
        if len(set(known.values())) < 2:
            return ""
        return ", ".join(f"{source} says {version}" for source, version in known.items())


@dataclass(frozen=True)
class Runtime:
    """The serving environment's. `loaded` is what a kernel would be given; `how` says how that is known.

    Not `reached`: neither torch nor the dynamic loader finds any, and `loaded` is the environment's own for want of it.
    """

    loaded: Cudart | None
    how: str
    found: tuple[Cudart, ...]
    toolkit: Cudart  # what kernels are linked against
    reached: bool = True


def discover(python: Path, env: Mapping[str, str], site_packages: Iterable[Path], toolkit: Path, file: Path) -> Runtime:
    """Look, or remember: asking the serving interpreter imports torch, 2 to 3 s. `toolkit` is its libcudart."""
    site_packages = tuple(site_packages)
    candidates = _candidates(site_packages, env)
    key = [str(python), str(python.resolve()), env.get("LD_LIBRARY_PATH", ""), sha256_file(SCRIPT)]
    key += [f"{path} {look(path)}" for path in [*candidates, toolkit, *_torch(site_packages)] if path.exists()]
    if (known := _remembered(file, key)) is not None:
        return known
    words = [*candidates, toolkit]
    answer = interpreter.ask(python, SCRIPT, Cudarts, env, "which libcudart it loads", words=words)
    versions = answer["runtime_versions"]
    loaded = answer["loaded"]
    found = [describe(path, versions.get(str(path), "")) for path in candidates]
    chosen, how = _chosen(loaded, answer["how"], found, versions)
    linked = describe(toolkit, versions.get(str(toolkit), ""))
    runtime = Runtime(chosen, how, tuple(found), linked, reached=bool(loaded))
    memo.keep(file, {"version": _VERSION, "key": key, "runtime": asdict(runtime)})
    return runtime


def _torch(site_packages: Iterable[Path]) -> list[Path]:
    """What decides which libcudart comes with `import torch`: its libraries, and what it loads before them."""
    patterns = ("torch/__init__.py", "torch/version.py", "torch/lib/lib*.so")
    return [path for site in site_packages for pattern in patterns for path in sorted(site.glob(pattern))]


def describe(path: Path, said: int | str = "") -> Cudart:
    """What is known of one file without loading it; `said` is what cudaRuntimeGetVersion said of it."""
    real = path.resolve()
    try:
        library = inspect_library(path)
        symbols = tuple(sorted(map(str, exported(path))))
    except (EnvironmentProblem, OSError) as error:
        return Cudart(str(path), str(real), problem=str(error))
    runtime = f"{said // 1000}.{said % 1000 // 10}" if isinstance(said, int) else said
    return Cudart(str(path), str(real), library.soname, _package(path), runtime, sha256_file(real), symbols)


def missing(needed: Iterable[str], undefined: Iterable[str], runtime: Cudart) -> list[str]:
    """The CUDA runtime symbols ("name@version") of a kernel that `runtime` doesn't export.

    A library without symbol versions offers each name in any version, as to the dynamic loader.
    """
    if not any(name.startswith("libcudart") for name in needed):
        return []
    exact, names = set(runtime.symbols), {symbol.partition("@")[0] for symbol in runtime.symbols}
    versioned = any("@" in symbol for symbol in runtime.symbols)

    def offered(symbol: str) -> bool:
        return symbol in exact if versioned and "@" in symbol else symbol.partition("@")[0] in names

    return [symbol for symbol in undefined if symbol.startswith(("cuda", "__cuda")) and not offered(symbol)]


def _chosen(
    loaded: str | None, how: str, found: list[Cudart], versions: Mapping[str, int | str]
) -> tuple[Cudart | None, str]:
    """The one that counts, and how that is known."""
    if loaded:
        same = next((one for one in found if Path(one.real) == Path(loaded).resolve()), None)
        return same or describe(Path(loaded), versions.get(loaded, "")), how
    best = next((one for one in found if not one.problem), None)
    if best:
        how += f"; symbols are compared with the environment's own, {best.path}"
    return best, how


def _candidates(site_packages: Iterable[Path], env: Mapping[str, str]) -> list[Path]:
    """Every libcudart of the environment, newest major version first; then LD_LIBRARY_PATH's and the loader's."""
    patterns = ("nvidia/cu*/lib/libcudart.so.*", "nvidia/cuda_runtime/lib/libcudart.so.*", "torch/lib/libcudart*.so*")
    packages = [path for site in site_packages for pattern in patterns for path in sorted(site.glob(pattern))]
    extra = [Path(name) for name in env.get("LD_LIBRARY_PATH", "").split(":") if name]
    others = [path for directory in extra for path in sorted(directory.glob("libcudart.so.*"))]
    return [path for path in dict.fromkeys([*packages, *others, *cached()]) if "fitasks" not in path.name]


def cached(cache: Path = Path("/etc/ld.so.cache")) -> list[Path]:
    """The libcudarts that the dynamic loader's cache knows: its strings are paths, each ended by a zero byte."""
    try:
        found = _CACHED.findall(cache.read_bytes())
    except OSError:
        return []
    return [Path(os.fsdecode(path)) for path in dict.fromkeys(found)]


def _package(path: Path) -> str:
    """Version of the distribution that a library in site-packages/nvidia belongs to."""
    site = next((parent.parent for parent in path.parents if parent.name == "nvidia"), None)
    if site is None:
        return ""
    for info in sorted(site.glob("nvidia_cuda_runtime*.dist-info")):
        record = info / "RECORD"
        relative = str(path.relative_to(site))
        if record.exists() and relative in record.read_text(encoding="utf-8", errors="replace"):
            return info.name.removesuffix(".dist-info").rpartition("-")[2]
    return ""


class _Memo(TypedDict):
    version: int
    key: list[str]
    runtime: Runtime


def _remembered(file: Path, key: list[str]) -> Runtime | None:
    said = memo.read(file, _Memo)
    if said is None or (said["version"], said["key"]) != (_VERSION, key):
        return None
    runtime = said["runtime"]
    loaded = _restored(runtime["loaded"]) if runtime["loaded"] else None
    found = tuple(map(_restored, runtime["found"]))
    return Runtime(loaded, runtime["how"], found, _restored(runtime["toolkit"]), runtime["reached"])


def _restored(data: dict[str, Any]) -> Cudart:
    return Cudart(**data | {"symbols": tuple(data["symbols"])})
