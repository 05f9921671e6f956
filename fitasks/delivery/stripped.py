"""Libraries as they travel: without the symbol tables that only linkers and debuggers read.

nvcc names temporary files after its process, and these names are local symbols: two compiles of the same kernel differ
in `.symtab` and `.strtab` and nowhere else (measured: page; stripped they are equal, and 11 % smaller). What the
dynamic loader reads, and machine code for GPUs, is kept. The receipt vouches for the library as it was built; what is
packed is made from a copy of which that has been proven.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.base.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from fitasks.delivery.collect import Complete


def find_strip(env: Mapping[str, str]) -> str:
    """binutils' strip, which is there wherever a linker is; "" where it isn't."""
    return shutil.which("strip", path=env.get("PATH")) or ""


def packed(kernels: Iterable[Complete], directory: Path, strip: str) -> tuple[Complete, ...]:
    """The kernels with the libraries that travel, in `directory`; as they were built where `strip` is "".

    Raises KernelFailure for a library that is not what its receipt says, or that can't be stripped.
    """
    return tuple(_packed(one, directory / one.directory, strip) for one in kernels)


def _packed(one: Complete, directory: Path, strip: str) -> Complete:
    directory.mkdir(exist_ok=True)
    copy = directory / one.library.name
    shutil.copyfile(one.library, copy)
    if sha256_file(copy) != one.sha256:
        raise KernelFailure(f"{one.library} changed while it was read, or isn't what was built", remedy="doit")
    if strip:
        _strip(strip, copy)
    return replace(one, library=copy, sha256=sha256_file(copy), size=copy.stat().st_size)


def _strip(strip: str, library: Path) -> None:
    command = [strip, "--strip-unneeded", str(library)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise KernelFailure(f"{' '.join(command)} failed: {done.stdout.strip()}")
