"""What compiling costs: learnt from every compile of this user; foretold for what was never compiled here.

Foretold is what our machines measured of such a file (measured.py), else what files of its family take. Either is
multiplied by this machine's pace as soon as one module has been compiled here.

Kept in one small file for all projects (`costs.json` under XDG_CACHE_HOME/fitasks), because receipts are spread over
many caches and each is large. Losing it costs a worse order of the next build, nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping  # noqa: TC003 - part of Cost, whose fields are looked at
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from filelock import FileLock, Timeout

from fitasks.base import memo
from fitasks.base.errors import BadInput
from fitasks.base.shape import fits
from fitasks.compile.pool.measured import Measured, measured
from fitasks.cuda.architecture import declared

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.kernel import Kernel

_VERSION = 2
_PATIENCE = 2.0  # seconds for somebody else to write the file; a cost that isn't remembered is no loss
_MOST = 1e15  # seconds, or bytes


class _Memo(TypedDict):
    version: int
    modules: dict[str, Any]  # each is looked at by itself


@dataclass(frozen=True)
class _Family:
    """What is thought of files that nobody measured, in modules with one of `words` in their name or sources.

    `seconds` are those of CPU by a word in the file's name, "" for any.
    `peak` is in bytes, of one compiler; `gain` what a file takes of its time where nvcc's optimiser has more threads.
    """

    words: tuple[str, ...]
    seconds: Mapping[str, float]
    peak: int = 1 << 30
    gain: float = 0.93

    def of(self, source: Path) -> float:
        return next(seconds for word, seconds in self.seconds.items() if word in source.name)


# Where measured.json has no such file. Measured with FlashInfer 0.7.2 for sm_90a, on 16 busy cores (largest compilers:
# page 0.46 GB, fa3 3.6 GB, cub_topk.cu 5.9 GB; split: sampling.cu 76 of 122 s, an fa3 file 81 of 87 s, page.cu 0.96 of
# its time with 2 threads); MoE as others report it. The first family counts. A file that is taken for a long one and
# isn't, or the other way round, costs little in the middle of a build and much at its end, which is why each kind of
# file is named.
_FAMILIES = (
    _Family(("moe", "cutlass", "gemm"), {"": 150.0}, 5 << 30),
    _Family(("sm90", "sm100"), {"kernel": 88.0, "": 62.0}, 4 << 30),
    _Family(("topk",), {"cub_topk": 610.0, "binding": 20.0, "": 140.0}, 6 << 30),
    _Family(("sampling",), {"renorm": 37.0, "binding": 15.0, "": 122.0}, gain=0.62),
    _Family(("rope", "norm"), {"binding": 17.0, "": 60.0}, gain=0.8),
    _Family(("prefill",), {"binding": 21.0, "kernel": 19.0, "": 12.0}),
    _Family(("decode",), {"": 12.0}),
    _Family(("",), {"binding": 7.0, "": 18.0}),
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
    peaks: Mapping[str, int] = field(default_factory=dict)  # bytes of the largest compiler of each
    gain: float = 1.0  # what a file takes of its time where nvcc's optimiser has several threads; only of a guess


# An older file may say less.
_LATER: dict[str, Any] = {"longest_file": "", "learnt": True, "files": {}, "peaks": {}, "gain": 1.0}


@dataclass
class Costs:
    """What is known, by module name and target. Use `of()`, and `learn()` after a compile."""

    file: Path
    _known: dict[str, Cost] = field(default_factory=dict)
    shipped: Measured = field(default_factory=measured)
    _pace: float = 0.0  # 0: to be found anew

    @classmethod
    def load(cls, file: Path) -> Costs:
        """What was learnt so far; a damaged file is an empty one."""
        costs = cls(file)
        costs._known = _read(file)
        return costs

    @classmethod
    def given(cls, file: Path) -> Costs:
        """What a file says that somebody named. Raises BadInput where it says nothing."""
        known = _read(file)
        if not known:
            what = "this file says of no module what it costs" if file.exists() else "there is no such file"
            remedy = (
                "name a copy of ~/.cache/fitasks/costs.json, which every compile adds to; the same on every machine"
            )
            raise BadInput(f"{file}: {what}", remedy=remedy)
        return cls(file, known)

    def of(self, kernel: Kernel) -> Cost:
        """What compiling this kernel will cost; the same module of another target or version is a good guess."""
        return self._known.get(_key(kernel)) or self._known.get(kernel.name) or self._guess(kernel)

    def files(self, kernel: Kernel) -> Mapping[str, float]:
        """CPU seconds of each of its files, by the source's name; guessed where other files than these are known."""
        known = self.of(kernel).files
        return known if set(known) == {source.name for source in kernel.sources} else self._guess(kernel).files

    def _guess(self, kernel: Kernel) -> Cost:
        return guess(kernel, self.shipped, self.pace)

    @property
    def pace(self) -> float:
        """Seconds that this machine takes for what is measured as one; 1.0 as long as nothing was compiled here."""
        if not self._pace:
            self._pace = _pace(self._known, self.shipped)
        return self._pace

    def learn(self, kernel: Kernel, cost: Cost) -> None:
        """Remember; merged with what other processes have learnt meanwhile. Trouble with the file is ignored."""
        self._known |= {_key(kernel): cost, kernel.name: cost}
        self._pace = 0.0
        with contextlib.suppress(OSError, Timeout):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.file.with_suffix(".lock"), timeout=_PATIENCE):
                merged = _read(self.file) | {_key(kernel): cost, kernel.name: cost}
                modules = {name: asdict(known) for name, known in merged.items()}
                memo.keep(self.file, {"version": _VERSION, "modules": modules})


