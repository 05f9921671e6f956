"""The parts that a CUDA toolkit is delivered in: which header belongs to which, and how each is had.

A component is named as the extra of PyPI's `cuda-toolkit` that brings it, but for "driver stub", which PyPI
lacks.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

PIP_RELEASE = "13.0.*"  # where nothing that is installed asks for another
STUB = "driver stub"

# Without any of these nothing compiles; with nvcc alone, pip takes nvvm and crt of another release.
CORE = ("nvcc", "nvvm", "crt", "cudart", "cccl", "cublas", "curand", "nvrtc")

# extra: (distribution on PyPI as it is spelt in *.dist-info, Debian package of NVIDIA's repository)
_PARTS = {
    "nvcc": ("nvidia_cuda_nvcc", "cuda-nvcc"),
    "nvvm": ("nvidia_nvvm", "libnvvm"),
    "crt": ("nvidia_cuda_crt", "cuda-crt"),
    "cudart": ("nvidia_cuda_runtime", "cuda-cudart-dev"),
    "cccl": ("nvidia_cuda_cccl", "cuda-cccl"),
    "cublas": ("nvidia_cublas", "libcublas-dev"),
    "curand": ("nvidia_curand", "libcurand-dev"),
    "nvrtc": ("nvidia_cuda_nvrtc", "cuda-nvrtc-dev"),
    "cufft": ("nvidia_cufft", "libcufft-dev"),
    "cusolver": ("nvidia_cusolver", "libcusolver-dev"),
    "cusparse": ("nvidia_cusparse", "libcusparse-dev"),
    "cupti": ("nvidia_cuda_cupti", "cuda-cupti-dev"),
    "nvjitlink": ("nvidia_nvjitlink", "libnvjitlink-dev"),
    "nvml": ("nvidia_nvml_dev", "cuda-nvml-dev"),
    "profiler": ("nvidia_cuda_profiler_api", "cuda-profiler-api"),
    STUB: ("", "cuda-driver-dev"),
}
DISTRIBUTIONS = {distribution: component for component, (distribution, _) in _PARTS.items() if distribution}

# Measured with `nvcc -M` of CUDA 13.0 and the file lists of NVIDIA's wheels. What a toolkit header includes
# in turn is left out: whoever has curand_kernel.h has curand_globals.h. So is what older toolkits rightly
# lack and sources include only under a condition on CUDA_VERSION: cuda_fp4.h, crt/device_fp128_functions.h.
_HEADERS = (
    ("cublas", r"(cublas|nvblas)\w*\.h"),
    ("curand", r"curand\w*\.h"),
    ("nvrtc", r"nvrtc\.h"),
    ("cufft", r"cufft\w*\.h"),
    ("cusolver", r"cusolver\w*\.h"),
    ("cusparse", r"cusparse\w*\.h"),
    ("cupti", r"cupti\w*\.h"),
    ("nvjitlink", r"nvJitLink\.h"),
    ("nvml", r"nvml\.h"),
    ("profiler", r"(cuda_profiler_api|cudaProfiler)\.h"),
    ("cccl", r"(nv/target|(cub|thrust|cuda)/(?!.*__)[\w/]+(\.cuh|\.h)?)"),
    ("cudart", r"cuda(_runtime(_api)?|_(bf16|fp16|fp8)|_pipeline|_awbarrier|Typedefs)?\.h"),
    (
        "cudart",
        r"(cooperative_groups|driver_types|vector_types|vector_functions|device_launch_parameters|math_constants|mma)\.h",
    ),
)


def component_of(header: str) -> str:
    """The component that a header, as an `#include` names it, belongs to; "" if it is no toolkit header."""
    return next((component for component, pattern in _HEADERS if re.fullmatch(pattern, header)), "")


def pip_command(components: Collection[str], release: str = PIP_RELEASE) -> str:
    """The pip command for a complete toolkit with these components too; `release` as release.py finds it."""
    extras = [*CORE, *sorted(set(components) - set(CORE) - {STUB})]
    return f"pip install 'cuda-toolkit[{','.join(extras)}]=={release}'"


def debian_packages(components: Collection[str], release: str) -> tuple[str, ...]:
    """Names in NVIDIA's Debian repository, e.g. libcublas-dev-13-0.

    Up to CUDA 12 the package of nvcc brings nvvm and crt.
    """
    before_13 = int(release.split(".", maxsplit=1)[0]) < 13
    wanted = {"nvcc" if before_13 and name in ("nvvm", "crt") else name for name in components}
    suffix = release.replace(".", "-")
    return tuple(f"{package}-{suffix}" for name, (_, package) in _PARTS.items() if name in wanted)


def install_command(components: Collection[str], home: Path, release: str) -> str:
    """What completes the toolkit in `home`: conda's command for a conda prefix, else apt's; "" where there is neither.

    conda-forge's `cuda-version` pins a release, its `cuda-toolkit` is the whole of one.
    """
    prefix = next((path for path in (home, *home.parents) if (path / "conda-meta").is_dir()), None)
    if prefix:
        return f"conda install -p {prefix} -c conda-forge cuda-toolkit cuda-version={release or '13.0'}"
    packages = debian_packages(components, release) if release and shutil.which("apt-get") else ()
    return f"apt-get install {' '.join(packages)}" if packages else ""


def compiler_command() -> str:
    """How to get a host compiler on this machine."""
    if os.environ.get("CONDA_PREFIX"):
        return "conda install -c conda-forge gxx"
    known = {"apt-get": "apt-get install g++", "dnf": "dnf install gcc-c++", "apk": "apk add g++"}
    return next((command for tool, command in known.items() if shutil.which(tool)), "install g++")
