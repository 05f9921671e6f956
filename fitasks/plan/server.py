"""The server that kernels are built for: its interpreter, its packages, and the environment it will run in.

The interpreter itself says where it looks for packages and what it would import (`serving/plan/describe.py`). It is
asked once; the answer holds as long as all that it rests on (reads.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from fitasks.base import answers, memo
from fitasks.base.errors import EnvironmentProblem
from fitasks.plan.caches import sglang_base
from fitasks.plan.reads import Reads
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitasks.config.model import Config, Serving
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.plan.target import Target

VARIABLE = "FITASKS_PYTHON"  # the server's interpreter, in place of serving.python
_SCRIPT = interpreter.SCRIPTS / "plan" / "describe.py"
_KERNELS = "fitasks-kernels"  # the package that `doit wheel` makes
_IMPORTED = {  # distribution → what is imported of it
    "flashinfer-python": "flashinfer",
    "torch": "torch",
    "apache-tvm-ffi": "tvm_ffi",
    "sglang": "sglang",
    "vllm": "vllm",
}
UNKNOWN = "unknown"  # the version of a package that doesn't tell
_INSTALLED = ("flashinfer-jit-cache", _KERNELS)
_FINDERS = (
    "fitasks-kernels.pth",
    *(f"fitasks_kernels/{name}" for name in ("__init__.py", "manifest.json", "receipts.json")),
    "fitasks_kernels/shim/flashinfer_jit_cache/__init__.py",
)
_PROVIDERS = "flashinfer_jit_cache_*.dist-info"  # FlashInfer's own, one for each architecture

# What decides a module's name, place or commands; those that begin like _FAMILIES are added. Not
# CUDA_HOME and FLASHINFER_CUDA_ARCH_LIST: toolkit and target are chosen by then, and the planner gets both from us.
_FAMILIES = ("FLASHINFER_", "TVM_FFI_", "CUTE_DSL_", "SGLANG_JIT_")
_VARIABLES = ("CC", "CXX", "SGLANG_CACHE_DIR")
# What decides where Python looks for modules, and how it runs them.
_PYTHON = ("HOME", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONUSERBASE")
QUIET = {
    "FLASHINFER_CUDA_ARCH_LIST",
    "FLASHINFER_LOGGING_LEVEL",
    "FLASHINFER_LOGLEVEL",
    "FLASHINFER_LOGDEST",
    "FLASHINFER_DISABLE_JIT",
    "FLASHINFER_DISABLE_SM90",  # our own hook's; only which of the modules a server loads
    "SGLANG_JIT_FORCE_RECOMPILE",
    "SGLANG_JIT_CACHE_DEBUG",
    "SGLANG_JIT_CACHE_KEEP",
    "SGLANG_JIT_LOG_LEVEL",
    "FLASHINFER_DISABLE_EAGLE_VERIFY_FP8KV_SM90",  # of the same kind, and set by that hook
}


class _Memo(TypedDict):
    key: list[str]
    described: answers.Interpreter
    reads: dict[str, Any]


@dataclass(frozen=True)
class Package:
    """A distribution: its version and, where it is known by being imported, the directory that it is imported from.

    Of ahead-of-time kernels also a digest of RECORD, which changes with any installed file; our own kernels' also
    changes with the files by which FlashInfer finds them.
    """

    name: str
    version: str
    digest: str
    root: str = ""


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
        """Version of a distribution that matters here, as it is imported; "" where it isn't there."""
        return next((package.version for package in self.packages if package.name == name), "")

    def told(self, name: str) -> str:
        """Version of a distribution; "" where it isn't there, or doesn't tell."""
        version = self.version(name)
        return "" if version == UNKNOWN else version

    def imported_from(self, name: str) -> str:
        """Directory of a distribution's package, as it would be imported; "" where it can't be."""
        return next((package.root for package in self.packages if package.name == name), "")

    def toolkit_places(self) -> tuple[Path, ...]:
        """Where a toolkit from pip may lie: the server's site-packages, then our own."""
        ours = (Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages")))
        return tuple(dict.fromkeys((*self.site_packages, *ours)))

    def relevant_environment(self) -> dict[str, str]:
        """The variables that decide names, places and commands of modules."""
        return {
            name: value
            for name, value in sorted(self.env.items())
            if name in (*_VARIABLES, *_PYTHON) or (name.startswith(_FAMILIES) and name not in QUIET)
        }


def find_server(config: Config, probe: ProbeMemo, environ: Mapping[str, str] = os.environ) -> Server:
    """The serving environment of a configuration. Raises EnvironmentProblem where the interpreter is unusable."""
    python = _interpreter(config, environ)
    env = _environment(config.serving, python, environ)
    described = _describe(python, env, probe.directory / "interpreter.json")
    site_packages, directories = tuple(map(Path, described["path"])), tuple(map(Path, described["site"]))
    names = (*_INSTALLED, *_providers(site_packages))
    installed = (found for name in names if (found := find_package(name, site_packages)))
    packages = (*_imported(described), *installed)
    server = Server(python, config.serving.engine, Path(described["prefix"]), site_packages, env, packages, directories)
    return replace(server, env=_sglang(server)) if server.engine == "sglang" else server


def _interpreter(config: Config, environ: Mapping[str, str]) -> Path:
    """The interpreter's path as written: a virtual environment's `python` is a link that must not be resolved.

    The variable comes first: an image's Dockerfile knows its Python, whatever kernels.yaml says of another machine's.
    """
    named = environ.get(VARIABLE, "")
    written = named or config.serving.python
    if not written:
        return _ours()
    path = Path(shutil.which(written) or written)
    if not os.access(path, os.X_OK) or path.is_dir():
        raise EnvironmentProblem(
            f"{VARIABLE if named else f'{config.file}: serving.python'}: {path} is not an executable file",
            remedy="name the server's interpreter, e.g. /opt/venv/bin/python, or leave it out for this one",
        )
    return path


def _ours() -> Path:
    """`…/bin/python` also where doit was started as `python3`, so that there is one plan and one stamp for both."""
    plain = Path(sys.executable).with_name("python")
    return plain if plain.exists() and plain.samefile(sys.executable) else Path(sys.executable)


def _describe(python: Path, env: Mapping[str, str], file: Path) -> answers.Interpreter:
    """What the interpreter says of itself in this environment, remembered. Raises EnvironmentProblem."""
    key = [str(python), str(python.resolve()), *(env.get(name, "") for name in _PYTHON)]
    if known := _remembered(file, key):
        return known
    since = time.time_ns()
    what = "where it looks for packages"
    described = interpreter.ask(python, _SCRIPT, answers.Described, env, what, remedy=interpreter.REMEDY)
    reads = Reads.of([described.pop("reads")], since, python)
    memo.keep(file, {"key": key, "described": described, "reads": reads.as_record()})
    return cast("answers.Interpreter", described)


def _remembered(file: Path, key: list[str]) -> answers.Interpreter | None:
    said = memo.read(file, _Memo)
    known = said and said["key"] == key and Reads.holding(said["reads"])
    return cast("answers.Interpreter", said["described"]) if known else None


def _imported(described: answers.Interpreter) -> Iterator[Package]:
    """What the interpreter would import; the version is the module's own, else that of a dist-info beside it."""
    for name, module in _IMPORTED.items():
        if found := described["packages"].get(module):
            root = found["root"]
            beside = find_package(name, (Path(root).parent,))
            version = found["version"] or (beside.version if beside else UNKNOWN)
            yield Package(name, version, "", root)


def _environment(serving: Serving, python: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The server's environment as if its virtual environment were activated: FlashInfer takes ninja from PATH."""
    env = {name: value for name, value in environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    directories = env.get("PATH", os.defpath).split(os.pathsep)
    if str(python.parent) not in directories:
        env["PATH"] = os.pathsep.join([str(python.parent), *directories])
    return env | serving.env


def as_imported(server: Server, targets: Mapping[str, Target]) -> Server:
    """The server with the versions that were really imported while planning."""
    one = next(iter(targets.values()), None)
    now = {"flashinfer-python": one.flashinfer, "torch": one.torch, "apache-tvm-ffi": one.tvm_ffi} if one else {}
    packages = (replace(package, version=now.get(package.name, package.version)) for package in server.packages)
    return replace(server, packages=tuple(packages))


def _sglang(server: Server) -> dict[str, str]:
    """From 0.5.18 on `import sglang` moves FlashInfer's base directory, unless it is set already."""
    from packaging.version import InvalidVersion, Version

    try:
        before = Version(server.version("sglang")) < Version("0.5.18")
    except InvalidVersion:  # none is installed here, or a checkout that doesn't tell
        before = False
    if before:
        return server.env
    return {"FLASHINFER_WORKSPACE_BASE": sglang_base(server.env)} | server.env


def _providers(site_packages: tuple[Path, ...]) -> list[str]:
    return sorted({info.name.partition("-")[0] for site in site_packages for info in site.glob(_PROVIDERS)})


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
