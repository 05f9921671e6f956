"""A module that SGLang 0.5.23 keeps by content, from kernels.yaml to SGLang's own code (one compile, 30 s of one core).

In the order of what befalls it: the last tests change sources, and kill a build.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.doit_project import Project, cudart_in_reach
from tests.serving.keyed_sglang import CLAMP, INT64, NAME, Place, ask, image, packages, source_in
from tests.serving.test_ahead_of_time import SCRIPT

pytestmark = pytest.mark.real

_KERNELS = f"""\
targets: ["9.0a"]
kernels:
  clamp:
    op: {CLAMP}
    dtype: int64
"""


class Keyed(Project):
    """A project beside a cache of SGLang's own, with sources that may be changed."""

    @property
    def cache(self) -> Path:
        return self.root.parent / "home" / ".cache" / "sglang" / "jit"

    @property
    def scope(self) -> Path:
        (found,) = self.cache.glob(f"sm90a/{NAME}/build-*")
        return found

    def header(self) -> tuple[Path, str]:
        """One of SGLang's that the module was compiled from, and its name in SGLang's list."""
        (leaf,) = self.leaves()
        entries = json.loads((self.scope / leaf / "sgl_deps.json").read_text())
        name = next(path for root, path, _ in entries if root == "kernels" and path.startswith("include/"))
        return self.root.parent / "stubs" / "sglang" / "kernels" / "jit" / name, name

    def leaves(self) -> list[str]:
        return sorted(path.name for path in self.scope.glob("deps-*"))

    def packed(self, into: Path) -> Place:
        """What SGLang says and packs in a server's environment, which `doit env` prints."""
        lines = (shlex.split(line) for line in self.doit("env").splitlines() if line.startswith("export "))
        said = dict(words[1].split("=", 1) for words in lines)
        env = {**self.env, "FLASHINFER_CUDA_ARCH_LIST": "9.0a", "CUDA_HOME": said["CUDA_HOME"]}
        answer = ask("sglang_keyed_pack.py", self.root.parent, env, INT64, into=str(into))
        return Place(self.root.parent, env, answer, answer)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path, pip_toolkit: Path) -> Keyed:
    root = tmp_path_factory.mktemp("keyed")
    made = Keyed.make(root, _KERNELS)
    assert isinstance(made, Keyed)
    del made.env["FLASHINFER_NVCC"]
    paths = [*map(str, packages(root)), made.env["PYTHONPATH"]]
    made.env |= cudart_in_reach() | {"PYTHONPATH": os.pathsep.join(paths)}
    assert "clamp-i64  would compile        new: never built" in made.doit("check", status=1)
    assert not made.cache.exists(), "planning writes nothing there"
    said = made.doit()
    assert "kernel:clamp-i64: compiling with SGLang's own JIT; new: never built" in said
    assert said.endswith("1 kernel: 1 compiled\n")
    return made


def verdicts(project: Keyed, status: int = 0, given: dict[str, str] | None = None, **env: str) -> dict[str, Any]:
    file = project.root / "check.json"
    project.doit("check", "--json", str(file), status=status, given=given, **env)
    (one,) = json.loads(file.read_text())["kernels"]
    return dict(one)


def test_a_second_doit_compiles_nothing_and_asks_nobody(project: Keyed) -> None:
    assert project.doit() == "1 kernel: 1 fresh\n"
    assert project.stderr == ""
    assert "\nU kernel:clamp-i64 " in project.doit("list", "--status", "--all")
    assert verdicts(project)["state"] == "cached"
    assert verdicts(project, SGLANG_CRASH_ON_JIT_COMPILE="1")["state"] == "cached"
    assert verdicts(project, status=1, SGLANG_JIT_FORCE_RECOMPILE="1")["state"] == "would compile"


def test_sglang_finds_what_doit_built_with_and_without_compilers(project: Keyed, tmp_path: Path) -> None:
    """Loaded as it is, and out of a bundle at another path; where the compilers are gone, from a packed copy alone,
    beside programs that say their words.
    """
    place = project.packed(tmp_path / "packed")
    module = place.module
    assert (module["found"], module["whole"], module["directory"]) == (True, True, str(project.scope))
    assert module["library"] == str((project.scope / f"{NAME}.so").resolve())
    assert {"kernels", "tvm_ffi", "pkg:nvidia", "sys"} == set(module["read"])
    entries = json.loads(Path(module["packed"]).with_name("sgl_deps.json").read_text())
    assert {one[0] for one in entries} == {"kernels", "tvm_ffi"}
    without = image(place, tmp_path / "image")
    copy = without | {"SGLANG_JIT_CACHE_DIR": str(tmp_path / "packed" / "jit")}
    project.doit("bundle", "-f", "x.tar.gz")
    cache = str(tmp_path / "moved")
    assert project.doit("unbundle", "x.tar.gz", SGLANG_JIT_CACHE_DIR=cache) == "1 kernel into SGLang's cache\n"
    assert verdicts(project, SGLANG_JIT_CACHE_DIR=cache)["state"] == "cached"
    moved = {"SGLANG_JIT_CACHE_DIR": cache}
    verdicts(project)
    project.doit("deliver")
    engines = project.root / "dist" / "engines"
    delivered = {"CUDA_HOME": f"{engines}/compilers", "PATH": f"{engines}/compilers/bin"}
    delivered |= {"SGLANG_JIT_CACHE_DIR": f"{engines}/sglang-jit", "SGLANG_CRASH_ON_JIT_COMPILE": "1"}
    assert place.servers({}, without, copy, moved, delivered) == ["found Function"] * 5
    assert gate(project.root / "check.json", place.env | delivered)[0] == 0
    status, said = gate(project.root / "check.json", place.env | delivered | {"CXX": "cxx"})
    assert (status, "SGLang finds none in " in said) == (1, True), said


def gate(file: Path, env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, file], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_changed_header_makes_it_stale_and_a_killed_build_leaves_nothing(project: Keyed) -> None:
    leaves, (header, name) = project.leaves(), project.header()
    text = header.read_text()
    header.write_text(f"{text}// changed\n")
    try:
        changed = verdicts(project, status=1)
        assert changed["state"] == "would compile"
        assert changed["reason"].startswith(f"kernels:{name} changed (")
        assert "planning" not in project.stderr
        kill_while_it_builds(project)
        assert project.leaves() == leaves
        assert verdicts(project, status=1)["state"] == "would compile"
    finally:
        header.write_text(text)
    again = verdicts(project)
    assert (again["state"], again["reason"].startswith("compiled by a server: incomplete: ")) == ("cached", True)


def test_a_changed_source_is_another_key(project: Keyed) -> None:
    source = source_in(project.root.parent / "stubs")
    source.write_text(f"{source.read_text()}// changed\n")
    changed = verdicts(project, status=1)
    assert changed["state"] == "would compile"
    assert changed["reason"].startswith("SGLang's key of sources, flags, compilers and packages changed (")


def kill_while_it_builds(project: Keyed) -> None:
    doit = project.start()
    deadline = time.monotonic() + 300
    while not list(project.scope.glob(".staging-*/*.ninja")):
        assert doit.poll() is None, doit.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    doit.send_signal(signal.SIGKILL)
    doit.communicate()
    assert not list(project.scope.glob("*.so"))
    assert not list(project.scope.glob("*.fitasks.json"))
