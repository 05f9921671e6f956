"""A second machine: other paths of project, environment, HOME and caches; nothing compiled there, nothing fetched yet.

    python bench/stores.py second [--ops page,cascade,…]     real nvcc: minutes of compiling, on the first machine
    python bench/stores.py second --stand-ins              41 modules of FlashInfer, compiled by a stand-in for nvcc

The first machine compiles and puts what it has into `rclone serve s3`; the second takes it. Compilers are counted with
strace, on the first machine too. Then FlashInfer's own `build()` runs on the second, in the environment that `doit env`
prints, and what it starts is counted. Needs FlashInfer, a toolkit, rclone and strace; no GPU.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.fleet import KERNELS as MANY
from tests.doit_project import Project, cudart_in_reach

# Modules by the generators of the plan; then all of them as a server builds them, one after the other.
_SERVER = """
import importlib, json, os, sys, torch

def real(value):
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
    return found if isinstance(found, torch.dtype) else value

for name, params in json.loads(sys.argv[1]):
    module, _, function = name.partition(":")
    spec = getattr(importlib.import_module(module), function)(**{key: real(value) for key, value in params.items()})
    before = os.stat(spec.jit_library_path).st_mtime_ns
    spec.build(verbose=False)
    print(spec.name, "as it was" if os.stat(spec.jit_library_path).st_mtime_ns == before else "BUILT")
