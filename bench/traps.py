"""The traps: what makes a server recompile kernels that are perfectly good, or trust some that aren't.

    python bench/traps.py [--kernel page]

For each trap two rounds, both from the same compiled kernel, with the real nvcc: FlashInfer alone (`spec.build()` in
the serving interpreter, as a server does), and `doit` first, then the same. Prints a table; about ten minutes on two
cores. FlashInfer is a private copy, first on PYTHONPATH, so that headers can be touched.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

_SERVER = """
import sys, time
from flashinfer.jit.{kernel} import gen_{kernel}_module
spec = gen_{kernel}_module()
begin = time.perf_counter()
spec.build(verbose=True, need_lock=True)
print(f"SECONDS {{time.perf_counter() - begin:.1f}}")
import ctypes
try:
    import torch, tvm_ffi
    ctypes.CDLL(str(spec.jit_library_path))
except OSError as error:
    if "libcuda.so.1" not in str(error):  # no driver here: as far as this machine can tell
        print("LOAD FAILED", str(error)[:90])
"""


@dataclass
class Bench:
    """A project, its cache, and a private FlashInfer, all below one directory."""

    root: Path
    kernel: str

    def __post_init__(self) -> None:
        self.project = self.root / "project"
        self.site = self.root / "site"
        self.base = self.root / "base"
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "FLASHINFER"))
        } | {
            "FLASHINFER_WORKSPACE_BASE": str(self.base),
            "PYTHONPATH": f"{self.site}{os.pathsep}{ROOT}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # a store of its own, and an empty one for each round: adoption is measured elsewhere
            "XDG_CACHE_HOME": str(self.root / "xdg"),
        }

    @property
    def module(self) -> Path:
        (found,) = self.base.glob(f".cache/flashinfer/*/*/cached_ops/{self.kernel}")
        return found

    def doit(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "doit", *words],
            cwd=self.project,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    def server(self, **extra: str) -> str:
        """What FlashInfer alone does: how many files its ninja compiled or linked, and how long it took."""
        lines = self.doit("env") + "export FLASHINFER_CUDA_ARCH_LIST=9.0a\n"
        script = f"{lines}exec {sys.executable} -c '{_SERVER.format(kernel=self.kernel)}'"
        done = subprocess.run(["sh", "-c", script], env=self.env | extra, capture_output=True, text=True, check=False)
        compiled = sum(line.startswith("[") and " -c " in line for line in done.stdout.splitlines())
        linked = sum(line.startswith("[") and " -shared " in line for line in done.stdout.splitlines())
        if done.returncode < 0:
            return f"nothing; then dies of signal {-done.returncode} in loading it"
        if done.returncode:
            return "fails: " + (done.stdout + done.stderr).strip().splitlines()[-1][:70]
        seconds = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("SECONDS"))
        failed = next((line for line in done.stdout.splitlines() if line.startswith("LOAD FAILED")), "")
        files = f"{compiled} file{'s'[: compiled != 1]}"
        did = f"compiles {files}, {seconds} s" if compiled else f"links, {seconds} s" if linked else "nothing"
        return f"{did}; {failed}" if failed else did

    def save(self) -> None:
        for name in ("base", "site", "project"):
            subprocess.run(["cp", "-a", self.root / name, self.root / f"{name}.saved"], check=True)

    def restore(self) -> None:
        for name in ("base", "site", "project"):
            shutil.rmtree(self.root / name)
            subprocess.run(["cp", "-a", self.root / f"{name}.saved", self.root / name], check=True)
        shutil.rmtree(self.root / "xdg" / "fitasks" / "store", ignore_errors=True)


def touch_header(bench: Bench) -> None:
    (bench.site / "flashinfer/data/include/flashinfer/utils.cuh").touch()


def reinstall(bench: Bench) -> None:
    for path in (bench.site / "flashinfer/data").rglob("*.*h"):
        path.touch()


def copy_without_times(bench: Bench) -> None:
    shutil.copytree(bench.base, bench.root / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(bench.base)
    (bench.root / "copy").rename(bench.base)


def lose(name: str) -> Callable[[Bench], None]:
    def trap(bench: Bench) -> None:
        for path in bench.module.glob(name):
            path.unlink()

    return trap


def other_ninja(bench: Bench) -> None:
    """Debian's instead of PyPI's, or the other way round: whichever writes another log."""
    subprocess.run(["/usr/bin/ninja", "-C", bench.module, "-t", "deps"], capture_output=True, check=False)
    bench.env["PATH"] = f"/usr/bin{os.pathsep}{bench.env['PATH']}"


def truncate(bench: Bench) -> None:
    library = bench.module / f"{bench.kernel}.so"
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])


def edit_under_old_time(bench: Bench) -> None:
    header = bench.site / "flashinfer/data/include/flashinfer/utils.cuh"
    stat = header.stat()
    header.write_text(header.read_text() + "\n// edited\n")
    os.utime(header, ns=(stat.st_atime_ns, stat.st_mtime_ns))


TRAPS: dict[str, Callable[[Bench], None]] = {
    "one header touched": touch_header,
    "the same wheel reinstalled (new header times)": reinstall,
    "`cp -r` of the cache": copy_without_times,
    "`.ninja_log` lost": lose(".ninja_log"),
    "`.ninja_deps` lost": lose(".ninja_deps"),
    "an object file lost": lose("*_binding.cuda.o"),
    "another ninja on PATH (1.11)": other_ninja,
    "`.so` truncated": truncate,
    "a header edited under its old time": edit_under_old_time,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", default="page", help="a generator without parameters")
    kernel = parser.parse_args().kernel
    with tempfile.TemporaryDirectory() as name:
        bench = _prepare(Path(name), kernel)
        print("| trap | FlashInfer alone | fitasks | the server afterwards |\n|---|---|---|---|")
        for title, trap in TRAPS.items():
            if trap is other_ninja and not Path("/usr/bin/ninja").exists():
                continue
            path = bench.env["PATH"]
            bench.restore()
            trap(bench)
            alone = bench.server()
            bench.restore()
            trap(bench)
            begin = time.perf_counter()
            out = bench.doit().splitlines()
            seconds = time.perf_counter() - begin
            said = next(
                (line.partition(": ")[2] for line in out[::-1] if line.startswith(f"kernel:{kernel}:")), out[-1]
            )
            print(f"| {title} | {alone} | {said} ({seconds:.1f} s in all) | {bench.server()} |", flush=True)
            bench.env["PATH"] = path


def _prepare(root: Path, kernel: str) -> Bench:
    bench = Bench(root, kernel)
    bench.project.mkdir()
    shutil.copy(ROOT / "dodo.py", bench.project)
    (bench.project / "kernels.yaml").write_text(f'targets: ["9.0a"]\nkernels:\n  {kernel}:\n')
    _copy_flashinfer(bench.site)
    print(bench.doit(), file=sys.stderr)
    bench.save()
    return bench


def _copy_flashinfer(site: Path) -> None:
    """The installed package without byte code and cubins, and its metadata."""
    package = Path(str(importlib.metadata.distribution("flashinfer-python").locate_file("flashinfer")))
    ignore = shutil.ignore_patterns("__pycache__", "cubins")
    shutil.copytree(package, site / "flashinfer", ignore=ignore)
    for info in package.parent.glob("flashinfer_python-*.dist-info"):
        shutil.copytree(info, site / info.name)


if __name__ == "__main__":
    main()
