"""What compiling costs: learnt from every compile of this user, with first guesses for what was never compiled.

Kept in one small file for all projects (`costs.json` under XDG_CACHE_HOME/fitasks), because receipts are spread over
many caches and each is large. Losing it costs a worse order of the next build, nothing else.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from fitasks.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fitasks.plan.kernel import Kernel

_VERSION = 1

# By family: seconds of the longest file, seconds of a mean one, bytes of one compiler, and what a file takes of its
# time where nvcc's optimiser has 4 threads. Measured with FlashInfer 0.7.2 for sm_90a (page 20 s and 0.46 GB, fa3 85 s
# and 3.6 GB, sampling.cu 122 s, rope.cu 59 to 77 s, cub_topk.cu 609 s and 5.9 GB; split: sampling.cu 76 s, an fa3 file
# 81 instead of 87 s, page.cu 0.96 of its time with 2 threads); MoE as others report it. The first family counts whose
# word is in the module's name or sources.
_FAMILIES = (
    (("moe", "cutlass", "gemm"), 200.0, 150.0, 5 << 30, 0.93),
    (("sm90", "sm100"), 90.0, 85.0, 4 << 30, 0.93),
    (("topk",), 610.0, 230.0, 6 << 30, 0.93),
    (("sampling",), 122.0, 65.0, 1 << 30, 0.62),
    (("rope", "norm"), 62.0, 40.0, 1 << 30, 0.8),
    (("prefill",), 23.0, 19.0, 1 << 30, 0.93),
    ((), 20.0, 15.0, 1 << 30, 0.93),
)


@dataclass(frozen=True)
class Cost:
    """Of one module: the whole tree's CPU seconds, the longest file's seconds, the largest compiler's bytes."""

    cpu_seconds: float
    longest: float
    peak_rss: int
    longest_file: str = ""
    learnt: bool = True
    files: Mapping[str, float] = field(default_factory=dict)  # CPU seconds of each, by the source file's name
    gain: float = 1.0  # what a file takes of its time where nvcc's optimiser has several threads; only of a guess


@dataclass
class Costs:
    """What is known, by module name and target. Use `of()`, and `learn()` after a compile."""

    file: Path
    _known: dict[str, Cost] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> Costs:
        """What was learnt so far; a damaged file is an empty one."""
        costs = cls(file)
        costs._known = _read(file)
        return costs

    def of(self, kernel: Kernel) -> Cost:
        """What compiling this kernel will cost; the same module of another target or version is a good guess."""
        return self._known.get(_key(kernel)) or self._known.get(kernel.name) or guess(kernel)

    def files(self, kernel: Kernel) -> dict[str, float]:
        """CPU seconds of each of its files, by the source's name; not learnt, the largest source takes longest."""
        cost, sources = self.of(kernel), kernel.sources
        if {source.name for source in sources} == set(cost.files):
            return dict(cost.files)
        rest = max(0.0, cost.cpu_seconds - cost.longest) / max(1, len(sources) - 1)
        largest = max(sources, key=_size, default=None)
        longest = min(cost.longest, cost.cpu_seconds)
        return {source.name: longest if source == largest else rest for source in sources}

    def learn(self, kernel: Kernel, cost: Cost) -> None:
        """Remember; merged with what other processes have learnt meanwhile. Trouble with the file is ignored."""
        self._known |= {_key(kernel): cost, kernel.name: cost}
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.file.with_suffix(".lock")):
                merged = _read(self.file) | {_key(kernel): cost, kernel.name: cost}
                modules = {name: asdict(known) for name, known in merged.items()}
                write_atomic(self.file, json.dumps({"version": _VERSION, "modules": modules}, indent=1))


def guess(kernel: Kernel) -> Cost:
    """From number and family of the sources."""
    words = kernel.name.lower() + " ".join(source.name for source in kernel.sources).lower()
    for family, longest, mean, peak, gain in _FAMILIES:
        if not family or any(word in words for word in family):
            return Cost(mean * len(kernel.sources), longest, peak, learnt=False, gain=gain)
    raise AssertionError("the last family takes everything")


def _size(source: Path) -> int:
    """In bytes; what FlashInfer generates when asked may not be there yet."""
    try:
        return source.stat().st_size
    except OSError:
        return 0


def _key(kernel: Kernel) -> str:
    return f"{kernel.name} {kernel.target}"


def _read(file: Path) -> dict[str, Cost]:
    try:
        data = json.loads(file.read_bytes())
        if data["version"] != _VERSION:
            return {}
        return {name: Cost(**cost | {"files": _by_name(cost)}) for name, cost in data["modules"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _by_name(cost: dict[str, Any]) -> dict[str, float]:
    """Earlier versions knew the files' seconds without their names."""
    files = cost.get("files")
    return files if isinstance(files, dict) else {}