def guess(kernel: Kernel, shipped: Measured | None = None, pace: float = 1.0) -> Cost:
    """What such files took elsewhere, else from family and names; more than one architecture in each file's commands.

    Memory is never foretold as less than the family's, on which the number of compilers at once has always rested.
    """
    words = kernel.name.lower() + " ".join(source.name for source in kernel.sources).lower()
    family = next(family for family in _FAMILIES if any(word in words for word in family.words))
    shipped = shipped or measured()
    known = {one.name: shipped.of(one.name) for one in kernel.sources}
    each = pace * shipped.times(len(declared(kernel.ninja)))
    files = {one.name: each * (of.seconds if (of := known[one.name]) else family.of(one)) for one in kernel.sources}
    peak = max([family.peak, *(one.peak for one in known.values() if one)])
    longest = max(files, key=lambda name: files[name], default="")
    seconds = sum(files.values()), files.get(longest, 0.0)
    return Cost(*seconds, peak, longest, learnt=False, files=files, gain=family.gain)


def _pace(known: Mapping[str, Cost], shipped: Measured) -> float:
    """The median over files that were compiled for a single architecture: commands of others aren't known here."""
    ratios = sorted(
        seconds / there.seconds
        for key, cost in known.items()
        if key.count(" ") == 1
        for name, seconds in cost.files.items()
        if seconds and (there := shipped.files.get(name))
    )
    return ratios[len(ratios) // 2] if ratios else 1.0


def _key(kernel: Kernel) -> str:
    return f"{kernel.name} {kernel.target}"


def _read(file: Path) -> dict[str, Cost]:
    said = memo.read(file, _Memo, unsealed=True)  # what was learnt is worth more than a seal
    if said is None or said["version"] != _VERSION:
        return {}
    return {name: cost for name, written in said["modules"].items() if (cost := _cost(written))}


def _cost(written: Any) -> Cost | None:
    """One entry; None for one that isn't as we write it, whoever did."""
    if not isinstance(written, dict) or not fits(whole := _LATER | written, Cost):
        return None
    cost = Cost(**whole)
    numbers = (cost.cpu_seconds, cost.longest, cost.peak_rss, cost.gain, *cost.files.values(), *cost.peaks.values())
    return cost if all(0 <= number < _MOST for number in numbers) else None
