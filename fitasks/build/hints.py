"""What to do about well-known failures: a sentence with the command that mends it."""

from __future__ import annotations

import re

from fitasks.cuda.components import component_of, debian_packages, pip_command

_RELEASE = "13.0"  # that the names of Debian packages are given for
_HEADER = re.compile(r"fatal error: (?P<header>[\w./-]+\.(?:h|hpp|cuh)): No such file")
_ONE_RELEASE = f"must be of one release, e.g. {pip_command(())}"
# What begins with a word of any length is looked for where words begin: from each letter on it would take n² steps.
_HINTS = [
    (r"Unsupported gpu architecture '(\S+)'", "this nvcc doesn't know {0}: correct targets, or use a newer toolkit"),
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
        "the toolkit has no libcuda stub: pip install 'fitasks[cuda13]', or apt-get install cuda-driver-dev-13-0",
    ),
    (
        r"cannot find -lcudart\b",
        "the toolkit's lib64 has no libcudart.so: pip install 'fitasks[cuda13]', or cuda-cudart-dev",
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
    "timeout": "give it more time with `timeout:` in kernels.yaml (0 is none)",
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
    return f"{header} is of the toolkit's {component}: {pip_command([component])}, or apt-get install {package}"
