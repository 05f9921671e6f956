"""What the running compilers use, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.processes.watchdog import processes

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
    memory = 0
    children = dict.fromkeys(sessions, 0)
    for _, fields in processes() if sessions else ():
        if int(fields[3]) in sessions:
            if fields[0] != b"Z" and (parent := int(fields[1])) in children:
                children[parent] += 1
            memory += int(fields[21]) * _PAGE
    return Usage(sum(children.values()), memory)
