"""The first real error, its place, kind and hint: from logs that nvcc 13.0, gcc 12, ld 2.40 and ninja 1.13 wrote.

Each log in logs/ is of a tiny file that was really compiled, with neutral paths: killed with SIGKILL, under
`ulimit -v`, with TMPDIR on a tmpfs of 48 KB, with nvvm of 13.5 under nvcc 13.0, without nvvm, as another user.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fitasks.compile.failure.diagnose import Diagnosis, diagnose

LOGS = Path(__file__).parent / "logs"
PIP = (
    "pip install 'cuda-toolkit[nvcc,nvvm,crt,cudart,cccl,cublas,curand,nvrtc]==RELEASE' "
    "(`doit doctor` names the RELEASE that fits)"
)
BAD_OPTION = (
    "this nvcc doesn't know --{option}, which FlashInfer, or FLASHINFER_EXTRA_CUDAFLAGS, asks of it: use a newer toolkit "
    "(CUDA_HOME; `doit doctor` shows all), or correct the variable"
)
OOM = "the compiler ran out of memory: build with fewer at once (MAX_JOBS=1), or give it more"
DISK = "the disk is full: free space in the cache and in TMPDIR (nvcc's temporary files), then run doit again"
KILLED = "somebody or the kernel's OOM killer ended it: see dmesg; with MAX_JOBS=1 it needs the least memory"


def header(name: str, component: str, package: str) -> Diagnosis:
    file = "m.cpp" if component == "cudart" else "miss.cu"
    return Diagnosis(
        f"{file}:1:10: fatal error: {name}: No such file or directory",
        file,
        1,
        f"{name} is of the toolkit's {component}: {PIP}, or apt-get install {package}",
        "compile",
    )


EXPECTED = {
    "cannot_find_lcuda": Diagnosis(
        "/usr/bin/ld: cannot find -lcudart: No such file or directory",
        hint=f"the toolkit's lib64 has no libcudart.so: {PIP}, or apt-get install cuda-cudart-dev-13-0",
        kind="link",
    ),
    "disk_full_ld": Diagnosis("/usr/bin/ld: final link failed: No space left on device", hint=DISK, kind="disk"),
    "disk_full_object": Diagnosis(
        "/tmp/ccahboD0.s: Fatal error: can't write 3885 bytes to section .debug_info of out.o: 'No space left on device'",
        hint=DISK,
        kind="disk",
    ),
    "disk_full_tmpdir": Diagnosis(
        "<built-in>: fatal error: when writing output to /tmp/tmpxft_0000141b_00000000-5_slow.cpp4.ii: "
        "No space left on device",
        hint=DISK,
        kind="disk",
    ),
    "gcc_error": Diagnosis("e.cpp:2:25: error: ‘y’ was not declared in this scope", "e.cpp", 2, None, "compile"),  # noqa: RUF001
    "killed_cc1plus": Diagnosis("g++: fatal error: Killed signal terminated program cc1plus", hint=OOM, kind="oom"),
    "killed_cicc": Diagnosis("Killed", hint=OOM, kind="oom"),
    "missing_cublasLt": header("cublasLt.h", "cublas", "libcublas-dev-13-0"),
    "missing_cuda_runtime": header("cuda_runtime.h", "cudart", "cuda-cudart-dev-13-0"),
    "missing_curand_kernel": header("curand_kernel.h", "curand", "libcurand-dev-13-0"),
    "missing_nvrtc": header("nvrtc.h", "nvrtc", "cuda-nvrtc-dev-13-0"),
    "missing_python": Diagnosis(
        "inner.h:2:10: fatal error: Python.h: No such file or directory",
        "inner.h",
        2,
        "the serving interpreter's headers are missing: apt-get install python3-dev",
        "compile",
    ),
    "ninja_missing_source": Diagnosis(
        "ninja: error: 'gone.cu', needed by 'out.o', missing and no known rule to make it", kind="toolchain"
    ),
    "ninja_syntax": Diagnosis("ninja: error: build.ninja:2: unexpected variable 'comand'", kind="toolchain"),
    "nvcc_bad_option": Diagnosis(
        "nvcc fatal   : Unknown option '--no-such-option'",
        hint=BAD_OPTION.format(option="no-such-option"),
        kind="toolchain",
    ),
    "nvcc_error": Diagnosis('bad.cu(4): error: identifier "scael" is undefined', "bad.cu", 4, None, "compile"),
    "nvcc_missing_header": Diagnosis(
        "miss.cu:1:10: fatal error: cutlass/nonexistent.h: No such file or directory", "miss.cu", 1, None, "compile"
    ),
    "nvcc_not_found": Diagnosis(
        "/bin/sh: 1: /usr/local/cuda-99/bin/nvcc: not found",
        hint="/usr/local/cuda-99/bin/nvcc is gone: set CUDA_HOME to a toolkit that exists",
        kind="toolchain",
    ),
    "nvcc_out_of_memory": Diagnosis(
        "/usr/include/c++/12/bits/stl_iterator_base_funcs.h(189): catastrophic error: out of memory",
        "/usr/include/c++/12/bits/stl_iterator_base_funcs.h",
        189,
        OOM,
        "oom",
    ),
    "nvcc_static_assert": Diagnosis(
        'static.cuh(1): error: static assertion failed with "head_dim must be a multiple of 64"',
        "static.cuh",
        1,
        None,
        "compile",
    ),
    "nvvm_mismatch": Diagnosis(
        "ptxas /tmp/tmpxft_000014f8_00000000-6_ok.ptx, line 9; fatal   : "
        "Unsupported .version 9.5; current version is '9.0'",
        "/tmp/tmpxft_000014f8_00000000-6_ok.ptx",
        9,
        f"the toolkit's nvvm is newer than its ptxas; all its parts must be of one release: {PIP}",
        "toolchain",
    ),
    "nvvm_missing": Diagnosis(
        "sh: 1: /usr/local/cuda/bin/../nvvm/bin/cicc: not found",
        hint=f"the toolkit lacks cicc; all its parts must be of one release: {PIP}",
        kind="toolchain",
    ),
    "permission": Diagnosis(
        "Fatal error: can't create /root/out.o: Permission denied",
        hint="/root/out.o can't be written or run by this user: see `ls -ld` of it and its directory",
        kind="toolchain",
    ),
    "ptxas_asm": Diagnosis(
        "ptxas /tmp/tmpxft_00000525_00000000-6_asm.ptx, line 23; error   : Unknown modifier '.nonsense'",
        "/tmp/tmpxft_00000525_00000000-6_asm.ptx",
        23,
        None,
        "compile",
    ),
    "ptxas_error": Diagnosis("ptxas fatal   : Input file 'bad.ptx' could not be opened", kind="compile"),
    "ptxas_smem": Diagnosis(
        "ptxas error   : Entry function '_Z1kPi' uses too much shared data (0x61a80 bytes, 0x38c00 max)", kind="compile"
    ),
    "undefined_reference": Diagnosis(
        "u.cpp:(.text+0xa): undefined reference to `cuInit'",
        hint="cuInit is of libcuda: the stub is missing from the link, or too old",
        kind="link",
    ),
    "unsupported_arch": Diagnosis(
        "nvcc fatal   : Unsupported gpu architecture 'compute_77a'",
        hint="this nvcc doesn't know compute_77a: correct targets, or use a newer toolkit",
        kind="toolchain",
    ),
    "unsupported_gnu": Diagnosis(
        "/usr/local/cuda/include/crt/host_config.h:137:2: error: #error -- unsupported GNU version! "
        "gcc versions later than 15 are not supported! The nvcc flag '-allow-unsupported-compiler' can be used to "
        "override this version check; however, using an unsupported host compiler may cause compilation failure or "
        "incorrect run time execution. Use at your own risk.",
        "/usr/local/cuda/include/crt/host_config.h",
        137,
        "the host compiler is too new for this nvcc: install g++-15 and set CC=gcc-15 CXX=g++-15",
        "toolchain",
    ),
    "virtual_memory": Diagnosis("virtual memory exhausted: Cannot allocate memory", hint=OOM, kind="oom"),
}


def test_every_log_is_expected_somewhere() -> None:
    assert sorted(path.stem for path in LOGS.iterdir()) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_logs_of_real_failures(name: str) -> None:
    assert diagnose((LOGS / f"{name}.txt").read_text(), 1) == EXPECTED[name]


def test_what_may_go_well_alone() -> None:
    expected = ["killed_cc1plus", "killed_cicc", "nvcc_out_of_memory", "virtual_memory"]
    assert sorted(name for name, found in EXPECTED.items() if found.out_of_memory) == expected
    assert diagnose("", -9).out_of_memory


def test_the_driver_library_alone() -> None:
    found = diagnose("/usr/bin/ld: cannot find -lcuda: No such file or directory\n", 1)
    assert found.hint == (
        f"the toolkit has no libcuda stub: {PIP}, for which fitasks makes one, or apt-get install cuda-driver-dev-13-0"
    )


# As users reported them, of CUDA 12.4, 12.9 and 13.3 on Fedora 44, Ubuntu 25.04 and openSUSE; the second is nvcc 13.0's.
REPORTED = {
    "nvcc fatal   : Unknown option '--compress-mode=size'": BAD_OPTION.format(option="compress-mode=size"),
    "nvcc fatal   : A single input file is required for a non-link phase when an outputfile is specified": (
        "a word of the command is taken for a source file: CC must be one word"
    ),
    '/usr/include/bits/mathcalls.h(79): error: exception specification is incompatible with that of previous function "c'
    'ospi" (declared at line 2601 of /usr/local/cuda/include/crt/math_functions.h)': (
        "this toolkit's headers are older than the system's glibc"
    ),
    "/usr/include/x86_64-linux-gnu/bits/mathcalls.h(79): error: exception\n  specification is incompatible": (
        "this toolkit's headers are older than the system's glibc"
    ),
    "memoryUtils.cu:22:10: fatal error: sanitizer/asan_interface.h: No such file or directory": (
        "the headers of the compiler's sanitizers are missing"
    ),
    '/usr/include/c++/16/bits/utility.h(137): error: identifier "__type_pack_element" is undefined': (
        "an error in GCC 16's own headers: if this nvcc doesn't support that GCC, set CC and CXX to a g++ that it supports"
    ),
    "/usr/include/c++/16.1.1/type_traits(3521): error: expected an identifier": "an error in GCC 16's own headers",
}


@pytest.mark.parametrize("said", REPORTED)
def test_reported_failures_have_a_hint(said: str) -> None:
    assert (diagnose(f"{said}\n", 1).hint or "").startswith(REPORTED[said])


@pytest.mark.parametrize("first", ["nvcc_error", "gcc_error", "disk_full_tmpdir", "killed_cicc"])
def test_what_was_compiled_well_before_makes_no_difference(first: str) -> None:
    """Warnings, notes, excerpts and commands that speak of errors are none."""
    noise = (
        "ninja: Jobserver mode detected:  -j --jobserver-auth=fifo:/tmp/fifo\n"
        "[1/9] nvcc -Xcudafe --display_error_number -Werror -DMESSAGE='error: out of memory' -c a.cu -o a.o\n"
        'a.cu(10): warning #177-D: variable "error" was declared but never referenced\n'
        '      throw std::runtime_error("error: out of memory, No space left on device");\n'
        "FAILED: [code=1] b.o \n"
        "nvcc -DMESSAGE='x: error: out of memory' -DOTHER='No space left on device' -c b.cu -o b.o\n"
        "a.cu(12): note #3012: error: in a note\n"
        "In file included from error.h:3,\n                 from a.cu:1:\n"
        "a.h:1:2: warning: #warning error: undefined reference to `x' [-Wcpp]\n"
        "    1 | #warning error: undefined reference to\n"
    )  # fmt: skip
    assert diagnose(noise + (LOGS / f"{first}.txt").read_text(), 1) == EXPECTED[first]


def test_a_cause_outranks_what_follows_from_it() -> None:
    log = "ptxas fatal   : Input file '/tmp/a.ptx' could not be opened\nnvcc error   : 'cicc' died due to signal 9 (Kill signal)\n"
    assert diagnose(log, 1) == Diagnosis(
        "nvcc error   : 'cicc' died due to signal 9 (Kill signal)", hint=OOM, kind="oom"
    )


@pytest.mark.parametrize(
    ("log", "status", "expected"),
    [
        ("", -9, Diagnosis("ninja was killed", hint=KILLED, kind="killed")),
        ("[1/2] nvcc a.cu\n", 137, Diagnosis("ninja was killed", hint=KILLED, kind="killed")),
        ("", -15, Diagnosis("ninja was ended by signal 15", hint=KILLED, kind="killed")),
        ("", 2, Diagnosis("ninja ended with status 2, and said nothing")),
        (
            "[1/2] true\nsomething strange\nninja: build stopped: subcommand failed.\n",
            1,
            Diagnosis("something strange"),
        ),
        ("\x00\ufffd\n", 1, Diagnosis("\\x00\ufffd")),
        (
            "[1/2] true\nninja: build stopped: Error writing to deps log: No space left on device.\n",
            1,
            Diagnosis(
                "ninja: build stopped: Error writing to deps log: No space left on device.", hint=DISK, kind="disk"
            ),
        ),
    ],
)
def test_logs_that_say_little(log: str, status: int, expected: Diagnosis) -> None:
    assert diagnose(log, status) == expected


def test_a_long_log_takes_no_time() -> None:
    """Megabytes of warnings are usual for CUTLASS."""
    import time

    warning = "/very/long/path/of/a/header.h(10): warning #177-D: variable was declared but never referenced\n"
    begin = time.process_time()
    found = diagnose(warning * 100_000 + "a.cu(1): error: late\n", 1)
    assert found.first_error == "a.cu(1): error: late"
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    "error",
    [
        "ptxas error   : Entry function '_ZN{long}' uses too much shared data (0x20000 bytes)",
        "{long}",
        "error: {long}: nothing of the kind",
        "x.cu:3:1: error: {long}",
    ],
)
def test_a_word_without_end_is_looked_at_in_no_time(error: str) -> None:
    """With the interpreter's lock held, so that not even a signal would be heard meanwhile."""
    begin = time.thread_time()
    found = diagnose(error.format(long="N7cutlass" * 100_000), 255)
    assert time.thread_time() - begin < 1
    assert len(found.first_error) < 2100
    assert found.first_error.startswith(error.format(long="N7cutlass" * 9)[:20])


def test_of_a_long_line_the_end_counts_as_well() -> None:
    assert diagnose(f"ptxas error   : '{'N' * 30_000}' uses too much", 255).first_error.endswith("N' uses too much")
    assert diagnose(f"sh: 1: /{'N' * 30_000}/nvcc: not found", 127).kind == "toolchain"


def test_an_endless_output_is_looked_at_in_no_time() -> None:
    begin = time.thread_time()
    found = diagnose('bad.cu(4): error: identifier "x" is undefined\n' + "of no interest here\n" * 3_000_000, 2)
    assert time.thread_time() - begin < 2
    assert found.file == "bad.cu"
