"""Situations: what befell a compiled kernel, the sources that it was made from, and FlashInfer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.predictions_changes import Situations, lose, replace_bytes, sure, under_old_time
from bench.predictions_harness import Stage, toolkit_libraries

KERNEL = Situations()
situation = KERNEL.situation


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
