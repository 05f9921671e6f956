"""What to do about well-known failures: a sentence with the command that mends it."""

from __future__ import annotations

import re

from fitasks.cuda.components import component_of, debian_packages, pip_command

_RELEASE = "13.0"  # that the names of Debian packages are given for
_HEADER = re.compile(r"fatal error: (?P<header>[\w./-]+\.(?:h|hpp|cuh)): No such file")
_ANY = "RELEASE"  # `doit doctor` knows which one fits what is installed
_FITS = "(`doit doctor` names the RELEASE that fits)"
_ONE_RELEASE = f"must be of one release: {pip_command((), _ANY)} {_FITS}"
_HOST = "set CC and CXX to a g++ that it supports (include/crt/host_config.h of the toolkit says up to which)"
_OPTION = (
    "this nvcc doesn't know {0}, which FlashInfer, or FLASHINFER_EXTRA_CUDAFLAGS, asks of it: use a newer toolkit "
    "(CUDA_HOME; `doit doctor` shows all), or correct the variable"
)
_WORD = (
    "a word of the command is taken for a source file: CC must be one word (FlashInfer hands it to -ccbin; "
    "FLASHINFER_NVCC_LAUNCHER is for ccache), and see FLASHINFER_EXTRA_CUDAFLAGS"
)
_GLIBC = (
    "this toolkit's headers are older than the system's glibc (2.41 and newer declare cospi, sinpi and rsqrt, "
    "too): use a newer toolkit, or compile where glibc is older"
)
_SANITIZER = (
    "the headers of the compiler's sanitizers are missing: dnf install libasan, or apt-get install libgcc-N-dev, "
    "N being the compiler's version"
)
_STUB = (
    f"the toolkit has no libcuda stub: {pip_command((), _ANY)} {_FITS}, for which fitasks makes one, or apt-get "
    "install cuda-driver-dev-13-0"
)
_CUDART = (
    f"the toolkit's lib64 has no libcudart.so: {pip_command((), _ANY)} {_FITS}, or apt-get install cuda-cudart-dev-13-0"
)
# What begins with a word of any length is looked for where words begin: from each letter on it would take n² steps.
_HINTS = [
    (r"Unsupported gpu architecture '(\S+)'", "this nvcc doesn't know {0}: correct targets, or use a newer toolkit"),
    (
        r"nvcc fatal\s*: Unknown option '([^']+)'",
        _OPTION,
    ),
    (
        r"A single input file is required",
        _WORD,
    ),
    (
        r"exception specification is incompatible with that of previous function|mathcalls\.h\(\d+\): error: exception",
        _GLIBC,
    ),
    (
        r"sanitizer/\w+\.h: No such file",
        _SANITIZER,
    ),
    (
        r"/include/c\+\+/(\d+)[/.\d]*/",
        f"an error in GCC {{0}}'s own headers: if this nvcc doesn't support that GCC, {_HOST}",
    ),
    (
        r"unsupported GNU version! gcc versions later than (\d+)",
        "the host compiler is too new for this nvcc: install g++-{0} and set CC=gcc-{0} CXX=g++-{0}",
    ),
    (
        r"Unsupported \.version (\S+); current version is",
        f"the toolkit's nvvm is newer than its ptxas; all its parts {_ONE_RELEASE}",
    ),
    (r"(cicc|ptxas|cudafe\+\+|fatbinary): not found", f"the toolkit lacks {{0}}; all its parts {_ONE_RELEASE}"),
    (
        r"cannot find -lcuda\b(?!r)",
        _STUB,
    ),
    (
        r"cannot find -lcudart\b",
        _CUDART,
    ),
    (r"cannot find -l(\S+?):?(?:\s|$)", "the linker misses lib{0}.so: install the package that has it"),
    (r"undefined reference to [`'](cu[A-Z]\w+)", "{0} is of libcuda: the stub is missing from the link, or too old"),
    (r"Python\.h: No such file", "the serving interpreter's headers are missing: apt-get install python3-dev"),
    (r"(?<!\S)(\S*nvcc): not found", "{0} is gone: set CUDA_HOME to a toolkit that exists"),
    (r"(?<!\S)(\S+): not found", "{0} is gone: install it, or correct CC, CXX and PATH"),
    (
        r"(?<![^\s:'])([^\s:']+)'?: (?:Permission denied|Read-only file system)",
        "{0} can't be written or run by this user: see `ls -ld` of it and its directory",
    ),
    (r"Too many open files", "raise the limit: ulimit -n 4096"),
    (r"Failed to preprocess host compiler properties", "the host compiler didn't run: try it, and see TMPDIR's disk"),
]
_OF_KIND = {
    "oom": "the compiler ran out of memory: build with fewer at once (MAX_JOBS=1), or give it more",
    "disk": "the disk is full: free space in the cache and in TMPDIR (nvcc's temporary files), then run doit again",
    "killed": "somebody or the kernel's OOM killer ended it: see dmesg; with MAX_JOBS=1 it needs the least memory",
}


def hint_for(kind: str, error: str) -> str | None:
    """What to do about an error of this kind; None where nothing certain can be said."""
    if kind in _OF_KIND:
        return _OF_KIND[kind]
    for pattern, hint in _HINTS:
        if match := re.search(pattern, error):
            return hint.format(*match.groups())
    if header := _HEADER.search(error):
        return _of_header(header["header"])
    return None


def _of_header(header: str) -> str | None:
    if not (component := component_of(header)):
        return None
    (package,) = debian_packages([component], _RELEASE)
    pip = f"{pip_command([component], _ANY)} {_FITS}"
    return f"{header} is of the toolkit's {component}: {pip}, or apt-get install {package}"