"""
_COMPILERS = {"nvcc", "cicc", "ptxas", "cc1plus", "fatbinary", "nvlink", "ld", "c++", "g++"}
_CALLED = re.compile(r'execve\("([^"]+)", \[(.*?)\].* = 0$', re.MULTILINE)
_ASKING = re.compile(r'"(--version|--help|-dumpversion|-V|-v|-print-[^"]*|--print-[^"]*|-dM)"')


@dataclass(frozen=True)
class Ran:
    """A doit: its seconds, its last line, and what it said to standard error."""

    seconds: float
    said: str
    errors: str


def second(url: str, root: Path, ops: list[str], *, stand_ins: bool) -> None:
    """Print what the second machine did, and how long it took."""
    text = MANY if stand_ins else "\n".join(['targets: ["9.0a"]', "kernels:", *(f"  {op}:" for op in ops), ""])
    one = _machine(root / "one", text, real=not stand_ins)
    begun = time.monotonic()
    counted, said = _counted(one, {"FITASKS_STORE": url, "FITASKS_STORE_PUSH": "1"})
    print(f"first machine: {time.monotonic() - begun:.1f} s, {_told(counted)}; {said}", flush=True)
    count = len(list(one.cached_ops.glob("*/fitasks-receipt.json")))

    place = root / "elsewhere" / "and-deeper" / "two"
    python = _environment(place / "venv")
    two = _machine(place, f"serving:\n  python: {python}\n{text}", real=not stand_ins)
    if stand_ins:  # a toolkit's path is part of the commands
        two.env["FLASHINFER_NVCC"] = one.env["FLASHINFER_NVCC"]
    given = {"FITASKS_STORE": url}
    planned, took, idle = _timed(two, "list"), _timed(two, given=given), _timed(two, given=given)
    print(f"second machine: plan {planned.seconds:.1f} s, then doit {took.seconds:.2f} s; {took.said}\n{took.errors}")
    each = (took.seconds - idle.seconds) / count
    print(
        f"doit once more {idle.seconds:.2f} s: {each:.3f} s for each of {count} modules, transfer included", flush=True
    )
    build = _build(two, python)
    shutil.rmtree(two.cached_ops)
    shutil.rmtree(Path(two.env["XDG_CACHE_HOME"]) / "fitasks" / "store")
    counted, said = _counted(two, given)
    print(f"doit from nothing once more: {_told(counted)}; {said}")
    print(f"FlashInfer's own build(): {build}")


def _machine(place: Path, text: str, *, real: bool) -> Project:
    made = Project.make(place, text)
    if real:
        del made.env["FLASHINFER_NVCC"]
    made.env |= cudart_in_reach() | {"FITASKS_HEARTBEAT": "0", "XDG_CONFIG_HOME": str(place / "config")}
    for name in [name for name in made.env if name.startswith("FITASKS_STORE")]:
        del made.env[name]
    return made


def _environment(place: Path) -> Path:
    """A Python elsewhere with a FlashInfer of its own; torch and the rest are those of this one."""
    venv.create(place, symlinks=True, with_pip=False)
    (site,) = place.glob("lib/python3*/site-packages")
    distribution = importlib.metadata.distribution("flashinfer-python")
    package = Path(str(distribution.locate_file("flashinfer")))
    shutil.copytree(package, site / "flashinfer", ignore=shutil.ignore_patterns("__pycache__", "cubins"))
    (info,) = package.parent.glob("flashinfer_python-*.dist-info")
    shutil.copytree(info, site / info.name)
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python"


def _timed(project: Project, *words: str, given: dict[str, str] | None = None) -> Ran:
    begun = time.monotonic()
    out = project.doit(*words, given=given)
    return Ran(time.monotonic() - begun, (out.splitlines() or [""])[-1], project.stderr)


def _counted(project: Project, given: dict[str, str]) -> tuple[Counter[str], str]:
    """Run doit; the programs that it started, and its last line."""
    log = project.place / "strace"
    command, env = [*_tracing(log), sys.executable, "-m", "doit"], project.env | given
    done = subprocess.run(command, cwd=project.root, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return _calls(log), done.stdout.splitlines()[-1]


def _tracing(log: Path) -> list[str]:
    return ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-e", "trace=execve", "-o", str(log)]


def _calls(log: Path) -> Counter[str]:
    """Programs that compile or link, by name, without those that are only asked for their version; and ninja."""
    found: Counter[str] = Counter()
    for path, words in _CALLED.findall(log.read_text(errors="replace")):
        name = Path(path).name
        if name == "ninja" or (name in _COMPILERS and not _ASKING.search(words)):
            found[name] += 1
    return found


def _told(found: Counter[str]) -> str:
    compilers = {name: count for name, count in sorted(found.items()) if name != "ninja"}
    return f"{sum(compilers.values())} compilers and linkers {compilers or ''}".strip() + f", {found['ninja']} ninja"


def _build(project: Project, python: Path) -> str:
    """What FlashInfer's own way starts, for every module that was planned."""
    receipts = [json.loads(path.read_text()) for path in project.cached_ops.glob("*/fitasks-receipt.json")]
    wanted = {one["name"]: (one["generator"], _params(project, one["name"])) for one in receipts}
    lines, log = project.doit("env"), project.place / "strace-build"
    words = " ".join(f"'{word}'" for word in [*_tracing(log), str(python), "-c"])
    script = f'{lines}\nexport FLASHINFER_CUDA_ARCH_LIST=9.0a\nexec {words} "$1" "$2"'
    command = ["sh", "-c", script, "sh", _SERVER, json.dumps(list(wanted.values()))]
    done = subprocess.run(command, env=project.env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    said = Counter(line.split(" ", 1)[1] for line in done.stdout.splitlines() if " " in line)
    return f"{dict(said)}; {_told(_calls(log))}"


def _params(project: Project, name: str) -> dict[str, object]:
    plan = json.loads((project.root / ".fitasks" / "plan.json").read_text())
    found = [one for one in _dicts(plan) if one.get("name") == name and "params" in one]
    return dict(found[0]["params"]) if found else {}  # type: ignore[call-overload]


def _dicts(value: object) -> list[dict[str, object]]:
    if isinstance(value, dict):
        return [value, *(one for inner in value.values() for one in _dicts(inner))]
    return [one for inner in value for one in _dicts(inner)] if isinstance(value, list) else []
