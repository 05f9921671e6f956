"""The server that kernels are built for: its interpreter, its packages, and the environment it will run in.

Everything here is known without starting that interpreter, unless it is another one than ours (then once, memoised).
"""

from __future__ import annotations

import hashlib
import json
import os
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from fitasks.errors import EnvironmentProblem
from fitasks.plan.caches import sglang_base

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.config.model import Config, Serving
    from fitasks.cuda.probe import ProbeMemo

_KERNELS = "fitasks-kernels"  # the package that `doit wheel` makes
PACKAGES = ("flashinfer-python", "torch", "apache-tvm-ffi", "flashinfer-jit-cache", _KERNELS)
_FINDERS = (
    "fitasks-kernels.pth",
    *(f"fitasks_kernels/{name}" for name in ("__init__.py", "manifest.json", "receipts.json")),
    "fitasks_kernels/shim/flashinfer_jit_cache/__init__.py",
)
_PROVIDERS = "flashinfer_jit_cache_*.dist-info"  # FlashInfer's own, one for each architecture

# What decides a module's name, place or commands; all FLASHINFER_* variables are added to these. Not CUDA_HOME and
# FLASHINFER_CUDA_ARCH_LIST: the toolkit and the target are chosen by then, and the planner gets both from us.
_VARIABLES = ("CC", "CXX", "HOME", "PYTHONPATH", "SGLANG_CACHE_DIR")
QUIET = {
    "FLASHINFER_CUDA_ARCH_LIST",
    "FLASHINFER_LOGGING_LEVEL",
    "FLASHINFER_LOGLEVEL",
    "FLASHINFER_LOGDEST",
    "FLASHINFER_DISABLE_JIT",
    "FLASHINFER_DISABLE_SM90",  # our own hook's; only which of the modules a server loads
    "FLASHINFER_DISABLE_EAGLE_VERIFY_FP8KV_SM90",  # of the same kind, and set by that hook
}

_DESCRIBE = """
import json, site, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({"prefix": sys.prefix, "site": [paths["purelib"], paths["platlib"]],
    "user": site.getusersitepackages() if site.ENABLE_USER_SITE else ""}))
"""


class _Described(TypedDict):
    prefix: str
    site: list[str]
    user: str


