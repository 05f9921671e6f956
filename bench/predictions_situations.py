"""The situations: what befell a compiled kernel or its server, each as a small change to one project.

`@situation("title")` adds one; `then_doit=True` adds a second one, in which doit has run between the change and the
question. Where a builder's shell isn't the server's, `stage.shell` has what only the builder's has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.predictions_harness import Situation, Stage, Untried, first_line, toolkit_libraries

SITUATIONS: dict[str, tuple[str, Situation]] = {}
NOBODY = 65534


def situation(title: str, *, then_doit: bool = False) -> Callable[[Situation], Situation]:
    """Add a function to SITUATIONS, named with dashes."""

    def add(change: Situation) -> Situation:
        name = change.__name__.replace("_", "-")
        SITUATIONS[name] = (title, change)
        if then_doit:
            SITUATIONS[f"{name}-doit"] = (f"{title}; then `doit`", _then_doit(change))
        return change

    return add


def _then_doit(change: Situation) -> Situation:
    def both(stage: Stage) -> None:
        change(stage)
        stage.doit()

    return both


@situation("as compiled")
def baseline(stage: Stage) -> None:
    del stage


# Traps: timestamps, logs and files of the cache


@situation("one header touched", then_doit=True)
def header_touched(stage: Stage) -> None:
    stage.header.touch()


@situation("the same wheel reinstalled (new header times)", then_doit=True)
def reinstalled(stage: Stage) -> None:
    for path in (stage.flashinfer / "data").rglob("*.*h"):
        path.touch()


@situation("`cp -r` of the cache", then_doit=True)
def copied(stage: Stage) -> None:
    cache = stage.home / ".cache"
    shutil.copytree(cache, stage.home / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(cache)
    (stage.home / "copy").rename(cache)


def lose(stage: Stage, pattern: str) -> None:
    for path in stage.module.glob(pattern):
        path.unlink()


@situation("`.ninja_log` lost", then_doit=True)
def no_ninja_log(stage: Stage) -> None:
    lose(stage, ".ninja_log")


@situation("`.ninja_deps` lost", then_doit=True)
def no_ninja_deps(stage: Stage) -> None:
    lose(stage, ".ninja_deps")


@situation("an object file lost", then_doit=True)
def no_object(stage: Stage) -> None:
    lose(stage, "*_binding.cuda.o")


@situation("another ninja on PATH (1.11)", then_doit=True)
def other_ninja(stage: Stage) -> None:
    """Debian's instead of PyPI's, or the other way round: whichever writes another log."""
    subprocess.run(["/usr/bin/ninja", "-C", stage.module, "-t", "deps"], capture_output=True, check=False)
    stage.env["PATH"] = f"/usr/bin{os.pathsep}{stage.env['PATH']}"


@situation("`.so` truncated", then_doit=True)
def truncated(stage: Stage) -> None:
    stage.library.write_bytes(stage.library.read_bytes()[: stage.library.stat().st_size // 2])


def under_old_time(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file, and set its time back."""
    stat = path.stat()
    change(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def sure(holds: object, otherwise: str) -> None:
    """Raise Untried where a situation can't be brought about."""
    if not holds:
        raise Untried(otherwise)


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n// edited\n")


@situation("a header edited under its old time", then_doit=True)
def header_edited_under_old_time(stage: Stage) -> None:
    under_old_time(stage.header, edit)


# Files of the cache, further


@situation("the library lost", then_doit=True)
def no_library(stage: Stage) -> None:
    stage.library.unlink()


@situation("the library replaced by text")
def library_is_text(stage: Stage) -> None:
    under_old_time(stage.library, lambda path: path.write_text("not a library\n"))


@situation("the library emptied")
def library_is_empty(stage: Stage) -> None:
    under_old_time(stage.library, lambda path: path.write_bytes(b""))


@situation("the library cut by its last 4 kB, under its old time")
def library_without_end(stage: Stage) -> None:
    under_old_time(stage.library, lambda path: path.write_bytes(path.read_bytes()[:-4096]))


@situation("the library of another GPU in its place (sm_80's)")
def library_of_another_gpu(stage: Stage) -> None:
    other = stage.workspace.parent / "80" / "cached_ops" / stage.kernel / stage.library.name
    under_old_time(stage.library, lambda path: path.write_bytes(other.read_bytes()))


@situation("the library needs a library that isn't there")
def needs_another_library(stage: Stage) -> None:
    name = toolkit_libraries().joinpath("libcudart.so.13").name.encode()
    under_old_time(stage.library, lambda path: replace_bytes(path, name, name[:-2] + b"99"))


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    sure(old in data, f"{old!r} isn't in {path}")
    path.write_bytes(data.replace(old, new))


@situation("`build.ninja` lost")
def no_build_ninja(stage: Stage) -> None:
    lose(stage, "build.ninja")


@situation("the receipt lost")
def no_receipt(stage: Stage) -> None:
    lose(stage, "fitasks-receipt.json")


@situation("a server holds the module's lock for a while")
def lock_held(stage: Stage) -> None:
    lock = stage.module.parent / "tmp" / f"{stage.kernel}.lock"
    lock.parent.mkdir(exist_ok=True)
    hold = "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); time.sleep(20)"
    stage.helpers.append(subprocess.Popen([sys.executable, "-c", hold, str(lock)]))


# Sources, packages, versions


@situation("a source file edited", then_doit=True)
def source_edited(stage: Stage) -> None:
    edit(stage.flashinfer / "data/csrc/page.cu")


@situation("a source file edited under its old time")
def source_edited_under_old_time(stage: Stage) -> None:
    under_old_time(stage.flashinfer / "data/csrc/page.cu", edit)


@situation("a source file that no compiler takes; then `doit`, which fails")
def failed_compile(stage: Stage) -> None:
    source = stage.flashinfer / "data/csrc/page.cu"
    source.write_text('#error "not today"\n' + source.read_text())
    stage.doit()
    stage.patience = None


@situation("a header of tvm_ffi touched", then_doit=True)
def tvm_ffi_header_touched(stage: Stage) -> None:
    (stage.site / "tvm_ffi/include/tvm/ffi/c_api.h").touch()


@situation("a header of tvm_ffi edited under its old time")
def tvm_ffi_header_edited(stage: Stage) -> None:
    under_old_time(stage.site / "tvm_ffi/include/tvm/ffi/c_api.h", edit)


@situation("FlashInfer's Python patched: no --compress-mode", then_doit=True)
def flashinfer_patched(stage: Stage) -> None:
    core = stage.flashinfer / "jit/core.py"
    core.write_text(core.read_text().replace('"--compress-mode=size",', ""))


@situation("FlashInfer's Python patched under its old time and size", then_doit=True)
def flashinfer_patched_alike(stage: Stage) -> None:
    """As a file system without times, or a build with SOURCE_DATE_EPOCH; Python's own cache goes, as with pip's."""
    core = stage.flashinfer / "jit/core.py"
    under_old_time(core, lambda path: path.write_text(path.read_text().replace("mode=size", "mode=none")))
    shutil.rmtree(core.parent / "__pycache__")


@situation("FlashInfer's Python patched: other host flags")
def flashinfer_cpp_flags_patched(stage: Stage) -> None:
    file = stage.flashinfer / "jit/cpp_ext.py"
    text = file.read_text()
    sure('"-fPIC"' in text, "this FlashInfer has its flags elsewhere")
    file.write_text(text.replace('"-fPIC"', '"-fPIC", "-DPATCHED"'))


@situation("another FlashInfer first on PYTHONPATH")
def flashinfer_on_pythonpath(stage: Stage) -> None:
    """A checkout: no metadata, no build meta, so that it is version 0.0.0+unknown."""
    checkout = stage.root / "checkout"
    shutil.copytree(stage.flashinfer, checkout / "flashinfer", ignore=shutil.ignore_patterns("data"))
    (checkout / "flashinfer/data").symlink_to(stage.flashinfer / "data")
    (checkout / "flashinfer/_build_meta.py").unlink(missing_ok=True)
    shutil.rmtree(checkout / "flashinfer/__pycache__", ignore_errors=True)
    stage.env["PYTHONPATH"] = f"{checkout}{os.pathsep}{stage.env['PYTHONPATH']}"


@situation("FlashInfer of another version")
def flashinfer_upgraded(stage: Stage) -> None:
    """Its metadata and what it says of itself; sources as they were."""
    (info,) = stage.site.glob("flashinfer_python-*.dist-info")
    meta = stage.flashinfer / "_build_meta.py"
    version = info.name.split("-")[1].removesuffix(".dist-info")
    meta.write_text(meta.read_text().replace(version, "0.7.99"))
    other = stage.site / "flashinfer_python-0.7.99.dist-info"
    shutil.copytree(info, other)
    info.unlink()
    (other / "METADATA").write_text((other / "METADATA").read_text().replace(version, "0.7.99"))


@situation("FlashInfer can't be imported (a syntax error)")
def flashinfer_broken(stage: Stage) -> None:
    core = stage.flashinfer / "jit/core.py"
    core.write_text(core.read_text() + "\ndef (\n")


@situation("FlashInfer's planning fails, then is mended")
def plan_failed_and_mended(stage: Stage) -> None:
    page = stage.flashinfer / "jit/page.py"
    text = page.read_text()
    page.write_text(text.replace("    return gen_jit_spec(", "    raise RuntimeError('no')\n    return gen_jit_spec("))
    stage.doit("list")
    page.write_text(text)


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
    SITUATIONS[f"server-{_slug}"] = (f"{_name}={_value} in the server alone", of_the_server(_name, _value))
    if _name in BOTH:
        _title = f"built with {_name}={_value}, checked in that shell; the server has the lines of `doit env`"
        SITUATIONS[f"shell-{_slug}"] = (_title, of_the_builder(_name, _value))
        _title = f"built with {_name}={_value}, checked and served in a clean shell"
        SITUATIONS[f"build-{_slug}"] = (_title, of_the_build_alone(_name, _value))


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


# Places, users, rights


@situation("the cache on a file system mounted noexec")
def noexec(stage: Stage) -> None:
    stage.remount(stage.home, "noexec")


@situation("the cache mounted read-only")
def read_only(stage: Stage) -> None:
    stage.remount(stage.home, "ro")


@situation("the module's directory mounted read-only")
def read_only_module(stage: Stage) -> None:
    stage.remount(stage.module, "ro")


@situation("the module's directory mounted noexec")
def noexec_module(stage: Stage) -> None:
    stage.remount(stage.module, "noexec")


@situation("site-packages mounted read-only")
def read_only_site(stage: Stage) -> None:
    stage.remount(stage.root / "venv", "ro")


def as_nobody(stage: Stage) -> None:
    """Asked and served as a user who may write the project and nothing else."""
    stage.user = NOBODY
    stage.open_way(Path(sys.base_prefix))
    for directory, names, files in os.walk(stage.project):
        for name in (*names, *files, "."):
            os.chown(Path(directory, name), NOBODY, NOBODY, follow_symlinks=False)


@situation("another user, who may read the cache and not write it")
def other_user(stage: Stage) -> None:
    as_nobody(stage)


@situation("another user, who owns the cache")
def other_user_owns(stage: Stage) -> None:
    as_nobody(stage)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", stage.home], check=True)


@situation("another user, who owns the cache but not the library, which he may not read")
def library_unreadable(stage: Stage) -> None:
    other_user_owns(stage)
    os.chown(stage.library, 0, 0)
    stage.library.chmod(0o600)


@situation("another user, who may not enter the cache")
def cache_unreadable(stage: Stage) -> None:
    as_nobody(stage)
    (stage.home / ".cache").chmod(0o700)


@situation("another user, who owns the cache but not the module's directory")
def module_of_another(stage: Stage) -> None:
    other_user_owns(stage)
    subprocess.run(["chown", "-R", "0:0", stage.module], check=True)


@situation("another user, who owns all but the lock file")
def lock_of_another(stage: Stage) -> None:
    other_user_owns(stage)
    for lock in (stage.module.parent / "tmp").glob("*.lock"):
        os.chown(lock, 0, 0)
        lock.chmod(0o644)


@situation("serving.user: nobody, asked by root; the cache is root's")
def serving_user(stage: Stage) -> None:
    stage.serving_keys["user"] = "nobody"
    stage.server_user = NOBODY
    stage.open_way(Path(sys.base_prefix))


@situation("serving.user: nobody, asked by root; the cache is that user's")
def serving_user_owns(stage: Stage) -> None:
    serving_user(stage)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", stage.home], check=True)


@situation("no HOME, and a user id without an entry in /etc/passwd")
def no_home(stage: Stage) -> None:
    as_nobody(stage)
    stage.user = 54321
    subprocess.run(["chown", "-R", "54321:54321", stage.project, stage.home], check=True)
    del stage.env["HOME"]


@situation("neither HOME nor XDG_CACHE_HOME, and such a user")
def no_home_no_xdg(stage: Stage) -> None:
    no_home(stage)
    del stage.env["XDG_CACHE_HOME"]


@situation("HOME is another")
def home_moved(stage: Stage) -> None:
    other = stage.root / "out" / "home"
    other.mkdir()
    stage.env["HOME"] = str(other)


@situation("FLASHINFER_WORKSPACE_BASE names another place")
def base_moved(stage: Stage) -> None:
    stage.env["FLASHINFER_WORKSPACE_BASE"] = str(stage.root / "out")


@situation("the cache moved with `mv`, FLASHINFER_WORKSPACE_BASE naming the new place", then_doit=True)
def cache_moved(stage: Stage) -> None:
    shutil.copytree(stage.home, stage.root / "out" / "moved")
    shutil.rmtree(stage.home / ".cache")
    stage.env["FLASHINFER_WORKSPACE_BASE"] = str(stage.root / "out" / "moved")


@situation("the cache reached through a link of the same name")
def cache_linked(stage: Stage) -> None:
    (stage.home / ".cache").rename(stage.home / "elsewhere")
    (stage.home / ".cache").symlink_to(stage.home / "elsewhere")


@situation("engine: sglang", then_doit=True)
def sglang(stage: Stage) -> None:
    stage.serving_keys["engine"] = "sglang"


@situation("engine: sglang, SGLANG_CACHE_DIR set", then_doit=True)
def sglang_cache_dir(stage: Stage) -> None:
    stage.serving_keys["engine"] = "sglang"
    stage.env["SGLANG_CACHE_DIR"] = str(stage.root / "out" / "sglang")


# Architectures


@situation("the server's GPU is another: sm_86 where 9.0a was built")
def other_gpu(stage: Stage) -> None:
    stage.targets = stage.targets[:1]
    stage.targets, stage.gpu = ("8.6",), "8.6"


@situation("one of two targets deleted, asked for that one")
def one_of_two_deleted(stage: Stage) -> None:
    stage.library.unlink()
    stage.targets = ("9.0a", "8.0")


@situation("one of two targets deleted, asked for the other")
def other_of_two_deleted(stage: Stage) -> None:
    stage.library.unlink()
    stage.targets, stage.gpu = ("8.0", "9.0a"), "8.0"


@situation("two targets in one set, where each alone was built")
def set_of_two(stage: Stage) -> None:
    stage.targets, stage.gpu = ("8.0 9.0a",), "8.0 9.0a"


# Ahead of time


@situation("FLASHINFER_DISABLE_JIT=1, with a cache alone")
def jit_disabled(stage: Stage) -> None:
    stage.env["FLASHINFER_DISABLE_JIT"] = "1"


def install(stage: Stage) -> Path:
    """The wheel's package, in the serving environment."""
    done = stage.doit("install")
    sure(done.returncode == 0, first_line(done.stdout + done.stderr))
    stage.env["FLASHINFER_DISABLE_JIT"] = "1"
    return stage.site / "fitasks_kernels"


@situation("installed (`doit install`), FLASHINFER_DISABLE_JIT=1")
def installed(stage: Stage) -> None:
    install(stage)


@situation("installed, no cache, no toolchain, FLASHINFER_DISABLE_JIT=1")
def installed_alone(stage: Stage) -> None:
    install(stage)
    shutil.rmtree(stage.home / ".cache")
    shutil.rmtree(stage.toolkit)
    stage.env["PATH"] = path_without(stage, "c++", "g++", "gcc", "cc", "nvcc", "ninja")


@situation("installed, the library altered (a byte of its text)")
def installed_altered(stage: Stage) -> None:
    (library,) = install(stage).rglob(f"{stage.kernel}.so")
    replace_bytes(library, b"Check failed", b"Check faired")


@situation("installed, the library truncated")
def installed_truncated(stage: Stage) -> None:
    (library,) = install(stage).rglob(f"{stage.kernel}.so")
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])


