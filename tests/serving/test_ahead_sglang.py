"""The gate of an image build on modules of SGLang's own JIT, which lie in the cache that its environment leads to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fitasks.server.check import check
from fitasks.ui.check_table import write_verdicts
from tests.server.test_sglang import session
from tests.serving.test_ahead_of_time import ENV_NEW, SCRIPT, library, make_flashinfer, write
from tests.workshop import Workshop

NAME = "sgl_kernel_jit_rope_0123456789abcdef"
DIRECTORY = f"{NAME}__arch_9.0a__tvmffi_0.1.11"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A torch, a FlashInfer with a module, a tvm-ffi with its library; nothing of SGLang's."""
    made = make_flashinfer(tmp_path, ENV_NEW)
    ffi = library(tmp_path / "libtvm_ffi.so", "-Wl,-soname,libtvm_ffi.so", source="void TVMFFICall(void) {}")
    write(made / "tvm_ffi.py", f"import ctypes, torch\n__version__ = '0.1.11'\nctypes.CDLL({str(ffi)!r}, 0x100)\n")
    library(tmp_path / "modules" / "9.0a" / "page" / "page.so")
    return made


def built(tmp_path: Path, *flags: str, source: str = "void TVMFFICall(void); void run(void) { TVMFFICall(); }") -> Path:
    """As a module is: it calls libtvm_ffi, by its soname."""
    links = ["-Wl,--no-as-needed", str(tmp_path / "libtvm_ffi.so"), *flags]
    return library(tmp_path / "cache" / DIRECTORY / f"{NAME}.so", *links, source=source)


def listed(tmp_path: Path, *modules: Path, **other: Any) -> Path:
    """What `doit check --json` says of page and of these modules, on another machine."""
    kernels: list[dict[str, Any]] = [{"name": "page", "target": "9.0a", "kind": "flashinfer", "sha256": ""}]
    for path in modules:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        there = f"/builder/{path.parent.name}/{path.name}"
        kernels.append({"name": path.stem, "target": "9.0a", "kind": "sglang", "library": there, "sha256": digest})
        kernels[-1] |= other
    return write(tmp_path / "kernels.json", json.dumps({"version": 1, "good": True, "kernels": kernels}))


def ask(site: Path, file: Path, **env: str) -> tuple[int, str]:
    variables = {"PYTHONPATH": str(site), "TVM_FFI_CACHE_DIR": str(site.parent / "cache"), "HOME": str(site.parent)}
    command = [sys.executable, str(SCRIPT), str(file)]
    done = subprocess.run(
        command, cwd="/", env=os.environ | variables | env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def refused(site: Path, file: Path, **env: str) -> str:
    """The sentence about the module, where page alone is right."""
    status, said = ask(site, file, **env)
    assert (status, said.count("\n")) == (1, 2), said
    assert said.endswith("A server with FlashInfer 9.9.9 and SGLang would not load 1 of 2 module(s)\n")
    return said.partition("\n")[0]


def test_both_kinds_are_found_and_counted(site: Path, tmp_path: Path) -> None:
    status, said = ask(site, listed(tmp_path, built(tmp_path)))
    assert (status, re.sub(r"[\d.]+ MB", "", said)) == (
        0,
        "A server with FlashInfer 9.9.9 and SGLang finds all 2 module(s) ahead of time, \n",
    )


def test_where_no_module_is_flashinfers_it_is_not_asked(site: Path, tmp_path: Path) -> None:
    file = listed(tmp_path, built(tmp_path))
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"kernels": said["kernels"][1:]}))
    write(site / "flashinfer" / "__init__.py", "raise SystemExit(3)")
    status, told = ask(site, file)
    assert (status, told.startswith("SGLang finds all 1 module(s) ahead of time, ")) == (0, True), told


def test_without_the_variable_it_is_the_home_of_the_user(site: Path, tmp_path: Path) -> None:
    file = listed(tmp_path, built(tmp_path))
    place = tmp_path / ".cache" / "tvm-ffi"
    code = "import os, runpy, sys; del os.environ['TVM_FFI_CACHE_DIR']; sys.argv = sys.argv[1:]; "
    code += f"sys.path.insert(0, {str(SCRIPT.parent)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
    env = os.environ | {"PYTHONPATH": str(site), "HOME": str(tmp_path), "TVM_FFI_CACHE_DIR": ""}

    def said() -> str:
        command = [sys.executable, "-c", code, str(SCRIPT), str(file)]
        return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False).stdout

    assert f"{NAME}: {place / DIRECTORY / NAME}.so is missing (TVM_FFI_CACHE_DIR is not set)" in said()
    place.parent.mkdir()
    (tmp_path / "cache").rename(place)
    assert "finds all 2 module(s)" in said()


