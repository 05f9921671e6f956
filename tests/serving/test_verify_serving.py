"""What the GPU's process finds without a GPU: hidden compiles, foreign files, links, and whose trouble an error is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import warm

pytestmark = pytest.mark.usefixtures("tvm_ffi")
SERVING = Path(__file__).parents[2] / "fitasks" / "serving" / "verify"


def serving(script: str, cwd: Path) -> str:
    """The output of a script in a process of its own, which may import serving's modules."""
    file = cwd / "asked.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(SERVING)!r})\nimport verify\n{script}")
    done = warm.run(warm.TORCH, [str(file)], cwd, os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """As tvm-ffi would load it, exporting `run`."""
    path = tmp_path / "module" / "module.so"
    path.parent.mkdir()
    source = "int __tvm_ffi_run(void *self, void *args, int count, void *result) { return 0; }"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source.encode(), check=True)
    return path


def loaded(library: Path, *, exports: str, ninja: str = "") -> str:
    request = {"library": str(library), "ninja": ninja, "exports": exports.split()}
    return serving(f"found = verify._loaded({request!r}, 'no reference')\nprint(*found.values())", library.parent)


def test_a_module_without_reference_exports_what_its_sources_do(library: Path) -> None:
    assert loaded(library, exports="run") == "loaded no reference; loaded, 1 functions found"
    assert loaded(library, exports="run plan") == "doesn't export plan, as its sources do"


def test_a_module_that_only_loads_must_not_be_compiled_either(library: Path) -> None:
    ninja = f"rule link\n  command = true\nbuild {library}: link {library.parent}/gone.o\n"
    assert loaded(library, exports="run", ninja=ninja).startswith("a server would compile: ")


def test_what_is_mapped_through_a_link_is_known(library: Path) -> None:
    (library.parent.parent / "link").symlink_to(library.parent)
    script = "import ctypes\nctypes.CDLL('link/module.so')\n"
    script += f"print({str(library.resolve())!r} in verify._mapped())"
    assert serving(script, library.parent.parent) == "True"


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("BatchDecode failed with error an illegal memory access was encountered", True),
        ("Failed to allocate: error: out of memory", True),
        ("CUDA Error: unspecified launch failure (719) /x/utils.cuh: line 63", True),
        ("Unsupported head_dim 96", False),
        ("CUDA error: no kernel image is available for execution on the device", False),
        ("CUDA Error: too many resources requested for launch (701)", False),
        ("shape mismatch: 3 against 4", False),
    ],
)
def test_whose_trouble_an_error_is(text: str, gpus: bool, tmp_path: Path) -> None:
    quiet = "import torch\ntorch.cuda.synchronize = lambda: None\n"
    assert serving(f"{quiet}print(verify._is_the_gpu(RuntimeError({text!r})))", tmp_path) == str(gpus)


@pytest.mark.usefixtures("flashinfer")
def test_a_module_that_somebody_builds_is_busy(tmp_path: Path) -> None:
    script = """
import filelock
def held(request, checks): raise filelock.Timeout("/x/page.lock")
verify._numerically = held
found = verify.prove({"id": "page"})
print(found["outcome"], found["message"])
"""
    assert serving(script, tmp_path).splitlines()[-1] == "busy The file lock '/x/page.lock' could not be acquired."


def test_a_poisoned_context_is_the_gpus_trouble_whatever_is_said(tmp_path: Path) -> None:
    script = "import torch\ndef poisoned(): raise RuntimeError('CUDA error')\ntorch.cuda.synchronize = poisoned\n"
    assert serving(f"{script}print(verify._is_the_gpu(ValueError('what?')))", tmp_path) == "True"
