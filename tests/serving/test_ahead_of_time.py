"""The gate of an image build, alone with a FlashInfer: made-up ones of both interfaces, and the installed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "fitasks" / "serving" / "ahead_of_time.py"

TORCH = """\
class cuda:
    def get_device_properties(device):
        raise AssertionError("Torch not compiled with CUDA enabled")
"""
INIT = """\
import os, torch
__version__ = "9.9.9"
assert os.environ["FLASHINFER_DISABLE_JIT"] == "1"
try:
    torch.cuda.get_device_properties(0)
except RuntimeError:
    pass
"""
# From 0.7 on: asked at every call. `modules` holds directories named by architecture.
ENV_NEW = """\
import os, pathlib
class Artifact:
    def __init__(self, path): self.path = path
def get_aot_artifacts(name):
    targets = os.environ["FLASHINFER_CUDA_ARCH_LIST"].split()
    paths = [pathlib.Path({modules!r}, target, name, name + ".so") for target in targets]
    return tuple(Artifact(path) for path in paths if path.exists())
"""
# Up to 0.6: one directory, chosen at import. `modules` holds directories named by architecture sets.
ENV_OLD = """\
import os, pathlib
FLASHINFER_AOT_DIR = pathlib.Path({modules!r}, os.environ["FLASHINFER_CUDA_ARCH_LIST"].replace(" ", "-"))
"""
PROVIDER = """\
import pathlib
__version__ = {version!r}
class Provider:
    provider_id, distribution, version = "test", "test", __version__
    jit_cache_dir = {modules!r}
    cuda_architectures, modules = ["sm90a"], ["page", "absent"]
def get_jit_cache_dir():
    return Provider.jit_cache_dir
def get_jit_cache_providers():
    return [Provider]
"""


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def planned(tmp_path: Path, *kernels: tuple[str, str]) -> Path:
    """What `doit check --json` writes, as far as it matters here."""
    named = [{"label": "any", "name": name, "target": target, "state": "cached"} for name, target in kernels]
    return write(tmp_path / "planned.json", json.dumps({"version": 1, "good": True, "kernels": named}))


def make_flashinfer(tmp_path: Path, env: str, init: str = INIT) -> Path:
    """A torch without CUDA and a FlashInfer whose modules lie in tmp_path/modules."""
    site = tmp_path / "site"
    write(site / "torch.py", TORCH)
    write(site / "flashinfer" / "__init__.py", init)
    write(site / "flashinfer" / "jit" / "__init__.py")
    write(site / "flashinfer" / "jit" / "env.py", env.format(modules=str(tmp_path / "modules")))
    return site


def ask(site: Path, *files: Path) -> tuple[int, str]:
    """Exit status, and all that was printed; run without the rest of fitasks in reach."""
    env = os.environ | {"PYTHONPATH": str(site), "FLASHINFER_WORKSPACE_BASE": str(site / "base")}
    command = [sys.executable, str(SCRIPT), *map(str, files)]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_all_found(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW)
    for place in ("8.0/page", "9.0a/page", "9.0a/rope"):
        write(tmp_path / "modules" / place / f"{place.rpartition('/')[2]}.so", "x" * 500_000)
    wanted = planned(tmp_path, ("page", "8.0 9.0a"), ("rope", "9.0a"))
    assert ask(site, wanted) == (0, "FlashInfer 9.9.9 finds all 3 module(s) ahead of time, 1.5 MB\n")


def test_one_architecture_of_a_mixed_host_is_missing(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW)
    write(tmp_path / "modules" / "9.0a" / "page" / "page.so")
    assert ask(site, planned(tmp_path, ("page", "8.0 9.0a"), ("page", "9.0a"), ("rope", "9.0a"))) == (
        1,
        (
            "page: not found ahead of time for 8.0 (targets: 8.0 9.0a)\n"
            "rope: not found ahead of time for 9.0a\n"
            "FlashInfer 9.9.9 would compile 2 of 4 module(s)\n"
        ),
    )


def test_a_directory_chosen_at_import_is_chosen_for_each_target(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_OLD)
    write(tmp_path / "modules" / "8.0" / "page" / "page.so")
    write(tmp_path / "modules" / "9.0a" / "rope" / "rope.so")
    assert ask(site, planned(tmp_path, ("page", "8.0"), ("rope", "9.0a")))[0] == 0
    assert ask(site, planned(tmp_path, ("page", "9.0a"))) == (
        1,
        "page: not found ahead of time for 9.0a\nFlashInfer 9.9.9 would compile 1 of 1 module(s)\n",
    )


def test_installed_wheel(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW)
    write(tmp_path / "modules" / "9.0a" / "page" / "page.so")
    kernels = [{"directory": "sm90a", "name": "page"}, {"directory": "sm80-sm120f", "name": "rope"}]
    write(site / "fitasks_kernels" / "__init__.py", "raise RuntimeError('not to be imported')")
    write(site / "fitasks_kernels" / "manifest.json", json.dumps({"flashinfer": "9.9.8", "kernels": kernels}))
    assert ask(site) == (
        1,
        (
            "rope: not found ahead of time for 8.0 (targets: 8.0 12.0f)\n"
            "rope: not found ahead of time for 12.0f (targets: 8.0 12.0f)\n"
            "the wheel is for FlashInfer 9.9.8, which is 9.9.9 here\n"
            "FlashInfer 9.9.9 would compile 2 of 3 module(s)\n"
        ),
    )


def test_no_wheel(tmp_path: Path) -> None:
    text = f"{sys.executable} has no fitasks_kernels; install the wheel that `doit wheel` makes\n"
    assert ask(make_flashinfer(tmp_path, ENV_NEW)) == (2, text)


@pytest.mark.parametrize(
    ("init", "why"),
    [
        ("raise RuntimeError('version does not\\nmatch')", "RuntimeError: version does not match"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_flashinfer_cannot_be_imported(tmp_path: Path, init: str, why: str) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW, init)
    text = f"import flashinfer fails in {sys.executable}: {why}\n"
    assert ask(site, planned(tmp_path, ("page", "9.0a"))) == (2, text)


def test_flashinfer_dies(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW, "import os; os._exit(0)")
    text = f"{sys.executable} dies while importing flashinfer\n"
    assert ask(site, planned(tmp_path, ("page", "9.0a"))) == (2, text)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kernels": [{"name": "page"}]}', '{"kernels": []}'])
def test_unusable_file(tmp_path: Path, content: str) -> None:
    status, said = ask(make_flashinfer(tmp_path, ENV_NEW), file := write(tmp_path / "some.json", content))
    assert (status, said.count("\n"), said.startswith(str(file))) == (2, 1, True), said


def test_the_installed_flashinfer_itself(tmp_path: Path) -> None:
    """Its own lookup, with a provider of one module: found for its architecture, and for no other."""
    from importlib.metadata import version

    modules = tmp_path / "modules"
    write(modules / "page" / "page.so", "x")
    provider = PROVIDER.format(version=version("flashinfer-python"), modules=str(modules))
    write(tmp_path / "site" / "flashinfer_jit_cache" / "__init__.py", provider)
    status, said = ask(tmp_path / "site", planned(tmp_path, ("page", "9.0a 8.0"), ("absent", "9.0a")))
    assert (status, said.splitlines()[-3:]) == (
        1,
        [
            "page: not found ahead of time for 8.0 (targets: 9.0a 8.0)",
            "absent: not found ahead of time for 9.0a",
            f"FlashInfer {version('flashinfer-python')} would compile 2 of 3 module(s)",
        ],
    )
