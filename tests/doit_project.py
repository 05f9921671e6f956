"""A project on disk, driven by the real doit, planned by the real FlashInfer, compiled by a stand-in for nvcc.

The stand-in makes an empty object in milliseconds and says which headers it read; everything around it (ninja, the
link line, locks, receipts) is real. It waits while the file `hold` exists, fails for sources named in `fail`, and dies of want of memory as
often as `killed` says, which may name one source before the number.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests import warm, warm_client

if TYPE_CHECKING:
    from collections.abc import Callable

    Prepare = Callable[["Project"], object]

ROOT = Path(__file__).parent.parent

KERNELS = """\
targets: ["9.0a"]
kernels:
  cascade:
  quantization:
  page:
"""

PAGE = 'targets: ["9.0a"]\nkernels:\n  page:\n'

NVCC = """\
#!{python} -S
import os, subprocess, sys, time
here = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[1:]
if "--version" in words:
    print("nvcc: NVIDIA (R) Cuda compiler driver\\nCuda compilation tools, release 13.0, V13.0.88\\nBuild stand-in")
    sys.exit()
if "--help" in words:
    print("--split-compile <number>  (-split-compile)")
    sys.exit()
source, output = words[words.index("-c") + 1], words[words.index("-o") + 1]
depfile = words[words.index("-MF") + 1]
with open(here + "/calls", "a") as log:
    flags = os.environ.get("NVCC_APPEND_FLAGS", "")
    log.write(f"{{time.time()}} start {{os.getpid()}} {{os.path.basename(source)}} {{flags}}\\n")
deadline = time.time() + 60
while os.path.exists(here + "/hold") and time.time() < deadline:
    time.sleep(0.02)
if os.path.exists(here + "/killed"):
    name, _, lives = open(here + "/killed").read().rpartition(" ")
    if int(lives) and name in ("", os.path.basename(source)):
        open(here + "/killed", "w").write(f"{{name}} {{int(lives) - 1}}")
        print("nvcc error   : 'cicc' died due to signal 9 (Kill signal)")
        sys.exit(9)
if os.path.exists(here + "/fail") and os.path.basename(source) in open(here + "/fail").read().split():
    print(f"{{source}}(12): error: identifier \\"nonsense\\" is undefined\\n\\n1 error detected in the compilation")
    sys.exit(2)
text = "int stand_in_%d = %d;" % (abs(hash(source)) % 10**6, len(open(source).read()))
time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
subprocess.run(["cc", "-c", "-x", "c", "-", "-fPIC", "-o", output], input=text.encode(), check=True)
with open(depfile, "w") as deps:
    deps.write(f"{{output}} : {{source}} {{here}}/header.h\\n")
with open(here + "/calls", "a") as log:
    log.write(f"{{time.time()}} end {{os.getpid()}} {{os.path.basename(source)}}\\n")
"""


def cudart_in_reach() -> dict[str, str]:
    """What lets the dynamic loader find pip's libcudart: a CPU torch, as suites have, brings none of its own."""
    found = sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("cu*/lib/libcudart.so.*"))
    return {"LD_LIBRARY_PATH": str(found[-1].parent)} if found else {}


OPTIONS = {"--fetch-only", "--shard", "--workers"}  # that doit itself doesn't know


def _command(words: Sequence[str]) -> list[str]:
    module = "fitasks" if {word.partition("=")[0] for word in words} & OPTIONS else "doit"
    return ["-m", module, *words]


