"""Situations: the variables, toolkits, programs and libraries of whoever builds and whoever serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.predictions_changes import Situations, lose, replace_bytes, sure, under_old_time
from bench.predictions_harness import Situation, Stage, toolkit_libraries

ENVIRONMENT = Situations()
situation = ENVIRONMENT.situation

# Variables: of the builder alone, of the server alone

VARIABLES = {
    "CC": "gcc",
    "CXX": "g++",
    "FLASHINFER_NVCC_LAUNCHER": "env",
    "FLASHINFER_CXX_LAUNCHER": "env",
    "FLASHINFER_EXTRA_CUDAFLAGS": "-DEXTRA",
    "FLASHINFER_EXTRA_CFLAGS": "-DEXTRA",
    "FLASHINFER_EXTRA_LDFLAGS": "-lm",
    "FLASHINFER_NVCC_THREADS": "2",
    "FLASHINFER_JIT_VERBOSE": "1",
    "FLASHINFER_JIT_LINEINFO": "1",
    "MAX_JOBS": "1",
    "NVCC_APPEND_FLAGS": "-DAPPENDED",
}
BOTH = {"CC", "FLASHINFER_NVCC_LAUNCHER", "FLASHINFER_EXTRA_CUDAFLAGS"}  # a compile each


def of_the_server(name: str, value: str) -> Situation:
    return lambda stage: stage.env.update({name: value})


def of_the_builder(name: str, value: str) -> Situation:
    """doit, check and env in a shell that has it, the server in a clean one with the lines of `doit env`."""

    def change(stage: Stage) -> None:
        stage.shell[name] = value
        stage.doit()

    return change


def of_the_build_alone(name: str, value: str) -> Situation:
    """doit in a shell that has it, check, env and the server in clean ones."""

    def change(stage: Stage) -> None:
        stage.doit(**{name: value})

    return change


for _name, _value in VARIABLES.items():
    _slug = _name.lower().replace("_", "-")
    ENVIRONMENT[f"server-{_slug}"] = (f"{_name}={_value} in the server alone", of_the_server(_name, _value))
    if _name in BOTH:
        _title = f"built with {_name}={_value}, checked in that shell; the server has the lines of `doit env`"
        ENVIRONMENT[f"shell-{_slug}"] = (_title, of_the_builder(_name, _value))
        _title = f"built with {_name}={_value}, checked and served in a clean shell"
        ENVIRONMENT[f"build-{_slug}"] = (_title, of_the_build_alone(_name, _value))


# The toolkit


@situation("CUDA_HOME names the same toolkit otherwise")
def cuda_home_renamed(stage: Stage) -> None:
    other = stage.root / "out" / "cuda"
    other.symlink_to(stage.toolkit)
    stage.env["CUDA_HOME"] = str(other)


@situation("a server without the lines of `doit env` (no CUDA_HOME)")
def without_lines(stage: Stage) -> None:
    stage.lines = False
    stage.patience = None


@situation("no CUDA_HOME, and no nvcc anywhere, without the lines of `doit env`")
def without_lines_or_nvcc(stage: Stage) -> None:
    stage.lines = False
    stage.patience = None
    stage.env["PATH"] = f"{path_without(stage, 'nvcc')}"
    stage.hide(Path("/usr/local/cuda"))


def path_without(stage: Stage, *names: str) -> str:
    """A directory of links to all that PATH has, but for these."""
    directory = stage.root / "out" / "path"
    directory.mkdir()
    for place in stage.env["PATH"].split(os.pathsep):
        for tool in Path(place).glob("*"):
            if tool.name not in names and not (directory / tool.name).is_symlink() and "python" not in tool.name:
                (directory / tool.name).symlink_to(tool)
    return str(directory)


def other_toolkit(stage: Stage) -> Path:
    """A toolkit of links that the server's CUDA_HOME names; the kernel has to be compiled again."""
    home = stage.root / "out" / "toolkit"
    shutil.copytree(stage.toolkit, home, symlinks=True)
    (home / ".fitasks-toolkit.json").unlink()
    stage.env["CUDA_HOME"] = str(home)
    stage.patience = None
    return home


@situation("CUDA_HOME's nvcc says 12.4 and refuses --compress-mode")
def old_nvcc(stage: Stage) -> None:
    nvcc = other_toolkit(stage) / "bin/nvcc"
    real = nvcc.resolve()
    nvcc.unlink()
    nvcc.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '*--version*) echo "nvcc: NVIDIA (R) Cuda compiler driver"\n'
        'echo "Cuda compilation tools, release 12.4, V12.4.131"\n'
        'echo "Build cuda_12.4.r12.4/compiler.34097967_0";;\n'
        "*--compress-mode*) echo \"nvcc fatal   : Unknown option '--compress-mode=size'\" >&2; exit 1;;\n"
        f'*) exec {real} "$@";;\nesac\n'
    )
    nvcc.chmod(0o755)