def test_missing(site: Path, tmp_path: Path) -> None:
    file = listed(tmp_path, built(tmp_path))
    empty = tmp_path / "empty"
    wanted = f"{NAME}: {empty / DIRECTORY / NAME}.so is missing (TVM_FFI_CACHE_DIR={empty})"
    assert refused(site, file, TVM_FFI_CACHE_DIR=str(empty)) == wanted


def test_altered(site: Path, tmp_path: Path) -> None:
    path = built(tmp_path)
    file, before = listed(tmp_path, path), hashlib.sha256(path.read_bytes()).hexdigest()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    after = hashlib.sha256(content).hexdigest()
    assert refused(site, file) == f"{path} is altered: {after[:12]}, {before[:12]} as it was built"


def test_another_tvm_ffi(site: Path, tmp_path: Path) -> None:
    """SGLang would look for a directory of another name: what lies there means nothing."""
    write(site / "tvm_ffi.py", "__version__ = '0.1.15.post2'\n")
    wanted = f"{NAME}: was compiled with tvm-ffi 0.1.11, SGLang looks for one of 0.1.15.post2, which is here"
    assert refused(site, listed(tmp_path, built(tmp_path))) == wanted


def test_no_tvm_ffi(site: Path, tmp_path: Path) -> None:
    write(site / "tvm_ffi.py", "raise ImportError('no module')")
    text = f"import tvm_ffi fails in {sys.executable}: ImportError: no module\n"
    assert ask(site, listed(tmp_path, built(tmp_path))) == (2, text)


def test_what_was_not_finished_there(site: Path, tmp_path: Path) -> None:
    wanted = f"{NAME}: was not finished where the list was made; run doit, then doit check --json there"
    assert refused(site, listed(tmp_path, built(tmp_path), library="", sha256="")) == wanted


def test_what_the_loader_refuses(site: Path, tmp_path: Path) -> None:
    path = built(tmp_path, source="void TVMFFINoSuchThing(void); void run(void) { TVMFFINoSuchThing(); }")
    wanted = f"{path} can't be loaded: {path}: undefined symbol: TVMFFINoSuchThing"
    assert refused(site, listed(tmp_path, path)) == wanted


def test_the_drivers_library_may_be_missing(site: Path, tmp_path: Path) -> None:
    driver = library(tmp_path / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    file = listed(tmp_path, built(tmp_path, str(driver)))
    driver.unlink()
    assert ask(site, file)[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_one_that_the_server_may_not_read(site: Path, tmp_path: Path) -> None:
    path = built(tmp_path)
    file = listed(tmp_path, path)
    path.chmod(0)
    assert refused(site, file) == f"{path} can't be read: Permission denied"


@pytest.mark.parametrize("other", [{"kind": "triton"}, {"library": "/x/other.so"}, {"name": "a\x1b[2J"}])
def test_a_list_that_says_something_else(site: Path, tmp_path: Path, other: dict[str, str]) -> None:
    status, said = ask(site, file := listed(tmp_path, built(tmp_path), **other))
    assert (status, said.count("\n"), said.startswith(f"{file}: neither of ")) == (2, 1, True), said


def test_what_check_writes_is_what_the_gate_reads(site: Path, shop: Workshop, tmp_path: Path) -> None:
    rope = shop.sglangs()
    assert shop.build(rope).outcome == "compiled"
    write_verdicts(tmp_path / "check.json", check(session(shop, rope)), [])
    cache = str(rope.build_dir.parent)
    status, said = ask(site, tmp_path / "check.json", TVM_FFI_CACHE_DIR=cache)
    assert (status, said.startswith("SGLang finds all 1 module(s)")) == (0, True), said
    rope.library.write_bytes(rope.library.read_bytes() + b"\0")
    assert "is altered: " in ask(site, tmp_path / "check.json", TVM_FFI_CACHE_DIR=cache)[1]
    write_verdicts(tmp_path / "check.json", check(session(shop, rope)), [])
    assert "was not finished" in ask(site, tmp_path / "check.json", TVM_FFI_CACHE_DIR=cache)[1]