@dataclass
class Project:
    """A directory with a dodo.py, kernels.yaml and a cache of its own."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    asked: ClassVar[bytes] = (
        b""  # cudart.json of a project before: its answer costs 2 CPU seconds; its key says of what
    )

    @classmethod
    def make(cls, root: Path, kernels: str = KERNELS) -> Project:
        project = cls(root / "project")
        project.root.mkdir(parents=True)
        if cls.asked:
            project.cudart.parent.mkdir()
            project.cudart.write_bytes(cls.asked)
        (project.root / "dodo.py").write_text((ROOT / "dodo.py").read_text())
        (project.root / "kernels.yaml").write_text(kernels)
        (project.tools / "header.h").parent.mkdir()
        (project.tools / "header.h").write_text("// read by every kernel\n")
        nvcc = project.tools / "nvcc"
        nvcc.write_text(NVCC.format(python=sys.executable))
        nvcc.chmod(0o755)
        dropped = ("FLASHINFER", "CUDA", "MAKE", "MFLAGS")  # the last two: a `make test K=…` is no make of the project
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped) and name != "K"}
        project.env = kept | {
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "HOME": str(root / "home"),  # where FlashInfer's cache would be without FLASHINFER_WORKSPACE_BASE
            "FLASHINFER_WORKSPACE_BASE": str(root / "base"),
            "FLASHINFER_NVCC": str(nvcc),
            "XDG_CACHE_HOME": str(root / "xdg"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return project

    @property
    def tools(self) -> Path:
        return self.root.parent / "tools"

    @property
    def cudart(self) -> Path:
        return self.root / ".fitasks" / "cudart.json"

    @property
    def cached_ops(self) -> Path:
        (found,) = (self.root.parent / "base" / ".cache" / "flashinfer").glob("*/*/cached_ops")
        return found

    def library(self, name: str) -> Path:
        return self.cached_ops / name / f"{name}.so"

    def start(self, *words: str, given: Mapping[str, str] | None = None, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *_command(words)],
            cwd=self.root,
            env={**self.env, **(given or {}), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def doit(self, *words: str, status: int = 0, given: Mapping[str, str] | None = None, **env: str) -> str:
        """Run doit; its standard output. The exit status must be `status`. `given` are variables, as `env` are."""
        done = self._run(words, {**self.env, **(given or {}), **env})
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        self.stderr = done.stderr
        if not Project.asked and self.cudart.exists():
            Project.asked = self.cudart.read_bytes()
        return done.stdout

    def _run(self, words: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """To the end: in a fork of a Python that has imported doit, where Python itself would start the same way."""
        if warm.starts_alike(env):
            serving = {warm_client.NAME: warm.name_of(warm.TORCH, env.get("LD_LIBRARY_PATH", ""))}
            return warm.run(warm.DOIT, _command(words), self.root, {**env, **serving})
        return subprocess.run(
            [sys.executable, *_command(words)],
            cwd=self.root,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,  # real compiles, on a machine that may do other things
            check=False,
        )

    def calls(self) -> int:
        """How often the compiler was started since the last question."""
        log = self.tools / "calls"
        count = log.read_text().count(" start ") if log.exists() else 0
        log.unlink(missing_ok=True)
        return count

    def files(self) -> int:
        """How many files the compiled kernels have: versions of FlashInfer differ in that."""
        return len(list(self.cached_ops.glob("*/*.o")))

    def most_at_once(self) -> int:
        """The most compilers that ran at the same time since the last `calls()`."""
        running = most = 0
        events = [line.split() for line in (self.tools / "calls").read_text().splitlines()]
        for _, kind, *_ in sorted(events, key=lambda event: (float(event[0]), event[1])):
            running += 1 if kind == "start" else -1
            most = max(most, running)
        return most

    def statuses(self) -> dict[str, str]:
        lines = self.doit("list", "--all", "--status").splitlines()
        return {line.split()[1]: line.split()[0] for line in lines if line.split()[1].startswith("kernel:")}

    @property
    def place(self) -> Path:
        """The project, its tools and caches."""
        return self.root.parent

    def hold(self) -> Path:
        (self.tools / "hold").touch()
        return self.tools / "hold"

    def wait_for_call(self, seconds: float = 120) -> None:
        """Until a compiler has been started."""
        deadline = time.monotonic() + seconds
        while not (self.tools / "calls").exists():
            assert time.monotonic() < deadline, "no compiler was started"
            time.sleep(0.02)


@dataclass
class Planned:
    """Projects that are planned, or compiled as well, put back to that for whoever asks: planning costs 8 CPU seconds.

    A plan names the places it was made for, so that all askers have the same directory, one after the other.
    """

    directory: Path
    kept: dict[object, Project] = field(default_factory=dict)

    def project(self, kernels: str = KERNELS, prepare: Prepare = lambda _project: None) -> Project:
        """A project with this kernels.yaml; `prepare` is called once, before it is planned."""
        return self._put_back(self._made(kernels, prepare), "as-planned")

    def built(self, kernels: str = KERNELS, prepare: Prepare = lambda _project: None) -> Project:
        """The same, with everything compiled."""
        made = self._made(kernels, prepare)
        if not made.place.with_name("as-built").exists():
            self._put_back(made, "as-planned").doit()
            made.calls()
            shutil.copytree(made.place, made.place.with_name("as-built"), symlinks=True)
        return self._put_back(made, "as-built")

    def _made(self, kernels: str, prepare: Prepare) -> Project:
        key = kernels, prepare.__qualname__
        if key not in self.kept:
            made = Project.make(self.directory / str(len(self.kept)) / "made", kernels)
            prepare(made)
            made.doit("list")
            shutil.copytree(made.place, made.place.with_name("as-planned"), symlinks=True)
            self.kept[key] = made
        return self.kept[key]

    def _put_back(self, made: Project, tree: str) -> Project:
        shutil.rmtree(made.place)
        shutil.copytree(made.place.with_name(tree), made.place, symlinks=True)
        return replace(made, env=dict(made.env))
