"""What compiling was measured to cost, file by file, on machines of ours: the first build's knowledge (measured.json).

CPU seconds and the largest compiler's memory, by the name of the source file, for one GPU architecture. Only seconds'
proportions count: another machine's are learnt with its first compile (costs.py). `bench/costs.py` makes the file.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

_FILE = Path(__file__).with_name("measured.json")
_NUMBER = re.compile(r"_\d+(?=\.\w+$)")  # of a file among its like: …_mask_0.cu to …_mask_3.cu


@dataclass(frozen=True)
class One:
    """CPU seconds of a file, and the bytes of its largest compiler."""

    seconds: float
    peak: int


@dataclass(frozen=True)
class Measured:
    """`further` is what each GPU architecture after the first takes, as a part of what one does."""

    files: dict[str, One]
    further: float = 0.0
    _alike: dict[str, list[One]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, one in self.files.items():
            self._alike.setdefault(_NUMBER.sub("", name), []).append(one)

    def of(self, name: str) -> One | None:
        """Return what is known of a source file, or of those that only a number tells from it; None for nothing."""
        if one := self.files.get(name):
            return one
        alike = self._alike.get(_NUMBER.sub("", name), ())
        return One(sum(one.seconds for one in alike) / len(alike), max(one.peak for one in alike)) if alike else None

    def times(self, architectures: int) -> float:
        """Return how often as long a file takes for so many as for one."""
        return 1 + self.further * max(0, architectures - 1)


@functools.cache
def measured() -> Measured:
    """Return what is shipped."""
    return parsed(_FILE.read_text(encoding="utf-8"))


def parsed(text: str) -> Measured:
    """Return what a file like measured.json says."""
    said = json.loads(text)
    files = {name: One(float(one["seconds"]), one["megabytes"] * 10**6) for name, one in said["files"].items()}
    return Measured(files, said["further"])