@situation("installed, on a file system mounted noexec")
def installed_noexec(stage: Stage) -> None:
    stage.remount(install(stage), "noexec")


@situation("installed, no libcudart within the loader's reach")
def installed_no_libcudart(stage: Stage) -> None:
    install(stage)
    no_libcudart(stage)


@situation("installed, built with a tvm_ffi whose headers know a function that the server's lacks")
def installed_built_with_newer_tvm_ffi(stage: Stage) -> None:
    built_with_newer_tvm_ffi(stage)
    install(stage)


@situation("installed, the library may not be read by the server's user")
def installed_unreadable(stage: Stage) -> None:
    (library,) = install(stage).rglob(f"{stage.kernel}.so")
    library.chmod(0o600)
    other_user_owns(stage)


@situation("installed, for a GPU that it has no code for")
def installed_other_gpu(stage: Stage) -> None:
    install(stage)
    stage.targets, stage.gpu = ("8.6",), "8.6"


@situation("installed, then FlashInfer of another version")
def installed_then_upgraded(stage: Stage) -> None:
    install(stage)
    flashinfer_upgraded(stage)


def own_aot(stage: Stage, library: bytes) -> None:
    file = stage.flashinfer / "data/aot" / stage.kernel / f"{stage.kernel}.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(library)


@situation("a file in FlashInfer's data/aot")
def own_aot_good(stage: Stage) -> None:
    own_aot(stage, stage.library.read_bytes())


@situation("a truncated file in FlashInfer's data/aot")
def own_aot_truncated(stage: Stage) -> None:
    own_aot(stage, stage.library.read_bytes()[:100_000])


@situation("another GPU's file in FlashInfer's data/aot")
def own_aot_of_another_gpu(stage: Stage) -> None:
    other = stage.workspace.parent / "80" / "cached_ops" / stage.kernel / stage.library.name
    own_aot(stage, other.read_bytes())
