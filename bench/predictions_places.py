"""Situations: where kernels lie and who may use them there: users, rights, mounts, GPUs, installed packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.predictions_changes import Situations, replace_bytes, sure
from bench.predictions_environment import built_with_newer_tvm_ffi, no_libcudart, path_without
from bench.predictions_harness import Stage, first_line
from bench.predictions_kernel import flashinfer_upgraded

PLACES = Situations()
situation = PLACES.situation
NOBODY = 65534

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