@situation("CUDA_HOME lacks lib64 (nothing to link against)")
def toolkit_without_lib64(stage: Stage) -> None:
    home = other_toolkit(stage)
    shutil.rmtree(home / "lib64")
    (home / "lib").unlink(missing_ok=True)


@situation("CUDA_HOME lacks the headers")
def toolkit_without_headers(stage: Stage) -> None:
    (other_toolkit(stage) / "include").unlink()


@situation("CUDA_HOME lacks nvvm")
def toolkit_without_nvvm(stage: Stage) -> None:
    (other_toolkit(stage) / "nvvm").unlink()


@situation("the toolkit is gone")
def toolkit_gone(stage: Stage) -> None:
    shutil.rmtree(stage.toolkit)
    stage.patience = None


# PATH


@situation("the virtual environment isn't activated: Debian's ninja (1.11)")
def not_activated(stage: Stage) -> None:
    stage.env["PATH"] = os.environ["PATH"].replace(f"{Path(sys.executable).parent}{os.pathsep}", "")


@situation("no ninja on PATH")
def no_ninja(stage: Stage) -> None:
    stage.env["PATH"] = path_without(stage, "ninja")
    (stage.python.parent / "ninja").unlink()


@situation("no c++ on PATH, kernel compiled")
def no_compiler(stage: Stage) -> None:
    stage.env["PATH"] = path_without(stage, "c++", "g++", "gcc", "cc")


@situation("no c++ on PATH, an object file lost")
def no_compiler_and_work(stage: Stage) -> None:
    no_compiler(stage)
    lose(stage, "*_binding.cuda.o")
    stage.patience = None


@situation("CXX names what isn't there")
def cxx_missing(stage: Stage) -> None:
    stage.env["CXX"] = "/opt/nothing/c++"
    stage.patience = None


@situation('CC="ccache gcc"')
def cc_of_two_words(stage: Stage) -> None:
    stage.env["CC"] = "ccache gcc"
    stage.patience = None


# Libraries


@situation("no libcudart within the loader's reach")
def no_libcudart(stage: Stage) -> None:
    stage.serving.clear()
    for place in sorted(Path("/usr/local").glob("cuda*/lib")):
        stage.hide(place.resolve())


@situation("a libcudart that lacks a symbol")
def libcudart_lacks_a_symbol(stage: Stage) -> None:
    from bench.audit import stand_in
    from fitasks.cuda.cudart import describe

    real = describe(toolkit_libraries() / "libcudart.so.13")
    directory = stage.root / "out" / "cudart"
    directory.mkdir()
    needed = sorted(name for name in undefined(stage.library) if name.startswith("cuda"))
    stand_in(real, needed[0], directory)
    stage.serving["LD_LIBRARY_PATH"] = str(directory)


@situation("libcudart is a text file")
def libcudart_is_text(stage: Stage) -> None:
    directory = stage.root / "out" / "cudart"
    directory.mkdir()
    (directory / "libcudart.so.13").write_text("no library\n")
    stage.serving["LD_LIBRARY_PATH"] = str(directory)


def undefined(library: Path) -> set[str]:
    done = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


@situation("built with a tvm_ffi whose headers know a function that the server's lacks")
def built_with_newer_tvm_ffi(stage: Stage) -> None:
    """The header's change stays: what differs is libtvm_ffi alone, as where only headers were taken along."""
    header = stage.site / "tvm_ffi/include/tvm/ffi/c_api.h"
    text = header.read_text()
    name = "TVMFFIErrorSetRaised"
    sure(f"{name}(" in text, f"no {name} in this tvm_ffi")
    header.write_text(f"#define {name} {name}OfTomorrow\n{text}")
    stage.doit()


def rename_symbol(library: Path, name: str) -> None:
    replace_bytes(library, f"\0{name}\0".encode(), f"\0{name[:-1]}_\0".encode())


@situation("the kernel needs a symbol that libtvm_ffi lacks")
def kernel_needs_a_newer_tvm_ffi(stage: Stage) -> None:
    needed = sorted(name for name in undefined(stage.library) if name.startswith("TVMFFI"))
    under_old_time(stage.library, lambda path: rename_symbol(path, needed[0]))
