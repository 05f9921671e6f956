"""The platform tag of a wheel: what its libraries ask of the machine that loads them.

pip compares the tag with the machine's glibc alone. The C++ runtime is of the machine as well, and a library that
asks for a newer one than it has fails to load; so its symbols count as the glibc of the distributions that have them.
"""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_OLDEST = (2, 17)

# Newest GLIBCXX and CXXABI of a glibc's distributions, as auditwheel's policies have them (manylinux-policy.json).
_RUNTIMES = (
    ((2, 17), (3, 4, 19), (1, 3, 7)),
    ((2, 24), (3, 4, 22), (1, 3, 10)),
    ((2, 28), (3, 4, 24), (1, 3, 11)),
    ((2, 31), (3, 4, 28), (1, 3, 12)),
    ((2, 34), (3, 4, 29), (1, 3, 13)),
    ((2, 35), (3, 4, 30), (1, 3, 13)),
    ((2, 39), (3, 4, 33), (1, 3, 15)),
)


def platform_tag(versions: Iterable[str]) -> str:
    """`manylinux_2_34_x86_64` for symbol versions such as "GLIBC_2.14" and "GLIBCXX_3.4.29".

    `linux_x86_64`, which pip takes on any Linux, where a version is newer than all that is known here.
    """
    machine = platform.machine()
    needed = [_glibc(version) for version in set(versions)]
    if None in needed:
        return f"linux_{machine}"
    major, minor = max((_OLDEST, *(found for found in needed if found)))
    return f"manylinux_{major}_{minor}_{machine}"


def _glibc(version: str) -> tuple[int, int] | None:
    """The glibc that stands for a symbol version; None where there is none."""
    found = re.fullmatch(r"(GLIBC|GLIBCXX|CXXABI)_([\d.]+)", version)
    if not found:
        return _OLDEST  # GCC_3.0, the CUDA libraries' own, CXXABI_TM_1
    wanted = tuple(map(int, found[2].split(".")))
    if found[1] == "GLIBC":
        return wanted[0], wanted[1]
    column = 1 if found[1] == "GLIBCXX" else 2
    return next((row[0] for row in _RUNTIMES if row[column] >= wanted), None)
