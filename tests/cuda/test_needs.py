from __future__ import annotations

from pathlib import Path

import pytest

from fitasks.cuda.components import component_of, debian_packages, pip_command
from fitasks.cuda.needs import IncludeMemo, include_dirs, needed_headers
from tests.cuda.fake_toolkit import put

NINJA = """ninja_required_version = 1.3
name = page
cuda_home = /opt/cuda
nvcc = $cuda_home/bin/nvcc
common_cflags = -DX=1 $
    -I/fi/cccl $
    -isystem $cuda_home/include $
    -isystem /opt/cuda/include/cccl $
    -isystem /fi/include $
    -isystem /fi/include
cuda_cflags = $common_cflags $
    -I /fi/csrc
"""


def test_include_directories_in_order_without_the_toolkits() -> None:
    assert include_dirs(NINJA) == (Path("/fi/cccl"), Path("/fi/include"), Path("/fi/csrc"))


def test_headers_are_followed_to_what_only_a_toolkit_has(tmp_path: Path) -> None:
    source = put(tmp_path / "src/norm.cu", '#include "norm.cuh"\n  #  include <cuda_runtime.h>\n#include <vector>\n')
    put(tmp_path / "src/norm.cuh", "#include <a/b.h>\n// #include <nvrtc.h>\n")
    put(tmp_path / "inc/a/b.h", '#include "../c.h"\n#include <cublasLt.h>\n')
    put(tmp_path / "inc/c.h", "#include <a/b.h>\n#include <curand_kernel.h>\n")
    found = needed_headers([source], [tmp_path / "inc"], IncludeMemo())
    assert found == {"cuda_runtime.h", "cublasLt.h", "curand_kernel.h"}


def test_a_header_found_beside_flashinfer_is_not_the_toolkits(tmp_path: Path) -> None:
    source = put(tmp_path / "a.cu", "#include <cub/cub.cuh>\n#include <cuda/std/limits>\n#include <nv/target>\n")
    assert needed_headers([source], [], IncludeMemo()) == {"cub/cub.cuh", "cuda/std/limits", "nv/target"}
    put(tmp_path / "cccl/cub/cub.cuh", "#include <cuda/std/compare>\n")
    put(tmp_path / "cccl/cuda/version")
    assert needed_headers([source], [tmp_path / "cccl"], IncludeMemo()) == {"nv/target"}


def test_cycles_and_shared_headers_give_each_source_its_own(tmp_path: Path) -> None:
    put(tmp_path / "x.h", '#include "y.h"\n')
    put(tmp_path / "y.h", '#include "x.h"\n#include "z.h"\n')
    put(tmp_path / "z.h", "#include <curand.h>\n")
    one = put(tmp_path / "one.cu", '#include "x.h"\n')
    two = put(tmp_path / "two.cu", '#include "y.h"\n#include <cublas_v2.h>\n')
    three = put(tmp_path / "three.cu", "#include <cuda.h>\n")
    memo = IncludeMemo()
    assert [sorted(needed_headers([source], [], memo)) for source in (one, two, three)] == [
        ["curand.h"],
        ["cublas_v2.h", "curand.h"],
        ["cuda.h"],
    ]
    assert needed_headers([one, three], [], memo) == {"curand.h", "cuda.h"}


def test_each_file_is_read_once(tmp_path: Path) -> None:
    source = put(tmp_path / "a.cu", '#include "b.h"\n')
    header = put(tmp_path / "b.h", "#include <curand.h>\n")
    memo = IncludeMemo()
    needed_headers([source], [], memo)
    header.unlink()
    other = put(tmp_path / "c.cu", '#include "b.h"\n')
    assert needed_headers([other], [tmp_path], memo) == {"curand.h"}


def test_what_cannot_be_read_needs_nothing(tmp_path: Path) -> None:
    binary = tmp_path / "binary.cu"
    binary.write_bytes(b"\xff\xfe#include <cublas\xff.h>\n")
    assert needed_headers([tmp_path / "absent.cu", binary], [], IncludeMemo()) == frozenset()


@pytest.mark.parametrize(
    ("header", "component"),
    [
        ("cublasLt.h", "cublas"),
        ("cublas_v2.h", "cublas"),
        ("curand_kernel.h", "curand"),
        ("nvrtc.h", "nvrtc"),
        ("cusolverDn.h", "cusolver"),
        ("cuda_runtime.h", "cudart"),
        ("cuda.h", "cudart"),
        ("cooperative_groups.h", "cudart"),
        ("nv/target", "cccl"),
        ("cub/block/block_reduce.cuh", "cccl"),
        ("cub/cub.cuh", "cccl"),
        ("cuda/std/__compare/ordering.h", ""),
        ("cuda_fp4.h", ""),
        ("cudnn.h", ""),
        ("vector", ""),
        ("my_curand.h", ""),
    ],
)
def test_component_of(header: str, component: str) -> None:
    assert component_of(header) == component


def test_commands_that_bring_components() -> None:
    core = "nvcc,nvvm,crt,cudart,cccl,cublas,curand,nvrtc"
    assert pip_command({"cublas", "cusolver"}) == f"pip install 'cuda-toolkit[{core},cusolver]==13.0.*'"
    assert pip_command({"driver stub"}) == f"pip install 'cuda-toolkit[{core}]==13.0.*'"
    assert debian_packages({"driver stub", "cublas", "nvvm"}, "13.0") == (
        "libnvvm-13-0",
        "libcublas-dev-13-0",
        "cuda-driver-dev-13-0",
    )
    assert debian_packages({"nvvm", "crt", "curand"}, "12.8") == ("cuda-nvcc-12-8", "libcurand-dev-12-8")
