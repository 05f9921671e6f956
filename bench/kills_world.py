"""The world of bench/kills.py: a project, what is right for it, and how each phase is prepared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.doit_project import Project

KERNELS = ("cascade", "norm", "page", "quantization")
VERSIONS = 4
MARKER = "FITASKS_BENCH_KILLS"
_OTHERS = ("tools/", "kept/", "xdg/uv/", "venv/.lock")  # the bench's own; uv's, which installs where pip was killed
PATIENCE = 120.0  # seconds for a whole run

_CHANGING = (  # what differs between clean runs
    (re.compile(r"[0-9a-f]{64}"), "DIGEST"),
    (re.compile(r"k[0-9a-f]{9}\b"), "KEY"),
    (re.compile(r"\d{15,}-\d+"), "RUN"),
)


@dataclass
class World:
    """The project with all that its runs write to, and what is right for each version of the header."""

    project: Project
    site: Path
    libraries: list[dict[str, str]] = field(default_factory=list)  # by version: kernel → SHA-256
    usual: set[str] = field(default_factory=set)  # files that clean runs leave
    seconds: dict[str, float] = field(default_factory=dict)  # that a clean run takes
    sources: dict[str, str] = field(default_factory=dict)  # a source's name → its kernel
    version: int = 0  # of the header
    installed: int = 0  # of which the package is that was installed in a clean run

    @classmethod
    def make(cls, root: Path) -> World:
        """A project whose server is a virtual environment of its own, which sees this one's packages."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
        (site,) = (root / "venv" / "lib").glob("python*/site-packages")
        (site / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        entries = "".join(f"  {name}:\n" for name in KERNELS)
        text = f"serving: {{python: {root}/venv/bin/python}}\ntargets: ['9.0a']\nkernels:\n{entries}"
        project = Project.make(root, text)
        compile_the_header(project.tools / "nvcc")
        (root / "tmp").mkdir()
        project.env |= {"TMPDIR": str(root / "tmp"), "STAND_IN_SECONDS": "0.05", "PYTHONDONTWRITEBYTECODE": "1"}
        project.env |= {MARKER: f"{os.getpid()}-{time.time_ns()}", "PIP_NO_CACHE_DIR": "1"}
        return cls(project, site)

    @property
    def root(self) -> Path:
        return self.project.root.parent

    @property
    def store(self) -> Path:
        return self.root / "xdg" / "fitasks" / "store"

    @property
    def plan(self) -> Path:
        return self.project.root / ".fitasks" / "plan.json"

    def bundle(self, version: int) -> Path:
        return self.root / f"bundle-{version}.tar.gz"

    def doit(self, *words: str) -> tuple[int, str, float]:
        """Exit status, all that was said, seconds."""
        begin = time.monotonic()
        process = self.project.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out + err, time.monotonic() - begin

    def clean(self, kind: str, *words: str) -> None:
        """A run that nobody disturbs: how long it takes, and what it leaves."""
        status, said, seconds = self.doit(*words)
        if status:
            raise SystemExit(f"doit {' '.join(words)} fails without any kill ({status}):\n{said}")
        self.seconds[kind] = max(seconds, self.seconds.get(kind, 0.0))
        self.usual |= self.files()

    def set_version(self, version: int) -> None:
        """Everything is stale, unless it was compiled from this version."""
        self.version = version
        (self.project.tools / "header.h").write_text(f"version {version}\n")

    def files(self) -> set[str]:
        """Everything below the root, with names that change from run to run made alike."""
        found = set()
        for directory, _, names in os.walk(self.root):
            found |= {_alike(os.path.relpath(f"{directory}/{name}", self.root)) for name in names}
        found |= {_alike(str(path.relative_to(self.root))) for path in (self.root / "tmp").iterdir()}
        return {name for name in found if not name.startswith(_OTHERS) and "__pycache__" not in name}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each library that is there."""
        found = {}
        for name in KERNELS:
            with contextlib.suppress(OSError):
                found[name] = hashlib.sha256(self.project.library(name).read_bytes()).hexdigest()
        return found

    def vouched(self) -> set[str]:
        """Kernels whose receipt is for a library of this version of the header."""
        found = set()
        for name in KERNELS:
            with contextlib.suppress(OSError, ValueError, KeyError):
                said = json.loads((self.project.library(name).parent / "fitasks-receipt.json").read_bytes())
                if said["outputs"][f"{name}.so"]["sha256"] == self.libraries[self.version][name]:
                    found.add(name)
        return found

    def fresh(self) -> tuple[set[str], str]:
        """What `doit list` calls fresh, and what it said where it failed."""
        status, said, _ = self.doit("list", "--all", "--status")
        lines = [line.split()[:2] for line in said.splitlines() if " kernel:" in line]
        fresh = {words[1].removeprefix("kernel:") for words in lines if words[0] == "U"}
        return fresh, "" if status == 0 else said

    def compiled(self) -> set[str]:
        """Kernels of which the stand-in compiled a file since the last question."""
        log = self.project.tools / "calls"
        said = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return {self.sources.get(line.split()[3], "?") for line in said if line.split()[1] == "start"}

    def entries(self) -> set[str]:
        """What is whole in the store."""
        return {str(path.parent.relative_to(self.store)) for path in self.store.glob("*/*/fitasks-receipt.json")}


def compile_the_header(nvcc: Path) -> None:
    """So that what is compiled from another header is another library."""
    text, made = nvcc.read_text(), "text.encode()"
    if text.count(made) != 1:
        raise SystemExit("tests/doit_project.py: the stand-in for nvcc is another one than this bench knows")
    name, header = "abs(hash(source)) % 10**6", "open(here + '/header.h').read().strip()"
    declared = f"""'const char made_of_%d[] = "%s";' % ({name}, {header})"""
    nvcc.write_text(text.replace(made, f"(text + {declared}).encode()"))


def _alike(name: str) -> str:
    for pattern, word in _CHANGING:
        name = pattern.sub(word, name)
    return name


# What is killed: how each phase is prepared, and its command.


Phase = tuple[Callable[[World, Random], None], Callable[[World], tuple[str, ...]]]


def _other_version(world: World, rng: Random) -> None:
    world.set_version(rng.choice([one for one in range(VERSIONS) if one != world.version]))


def _nothing_stored(world: World) -> None:
    shutil.rmtree(world.store, ignore_errors=True)


def _nothing_cached(world: World, names: Iterable[str] = KERNELS) -> None:
    for name in names:
        shutil.rmtree(world.project.library(name).parent, ignore_errors=True)


def prepare_build(world: World, rng: Random) -> None:
    """Everything is stale; sometimes one kernel is finished already, which must stay."""
    _other_version(world, rng)
    _nothing_stored(world)
    if rng.random() < 0.2:
        world.doit(f"kernel:{rng.choice(KERNELS)}")


def prepare_store(world: World, rng: Random) -> None:
    """The cache is lost, and is taken out of the store; sometimes a part of the store is lost as well."""
    _nothing_cached(world, rng.sample(KERNELS, rng.randrange(1, len(KERNELS) + 1)))
    if rng.random() < 0.3:
        shutil.rmtree(world.store / rng.choice(KERNELS), ignore_errors=True)


def prepare_bundle(world: World, rng: Random) -> None:
    """Over an older bundle, or for the first time."""
    if rng.random() < 0.5:
        (world.root / "new.tar.gz").unlink(missing_ok=True)


def prepare_unbundle(world: World, _: Random) -> None:
    _nothing_cached(world)
    _nothing_stored(world)


def prepare_install(world: World, rng: Random) -> None:
    """Into an environment without the package, or with it; each with the plan that holds there."""
    if world.version != world.installed:  # another package
        world.set_version(world.installed)
        world.doit()
    restore(world, rng.choice(("without", "with")))


def prepare_plan(world: World, _: Random) -> None:
    world.plan.unlink(missing_ok=True)


PHASES: dict[str, Phase] = {
    "build": (prepare_build, lambda _: ()),
    "store": (prepare_store, lambda _: ()),
    "bundle": (prepare_bundle, lambda world: ("bundle", str(world.root / "new.tar.gz"))),
    "unbundle": (prepare_unbundle, lambda world: ("unbundle", str(world.bundle(world.version)))),
    "install": (prepare_install, lambda _: ("install",)),
    "plan": (prepare_plan, lambda _: ("list",)),
}


def keep(world: World, name: str) -> None:
    """The serving environment and the plan as they are now, under this name."""
    kept = world.root / "kept" / name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(world.site, kept / "site", symlinks=True)
    shutil.copy2(world.plan, kept / "plan.json")


def restore(world: World, name: str) -> None:
    """That state again."""
    kept = world.root / "kept" / name
    for path in world.site.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(kept / "site", world.site, symlinks=True, dirs_exist_ok=True)
    shutil.copy2(kept / "plan.json", world.plan)


# the whole builds


def learn(world: World, only: set[str]) -> None:
    """Each version built from nothing, and each command once without a kill."""
    world.set_version(0)
    world.clean("plan", "list")
    plan = json.loads(world.plan.read_bytes())
    world.sources = {Path(source).name: kernel["name"] for kernel in plan["kernels"] for source in kernel["sources"]}
    for version in range(VERSIONS):
        world.set_version(version)
        _nothing_stored(world)
        world.clean("build")
        world.libraries.append(world.digests())
        world.clean("bundle", "bundle", str(world.bundle(version)))
    if len({json.dumps(one) for one in world.libraries}) != VERSIONS:
        raise SystemExit("the libraries of different headers are alike: nothing could be told")
    _nothing_cached(world)
    world.clean("store")
    world.clean("bundle", "bundle", str(world.root / "new.tar.gz"))
    if "unbundle" in only:
        prepare_unbundle(world, Random(0))
        world.clean("unbundle", "unbundle", str(world.bundle(world.version)))
    _learn_install(world, wanted="install" in only)
    world.clean("list", "list", "--all", "--status")
    world.compiled()


def _learn_install(world: World, *, wanted: bool) -> None:
    keep(world, "without")
    if wanted:
        world.clean("install", "install")
        world.doit("list")  # plans anew: the server's packages are others
        keep(world, "with")
        world.installed = world.version
        world.usual |= world.files()
        restore(world, "without")
