"""Toolkits made of small files, with an nvcc that is a real binary, so that its answers are remembered."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SAYS = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release {release}, V{version}\nBuild cuda_{release}.r{release}/compiler.1_0\n"
CUDA_H = "#define cuMemAlloc cuMemAlloc_v2\nCUresult CUDAAPI cuInit(unsigned int Flags);\nCUresult CUDAAPI cuMemAlloc(int *p);\n"

# Prints <itself>.says and notes the call in <itself>.calls.
_TALKER = r"""
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
  char path[4096]; char line[4096];
  snprintf(path, sizeof path, "%s.calls", argv[0]);
  FILE *calls = fopen(path, "a"); fprintf(calls, "%s\n", argc > 1 ? argv[1] : ""); fclose(calls);
  snprintf(path, sizeof path, "%s.says", argv[0]);
  FILE *says = fopen(path, "r"); if (!says) return 3;
  while (fgets(line, sizeof line, says)) fputs(line, stdout);
  return 0;
}
"""


def build_talker(directory: Path) -> Path:
    source, program = directory / "talker.c", directory / "talker"
    source.write_text(_TALKER)
    subprocess.run(["cc", "-o", str(program), str(source)], check=True)
    return program


def build_library(directory: Path) -> Path:
    library = directory / "libcudart.so.13"
    command = ["cc", "-shared", "-nostdlib", "-Wl,-soname,libcudart.so.13", "-x", "c", "/dev/null"]
    subprocess.run([*command, "-o", str(library)], check=True)
    return library


def put(path: Path, text: str = "x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def install_program(talker: Path, path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(talker, path)
    put(path.with_name(f"{path.name}.says"), says)
    return path


def calls(program: Path) -> int:
    log = program.with_name(f"{program.name}.calls")
    return len(log.read_text().splitlines()) if log.exists() else 0


def common_files(talker: Path, home: Path, release: str, version: str, headers: tuple[str, ...]) -> None:
    install_program(talker, home / "bin" / "nvcc", SAYS.format(release=release, version=version))
    for name in ("bin/cudafe++", "bin/fatbinary", "bin/ptxas", "nvvm/bin/cicc", "include/crt/host_config.h"):
        put(home / name)
    for name in ("cuda_runtime.h", *headers):
        put(home / "include" / name)
    put(home / "include" / "cuda.h", CUDA_H)


class Maker:
    """Makes toolkits below `base`, with one compiled nvcc and libcudart for all."""

    def __init__(self, talker: Path, library: Path) -> None:
        self.talker = talker
        self.library = library

    def installed(
        self, home: Path, *, headers: tuple[str, ...] = (), release: str = "13.0", version: str = "13.0.88"
    ) -> Path:
        common_files(self.talker, home, release, version, headers)
        put(home / "lib64" / "stubs" / "libcuda.so")
        shutil.copy(self.library, home / "lib64" / "libcudart.so.13")
        (home / "lib64" / "libcudart.so").symlink_to("libcudart.so.13")
        return home

    def pip(
        self,
        site_packages: Path,
        *,
        headers: tuple[str, ...] = ("cublasLt.h", "curand_kernel.h"),
        nvvm: str = "13.0.88",
        crt: str = "13.0.88",
    ) -> Path:
        root = site_packages / "nvidia" / "cu13"
        common_files(self.talker, root, "13.0", "13.0.88", headers)
        (root / "lib").mkdir()
        shutil.copy(self.library, root / "lib" / "libcudart.so.13")
        for name, version in (
            ("nvidia_cuda_nvcc", "13.0.88"),
            ("nvidia_nvvm", nvvm),
            ("nvidia_cuda_crt", crt),
        ):
            (site_packages / f"{name}-{version}.dist-info").mkdir()
        return root
