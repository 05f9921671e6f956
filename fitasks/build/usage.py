"""What the running compilers use, read from /proc."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Commands that ninjas run at this moment, and the resident memory (bytes) of all processes below them."""

    compilers: int = 0
    memory: int = 0


def usage(sessions: Collection[int]) -> Usage:
    """Of sessions that are each led by a ninja; what ends meanwhile isn't counted."""
    compilers = memory = 0
    for name in os.listdir("/proc") if sessions else ():  # noqa: PTH208 - names only
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123 - hundreds of tiny files
                    fields = stream.read().rpartition(b")")[2].split()
                if int(fields[3]) in sessions:
                    compilers += int(fields[1]) in sessions and fields[0] != b"Z"
                    memory += int(fields[21]) * _PAGE
    return Usage(compilers, memory)
