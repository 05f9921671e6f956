"""The whole path with the real FlashInfer and the real nvcc: `page`, the quickest kernel (about 15 s of two cores)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doit_project import Project, cudart_in_reach

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

# What a server does with a module, with a compiler that leaves a trace and fails.
_SERVER = """
import gc; gc.disable()
import json, os, pathlib, sys
from flashinfer.jit.page import gen_page_module
spec = gen_page_module()
before = pathlib.Path(spec.jit_library_path).stat().st_mtime_ns
spec.build(verbose=True, need_lock=True)
print("BUILT" if pathlib.Path(spec.jit_library_path).stat().st_mtime_ns != before else "NOTHING")
gc.freeze()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Project:
    made = Project.make(tmp_path_factory.mktemp("real"), 'targets: ["9.0a"]\nkernels:\n  page:\n')
    del made.env["FLASHINFER_NVCC"]
    made.env |= cudart_in_reach()
    made.doit("kernel:page")
    return made


def server(project: Project) -> str:
    """FlashInfer's own `spec.build()` in the serving interpreter, in the environment that `doit env` prints."""
    lines = project.doit("env")
    script = f"{lines}\nexport FLASHINFER_CUDA_ARCH_LIST=9.0a\nexec \"{sys.executable}\" -c '{_SERVER}'"
    done = subprocess.run(["sh", "-c", script], env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_runtime_finds_nothing_to_do(project: Project) -> None:
    out = server(project)
    assert "ninja: no work to do." in out
    assert out.endswith("NOTHING\n")


def test_the_receipt_names_what_was_built(project: Project) -> None:
    receipt = json.loads((project.library("page").parent / "fitasks-receipt.json").read_text())
    assert receipt["architectures"] == ["sm_90a"]
    assert "libcudart.so.13" in receipt["needed"]
    assert receipt["toolchain"]["nvcc"].startswith("V13.")
    lines = receipt["inputs"].split("\n")
    assert len(lines) > 100
    assert any(line[65:] == "{FLASHINFER}/data/csrc/page.cu" for line in lines)
    assert any(line[65:].startswith("{CUDA}/include/") for line in lines)
    assert not any(str(project.root.parent) in line for line in lines)
    assert receipt["seconds"] > 1
    assert receipt["peak_rss"] > 100 << 20


def test_check_agrees_and_a_second_doit_compiles_nothing(project: Project) -> None:
    assert "1 of 1 kernel found" in project.doit("check")
    assert project.doit() == "1 kernel: 1 fresh\n"


_LOADERS = [Path("/lib64/ld-linux-x86-64.so.2"), Path("/lib/ld-linux-aarch64.so.1")]
_JUDGE = "import gc; gc.disable(); import ctypes, sys, torch, tvm_ffi; gc.freeze(); ctypes.CDLL(sys.argv[1])"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """An interpreter whose dynamic loader doesn't read /etc/ld.so.cache, where a toolkit may have put its libcudart."""
    loader = next(filter(Path.exists, _LOADERS), None)
    if loader is None:
        pytest.skip("another machine's loader")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {loader} --inhibit-cache {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program


def loads(python: Path, library: Path, env: dict[str, str]) -> str:
    """What the loader of a server's process says of it, each symbol bound at once; "" if it takes it."""
    command = [str(python), "-c", _JUDGE, str(library)]
    env = env | {"LD_BIND_NOW": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def test_without_a_libcudart_a_server_would_fail(project: Project, bare: Path, tmp_path: Path) -> None:
    """As with a CPU torch on a machine without a toolkit; and what the remedy says does help."""
    if "+cpu" not in __import__("torch").__version__:
        pytest.skip("this torch brings its own libcudart")
    other = Project(tmp_path / "other", project.env)
    shutil.copytree(project.root, other.root, ignore=shutil.ignore_patterns(".fitasks"))
    kernels = other.root / "kernels.yaml"
    kernels.write_text(f"serving:\n  python: {bare}\n{kernels.read_text()}")
    out = " ".join(other.doit("check", status=1, LD_LIBRARY_PATH="", COLUMNS="1000").split())
    place = cudart_in_reach()["LD_LIBRARY_PATH"]
    assert "page would fail" in out
    assert "page.so needs libcudart.so.13, which the server's dynamic loader doesn't find (torch " in out
    assert f"install a CUDA build of torch for {bare}, or write LD_LIBRARY_PATH: {place} below `serving: env:`" in out
    library, without = project.library("page"), project.env | {"LD_LIBRARY_PATH": ""}
    assert "libcudart.so.13: cannot open shared object file" in loads(bare, library, without)
    assert loads(bare, library, without | {"LD_LIBRARY_PATH": place}) == ""


@contextmanager
def renamed(library: Path, old: bytes, new: bytes) -> Iterator[None]:
    """The library, and its receipt, as if it were compiled with headers where a name is spelt otherwise."""
    receipt = library.with_name("fitasks-receipt.json")
    content, stat, said = library.read_bytes(), library.stat(), receipt.read_text()
    changed = content.replace(old, new)
    was, now = (hashlib.sha256(one).hexdigest() for one in (content, changed))
    library.write_bytes(changed)
    receipt.write_text(said.replace(was, now))
    os.utime(library, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    try:
        yield
    finally:
        library.write_bytes(content)
        receipt.write_text(said)
        os.utime(library, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_symbol_that_the_servers_tvm_ffi_lacks(project: Project) -> None:
    library = project.library("page")
    with renamed(library, b"\0TVMFFIErrorSetRaised\0", b"\0TVMFFIErrorSetRaisex\0"):
        out = " ".join(project.doit("check", status=1, COLUMNS="1000").split())
        assert "page would fail" in out
        assert "page.so needs TVMFFIErrorSetRaisex, which no library beside torch " in out
        assert "undefined symbol: TVMFFIErrorSetRaisex" in loads(Path(sys.executable), library, project.env)
    assert "1 of 1 kernel found" in project.doit("check")
    assert loads(Path(sys.executable), library, project.env) == ""


def test_the_same_wheel_reinstalled_is_healed_for_the_server_too(project: Project, tmp_path: Path) -> None:
    """Newer header times, as pip leaves them: on a private copy of the package, put first on the path."""
    site = tmp_path / "site"
    _copy_flashinfer(site)
    env = project.env["PYTHONPATH"]
    project.env["PYTHONPATH"] = f"{env}{os.pathsep}{site}"
    try:
        # Another place with equal contents: the commands that ninja remembers have other paths.
        assert "ninja's log has the same commands with other paths" in project.doit("why")
        assert "timestamps put right, nothing compiled" in project.doit()
        assert server(project).endswith("NOTHING\n")
        for path in (site / "flashinfer" / "data").rglob("*.*h"):
            path.touch()
        assert "timestamps put right, nothing compiled" in project.doit()
        assert server(project).endswith("NOTHING\n")
    finally:
        project.env["PYTHONPATH"] = env


def _copy_flashinfer(site: Path) -> None:
    import importlib.metadata

    distribution = importlib.metadata.distribution("flashinfer-python")
    package = distribution.locate_file("flashinfer")
    site.mkdir()
    shutil.copytree(str(package), site / "flashinfer", copy_function=_link, ignore=_not_needed)
    (info,) = __import__("pathlib").Path(str(package)).parent.glob("flashinfer_python-*.dist-info")
    shutil.copytree(info, site / info.name)
    data = site / "flashinfer" / "data"
    for path in data.rglob("*.*h"):  # own inodes for what will be touched
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)


def _link(source: str, target: str) -> None:
    os.link(source, target)


def _not_needed(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name in {"__pycache__", "cubins"}]


def test_the_doctor_finds_nothing_wrong_in_the_assembled_toolkit(project: Project) -> None:
    """Compiled, linked and loaded for real, in a cache that is thrown away."""
    before = sorted(project.cached_ops.iterdir())
    project.doit("doctor", "--json", "doctor.json")
    data = json.loads((project.root / "doctor.json").read_text())
    assert data["good"]
    trial = {one["subject"]: one["value"] for one in data["findings"] if one["section"] == "trial"}
    assert list(trial) == [f"{step} for 9.0a" for step in ("import", "compile and link", "load", "run")]
    assert trial["load for 9.0a"].startswith("all symbols found")
    assert sorted(project.cached_ops.iterdir()) == before


def test_the_doctor_reports_what_the_compiler_said(project: Project) -> None:
    out = project.doit("doctor", status=1, FLASHINFER_EXTRA_CUDAFLAGS="--no-such-option")
    assert "nvcc fatal" in out
