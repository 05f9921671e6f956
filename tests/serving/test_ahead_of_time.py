"""The gate of an image build, alone with a FlashInfer: made-up ones of both interfaces, and the installed one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = Path(__file__).parents[2] / "fitasks" / "serving" / "gate" / "ahead_of_time.py"

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
# The same, with the modules in our package beside it.
ENV_PACKAGE = """\
import pathlib
class Artifact:
    def __init__(self, path): self.path = path
def get_aot_artifacts(name):
    return (Artifact(pathlib.Path(__file__).parents[2] / "fitasks_kernels" / "sm90a" / name / (name + ".so")),)
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


def library(path: Path, *flags: str, source: str = "int one(void) { return 1; }") -> Path:
    """A real shared object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-x", "none", "-o", str(path), *flags]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def planned(tmp_path: Path, *kernels: tuple[str, ...]) -> Path:
    """What `doit check --json` writes, as far as it matters here: name, target, and architectures if they are known."""
    named = [
        {"label": "any", "name": name, "target": target, "state": "cached", "architectures": architectures}
        for name, target, *architectures in kernels
    ]
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
        library(tmp_path / "modules" / place / f"{place.rpartition('/')[2]}.so", source="const char big[500000] = {1};")
    wanted = planned(tmp_path, ("page", "8.0 9.0a"), ("rope", "9.0a"))
    assert ask(site, wanted) == (0, "FlashInfer 9.9.9 finds all 2 module(s) ahead of time, 1.5 MB\n")


def test_a_module_for_one_architecture_of_a_mixed_host_is_asked_for_there_alone(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW)
    for place in ("8.0/page/page.so", "9.0a/page/page.so", "9.0a/fa3/fa3.so"):
        library(tmp_path / "modules" / place)
    wanted = planned(tmp_path, ("page", "8.0 9.0a", "sm80", "sm90a"), ("fa3", "8.0 9.0a", "sm90a"))
    status, said = ask(site, wanted)
    assert (status, said.startswith("FlashInfer 9.9.9 finds all 2 module(s) ahead of time, ")) == (0, True), said
    status, said = ask(site, planned(tmp_path, ("fa3", "8.0 9.0a", "sm80", "sm90a")))
    assert (status, said.splitlines()[0]) == (1, "fa3: not found ahead of time for 8.0 (targets: 8.0 9.0a)")


def test_a_library_that_lacks_another_one(tmp_path: Path) -> None:
    """As where torch has another CUDA release than the kernels; the driver's own library may be missing in a build."""
    site, modules = make_flashinfer(tmp_path, ENV_NEW), tmp_path / "modules" / "9.0a"
    absent = library(tmp_path / "libabsent.so.13", "-Wl,-soname,libabsent.so.13")
    driver = library(tmp_path / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    link = ["-Wl,--no-as-needed"]
    page = library(modules / "page" / "page.so", *link, str(absent))
    library(modules / "rope" / "rope.so", *link, str(driver))
    absent.unlink()
    driver.unlink()
    assert ask(site, planned(tmp_path, ("page", "9.0a"), ("rope", "9.0a"))) == (
        1,
        (
            f"{page} can't be loaded: libabsent.so.13: cannot open shared object file: No such file or directory\n"
            "FlashInfer 9.9.9 would not load 1 of 2 module(s)\n"
        ),
    )


def test_a_library_that_is_no_longer_what_was_packaged(tmp_path: Path) -> None:
    """Cut short, altered, and one that lacks a library beside the driver's, as only its manifest can tell then."""
    site = make_flashinfer(tmp_path, ENV_PACKAGE)
    package = site / "fitasks_kernels"
    names = ("page", "rope", "norm", "whole")
    driver = library(tmp_path / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    link = ["-Wl,--no-as-needed", str(driver)]
    files = {name: library(package / "sm90a" / name / f"{name}.so", *link) for name in names}
    driver.unlink()
    kernels = [
        {
            "directory": "sm90a",
            "name": name,
            "architectures": ["sm90a"],
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
            "needed": ["libcuda.so.1", "libabsent.so.13"] if name == "norm" else ["libcuda.so.1", "libc.so.6"],
        }
        for name, file in files.items()
    ]
    write(package / "__init__.py")
    write(package / "manifest.json", json.dumps({"flashinfer": "9.9.9", "kernels": kernels}))
    size = files["page"].stat().st_size
    os.truncate(files["page"], 5000)
    content = bytearray(files["rope"].read_bytes())
    content[-1] ^= 1
    files["rope"].write_bytes(content)
    digests = hashlib.sha256(content).hexdigest()[:12], str(kernels[1]["sha256"])[:12]
    missing = "libabsent.so.13: cannot open shared object file: No such file or directory"
    assert ask(site) == (
        1,
        (
            f"{files['norm']} can't be loaded: {missing}\n"
            f"{files['page']} has 5000 bytes, {size} by the wheel's manifest\n"
            f"{files['rope']} is altered: {digests[0]}, {digests[1]} by the manifest\n"
            "FlashInfer 9.9.9 would not load 3 of 4 module(s)\n"
        ),
    )


def packaged(site: Path, files: dict[str, Path], required: dict[str, list[str]], **said: str) -> None:
    """Our package's manifest of these libraries."""
    kernels = [
        {
            "directory": "sm90a",
            "name": name,
            "architectures": ["sm90a"],
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
            "needed": ["libcuda.so.1", "libc.so.6"],
            "required": required.get(name, []),
        }
        for name, file in files.items()
    ]
    write(site / "fitasks_kernels" / "__init__.py")
    write(site / "fitasks_kernels" / "manifest.json", json.dumps({"flashinfer": "9.9.9", "kernels": kernels} | said))


def test_a_library_that_lacks_a_symbol(tmp_path: Path) -> None:
    """Bound late, as servers do, it would be loaded, and end the process with the first call."""
    site, modules = make_flashinfer(tmp_path, ENV_NEW), tmp_path / "modules" / "9.0a"
    source = "void TVMFFINoSuchThing(void); void run(void) { TVMFFINoSuchThing(); }"
    page = library(modules / "page" / "page.so", source=source)
    assert ask(site, planned(tmp_path, ("page", "9.0a"))) == (
        1,
        (
            f"{page} can't be loaded: {page}: undefined symbol: TVMFFINoSuchThing\n"
            "FlashInfer 9.9.9 would not load 1 of 1 module(s)\n"
        ),
    )


def test_a_symbol_is_missed_without_the_driver_too(tmp_path: Path) -> None:
    """The loader gives up at the driver's library; the manifest says what else is called."""
    site = make_flashinfer(tmp_path, ENV_PACKAGE)
    driver = library(tmp_path / "libcuda.so.1", "-Wl,-soname,libcuda.so.1", source="void cuInit(void) {}")
    source = "void cuInit(void); void {0}(void); void run(void) {{ cuInit(); {0}(); }}".format
    place = site / "fitasks_kernels" / "sm90a"
    names = {"page": "TVMFFINoSuchThing", "rope": "abort", "norm": "malloc"}
    files = {
        name: library(place / name / f"{name}.so", "-Wl,--no-as-needed", str(driver), source=source(symbol))
        for name, symbol in names.items()
    }
    driver.unlink()
    required = {"page": ["TVMFFINoSuchThing", "cuInit"], "rope": ["abort"], "norm": ["malloc@GLIBC_9.9"]}
    packaged(site, files, required)
    assert ask(site) == (
        1,
        (
            f"{files['norm']} can't be loaded: undefined symbol: malloc@GLIBC_9.9\n"
            f"{files['page']} can't be loaded: undefined symbol: TVMFFINoSuchThing\n"
            "FlashInfer 9.9.9 would not load 2 of 3 module(s)\n"
        ),
    )


@pytest.mark.parametrize(
    ("made_for", "here", "fits"),
    [
        ("0.1.11", "0.1.16", True),
        ("0.2.0", "0.1.16", False),
        ("1.2.3", "1.4.0", True),
        ("1.2.3", "2.2.3", False),
        ("", "0.1.16", True),  # of a wheel that an earlier fitasks made
    ],
)
def test_a_wheel_for_another_abi_of_tvm_ffi(tmp_path: Path, made_for: str, here: str, fits: bool) -> None:
    numbers = here.split(".")
    tvm_ffi = tmp_path / "libtvm_ffi.so"
    assignments = "".join(f"out[{at}] = {number};" for at, number in enumerate(numbers))
    library(tvm_ffi, source=f"void TVMFFIGetVersion(unsigned *out) {{ {assignments} }}")
    site = make_flashinfer(tmp_path, ENV_PACKAGE, INIT + f"import ctypes; ctypes.CDLL({str(tvm_ffi)!r}, 0x100)\n")
    page = library(site / "fitasks_kernels" / "sm90a" / "page" / "page.so")
    packaged(site, {"page": page}, {}, **({"tvm_ffi_abi": made_for} if made_for else {}))
    status, said = ask(site)
    assert status == int(not fits)
    why = f"{page} was compiled against tvm-ffi {made_for}, whose ABI isn't that of libtvm_ffi {here} here\n"
    assert said.startswith(why) == (not fits)


def test_one_architecture_of_a_mixed_host_is_missing(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW)
    library(tmp_path / "modules" / "9.0a" / "page" / "page.so")
    assert ask(site, planned(tmp_path, ("page", "8.0 9.0a"), ("page", "9.0a"), ("rope", "9.0a"))) == (
        1,
        (
            "page: not found ahead of time for 8.0 (targets: 8.0 9.0a)\n"
            "rope: not found ahead of time for 9.0a\n"
            "FlashInfer 9.9.9 would not load 2 of 3 module(s)\n"
        ),
    )


def test_a_directory_chosen_at_import_is_chosen_for_each_target(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_OLD)
    library(tmp_path / "modules" / "8.0" / "page" / "page.so")
    library(tmp_path / "modules" / "9.0a" / "rope" / "rope.so")
    assert ask(site, planned(tmp_path, ("page", "8.0"), ("rope", "9.0a")))[0] == 0
    assert ask(site, planned(tmp_path, ("page", "9.0a"))) == (
        1,
        "page: not found ahead of time for 9.0a\nFlashInfer 9.9.9 would not load 1 of 1 module(s)\n",
    )


def test_installed_wheel(tmp_path: Path) -> None:
    site = make_flashinfer(tmp_path, ENV_NEW)
    library(tmp_path / "modules" / "9.0a" / "page" / "page.so")
    kernels = [{"directory": "sm90a", "name": "page"}, {"directory": "sm80-sm120f", "name": "rope"}]
    write(site / "fitasks_kernels" / "__init__.py", "raise RuntimeError('not to be imported')")
    write(site / "fitasks_kernels" / "manifest.json", json.dumps({"flashinfer": "9.9.8", "kernels": kernels}))
    assert ask(site) == (
        1,
        (
            "the wheel is for FlashInfer 9.9.8, which is 9.9.9 here\n"
            "rope: not found ahead of time for 8.0 (targets: 8.0 12.0f)\n"
            "rope: not found ahead of time for 12.0f (targets: 8.0 12.0f)\n"
            "FlashInfer 9.9.9 would not load 1 of 2 module(s)\n"
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


@pytest.mark.usefixtures("flashinfer")
def test_the_installed_flashinfer_itself(tmp_path: Path) -> None:
    """Its own lookup, with a provider of one module: found for its architecture, and for no other."""
    from importlib.metadata import version

    modules = tmp_path / "modules"
    library(modules / "page" / "page.so")
    provider = PROVIDER.format(version=version("flashinfer-python"), modules=str(modules))
    write(tmp_path / "site" / "flashinfer_jit_cache" / "__init__.py", provider)
    status, said = ask(tmp_path / "site", planned(tmp_path, ("page", "9.0a 8.0"), ("absent", "9.0a")))
    assert (status, said.splitlines()[-3:]) == (
        1,
        [
            "page: not found ahead of time for 8.0 (targets: 9.0a 8.0)",
            "absent: not found ahead of time for 9.0a",
            f"FlashInfer {version('flashinfer-python')} would not load 2 of 2 module(s)",
        ],
    )


@pytest.mark.parametrize(
    ("name", "refused"), [("_ZN10flashinfer7missingEi", ""), ("TVMFFINew", "undefined symbol: TVMFFINew")]
)
def test_a_function_of_flashinfers_own_that_no_source_makes(tmp_path: Path, name: str, refused: str) -> None:
    """A server, which binds late, never asks for it."""
    source = f"int {name}(int); int run(int x) {{ return x ? {name}(x) : 0; }}"
    command = ["cc", "-x", "c", "-", "-shared", "-fPIC", "-nodefaultlibs", "-o", str(tmp_path / "x.so")]
    subprocess.run(command, input=source.encode(), check=True)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ahead_files; print(ahead_files._refused(sys.argv[2], {}))"
    )
    command = [sys.executable, "-c", script, str(ROOT / "fitasks" / "serving" / "gate"), str(tmp_path / "x.so")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert said.endswith(refused)
    assert bool(said) == bool(refused)