@dataclass(frozen=True)
class Package:
    """An installed distribution: its version, and a digest of RECORD that changes with any installed file.

    Our own kernels' also changes with the files by which FlashInfer finds them.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class Server:
    """The serving environment. `env` is the whole environment of a server process, before any CUDA_HOME of ours.

    `site_packages` is all that an import looks through, `site_directories` those of them whose .pth files Python reads:
    not the entries of PYTHONPATH (site.py).
    """

    python: Path
    engine: str
    prefix: Path
    site_packages: tuple[Path, ...]
    env: dict[str, str]
    packages: tuple[Package, ...]
    site_directories: tuple[Path, ...] = ()

    def version(self, name: str) -> str:
        """Version of one of PACKAGES, "" where it isn't installed."""
        return next((package.version for package in self.packages if package.name == name), "")

    def toolkit_places(self) -> tuple[Path, ...]:
        """Where a toolkit from pip may lie: the server's site-packages, then our own."""
        ours = (Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages")))
        return tuple(dict.fromkeys((*self.site_packages, *ours)))

    def relevant_environment(self) -> dict[str, str]:
        """The variables that decide names, places and commands of modules."""
        return {
            name: value
            for name, value in sorted(self.env.items())
            if name in _VARIABLES or (name.startswith("FLASHINFER_") and name not in QUIET)
        }


def find_server(config: Config, probe: ProbeMemo, environ: Mapping[str, str] = os.environ) -> Server:
    """The serving environment of a configuration. Raises EnvironmentProblem where the interpreter is unusable."""
    python = _interpreter(config)
    described = _describe(python, probe)
    env = _environment(config.serving, python, environ)
    site_packages, directories = _search_path(described, env), _site_directories(described)
    names = (*PACKAGES, *_providers(site_packages))
    packages = tuple(found for name in names if (found := find_package(name, site_packages)))
    if config.serving.engine == "sglang":
        env = _sglang(env, site_packages)
    return Server(python, config.serving.engine, Path(described["prefix"]), site_packages, env, packages, directories)


def _interpreter(config: Config) -> Path:
    """The interpreter's path as written: a virtual environment's `python` is a link that must not be resolved."""
    written = config.serving.python
    if not written:
        return _ours()
    path = Path(written) if "/" in written else _on_path(written)
    if not os.access(path, os.X_OK) or path.is_dir():
        raise EnvironmentProblem(
            f"{config.file}: serving.python: {path} is not an executable file",
            remedy="name the server's interpreter, e.g. /opt/venv/bin/python, or leave the line out for this one",
        )
    return path


def _ours() -> Path:
    """`…/bin/python` also where doit was started as `python3`, so that there is one plan and one stamp for both."""
    plain = Path(sys.executable).with_name("python")
    return plain if plain.exists() and plain.samefile(sys.executable) else Path(sys.executable)


def _on_path(name: str) -> Path:
    import shutil

    return Path(shutil.which(name) or name)


def _describe(python: Path, probe: ProbeMemo) -> _Described:
    if python == _ours():
        paths = sysconfig.get_paths()
        user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
        return {"prefix": sys.prefix, "site": [paths["purelib"], paths["platlib"]], "user": user}
    try:
        return cast("_Described", json.loads(probe.output(python, "-I", "-c", _DESCRIBE)))
    except ValueError:
        raise EnvironmentProblem(
            f"{python} does not answer as a Python interpreter",
            remedy="check `serving.python` in kernels.yaml",
        ) from None


def _search_path(described: _Described, env: Mapping[str, str]) -> tuple[Path, ...]:
    listed = tuple(Path(entry) for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry)
    return tuple(dict.fromkeys((*listed, *_site_directories(described))))


def _site_directories(described: _Described) -> tuple[Path, ...]:
    return tuple(Path(entry) for entry in dict.fromkeys((*described["site"], described["user"])) if entry)


def _environment(serving: Serving, python: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The server's environment as if its virtual environment were activated: FlashInfer takes ninja from PATH."""
    env = {name: value for name, value in environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    directories = env.get("PATH", os.defpath).split(os.pathsep)
    if str(python.parent) not in directories:
        env["PATH"] = os.pathsep.join([str(python.parent), *directories])
    return env | serving.env


def _sglang(env: dict[str, str], site_packages: tuple[Path, ...]) -> dict[str, str]:
    """From 0.5.18 on `import sglang` moves FlashInfer's base directory, unless it is set already."""
    from packaging.version import Version

    installed = find_package("sglang", site_packages)
    if installed and Version(installed.version) < Version("0.5.18"):
        return env
    return {"FLASHINFER_WORKSPACE_BASE": sglang_base(env)} | env


def _providers(site_packages: tuple[Path, ...]) -> list[str]:
    return sorted({info.name.rpartition("-")[0] for site in site_packages for info in site.glob(_PROVIDERS)})


def find_package(name: str, site_packages: tuple[Path, ...]) -> Package | None:
    """The first distribution of that name on the path, as an import would find it."""
    stem = name.replace("-", "_")
    for directory in site_packages:
        for info in sorted(directory.glob(f"{stem}-*.dist-info")):
            version = info.name.removesuffix(".dist-info").rpartition("-")[2]
            return Package(name, version, _digest(info) + (_state(info) if name == _KERNELS else ""))
    return None


def _digest(info: Path) -> str:
    """Of RECORD, which lists every installed file with its hash; of METADATA for an unpacked wheel without one."""
    for name in ("RECORD", "METADATA"):
        try:
            return hashlib.sha256((info / name).read_bytes()).hexdigest()[:16]
        except OSError:
            continue
    return ""


def _state(info: Path) -> str:
    """Of what FlashInfer finds our kernels by: what befell one of these files after its installation, RECORD can't say.

    One that is gone or broken changes what FlashInfer answers. Libraries are looked at with each check.
    """
    files = [*(info.parent / name for name in _FINDERS), info / "entry_points.txt"]
    return hashlib.sha256(repr([_stamp(file) for file in files]).encode()).hexdigest()[:16]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
