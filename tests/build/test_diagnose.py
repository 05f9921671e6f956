"""The first real error of a log, and the hint. Texts as nvcc 13.0, gcc 12, ld 2.40 and ninja 1.13 print them."""

from __future__ import annotations

import pytest

from fitasks.build.diagnose import diagnose

NVCC = """\
[1/3] /cuda/bin/nvcc --generate-dependencies-with-compile -c norm.cu -o norm.cuda.o
/csrc/norm.cu(10): warning #177-D: variable "x" was declared but never referenced
/csrc/norm.cu(12): error: identifier "nonsense" is undefined
    nonsense y;
    ^

1 error detected in the compilation of "/csrc/norm.cu".
ninja: build stopped: subcommand failed.
"""


@pytest.mark.parametrize(
    ("log", "status", "error", "hint"),
    [
        (NVCC, 1, '/csrc/norm.cu(12): error: identifier "nonsense" is undefined', ""),
        (
            "In file included from /csrc/a.cu:3:\n/csrc/gemm.h:20:10: fatal error: cublasLt.h: No such file or directory\n",
            1,
            "/csrc/gemm.h:20:10: fatal error: cublasLt.h: No such file or directory",
            "cublasLt.h is of the toolkit's cublas: pip install 'cuda-toolkit[cublas]', or libcublas-dev",
        ),
        (
            "/usr/bin/ld: cannot find -lcuda: No such file or directory\ncollect2: error: ld returned 1 exit status\n",
            1,
            "/usr/bin/ld: cannot find -lcuda: No such file or directory",
            "the toolkit has no libcuda stub: pip install 'fitasks[cuda13]', or cuda-driver-dev",
        ),
        (
            "nvcc fatal   : Unsupported gpu architecture 'compute_103a'\n",
            1,
            "nvcc fatal   : Unsupported gpu architecture 'compute_103a'",
            "this nvcc is too old for compute_103a: use a newer toolkit, or change targets",
        ),
        (
            "c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n",
            1,
            "c++: fatal error: Killed signal terminated program cc1plus",
            "the compiler was killed for want of memory",
        ),
        ("Killed\n", 137, "Killed", "the compiler was killed for want of memory"),
        (
            "/tmp/x.o: No space left on device\n",
            1,
            "/tmp/x.o: No space left on device",
            "the disk is full: free space in the cache and in TMPDIR, then run doit again",
        ),
        (
            "#error -- unsupported GNU version! gcc versions later than 15 are not supported!\n",
            1,
            "#error -- unsupported GNU version! gcc versions later than 15 are not supported!",
            "the host compiler is too new for this nvcc: set CXX and CC to an older g++ and gcc",
        ),
        ("ninja: error: '/gone.cu', needed by 'x.o', missing and no known rule to make it\n", 1,
         "ninja: error: '/gone.cu', needed by 'x.o', missing and no known rule to make it", ""),
        ("", -9, "ninja ended with status -9", "the compiler was killed for want of memory"),
    ],
)  # fmt: skip
def test_the_first_real_error_and_its_hint(log: str, status: int, error: str, hint: str) -> None:
    found = diagnose(log, status)
    assert (found.first_error, found.hint) == (error, hint)
