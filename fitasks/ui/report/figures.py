"""What a run comes to: how busy the slots were, how long it had to take at least, how large the kernels are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.ui.report.kernels import KernelInfo
    from fitasks.ui.report.lanes import FileSpan
    from fitasks.ui.report.model import KernelRun, RecordedRun


@dataclass(frozen=True)
class Utilisation:
    """Of the time between the first compiler's start and the last one's end; seconds."""

    wall: float
    busy: float  # of all slots together
    cpu_seconds: float  # of all compilers, as far as they are known
    longest: FileSpan
    slots: int
    most: int  # slots at once

    @property
    def mean(self) -> float:
        """Slots in use at once."""
        return self.busy / self.wall if self.wall else float(self.most)

    @property
    def even(self) -> float:
        """The bound that no order beats: the CPU seconds, spread evenly over the slots."""
        return self.cpu_seconds / max(1, self.slots)

    @property
    def bound(self) -> float:
        """The larger of the two bounds."""
        return max(self.even, self.longest.seconds)


def utilisation(run: RecordedRun) -> Utilisation | None:
    """None where nothing was compiled."""
    if not (spans := run.spans):
        return None
    wall = max(span.end for span in spans) - min(span.begin for span in spans)
    cpu_seconds = sum(kernel.cpu_seconds for kernel in run.kernels if kernel.worked or kernel.outcome == "compiled")
    longest = max(spans, key=lambda span: span.seconds)
    most = max(max(span.lanes) for span in spans) + 1
    return Utilisation(
        wall, sum(span.seconds * len(span.lanes) for span in spans), cpu_seconds, longest, run.slots, most
    )


@dataclass(frozen=True)
class Sized:
    """A kernel, or a family of them, and the bytes of its libraries."""

    name: str
    bytes: int
    kernels: int = 1


def kernel_sizes(run: RecordedRun, infos: Iterable[KernelInfo]) -> list[Sized]:
    """Largest first: as they lie on disk, and as the run left those that the plan no longer knows."""
    sizes = {kernel.label: kernel.bytes for kernel in run.kernels} | {info.label: info.bytes for info in infos}
    found = [Sized(label, size) for label, size in sizes.items() if size]
    return sorted(found, key=lambda one: (-one.bytes, one.name))


def family_sizes(run: RecordedRun, infos: Iterable[KernelInfo]) -> list[Sized]:
    """The same by op, largest first; a kernel whose op nobody knows stands for itself."""
    infos = tuple(infos)
    ops = {kernel.label: kernel.op for kernel in run.kernels if kernel.op} | {info.label: info.op for info in infos}
    families: dict[str, list[Sized]] = {}
    for one in kernel_sizes(run, infos):
        families.setdefault(ops.get(one.name, one.name), []).append(one)
    found = [Sized(op, sum(one.bytes for one in group), len(group)) for op, group in families.items()]
    return sorted(found, key=lambda one: (-one.bytes, one.name))


def short_names(kernel: KernelRun) -> dict[str, str]:
    """What tells it from the kernel's other files: csrc_renorm.cuda.o is renorm beside csrc_sampling.cuda.o."""
    stems = {span.output: span.output.removesuffix(".o").removesuffix(".cuda") for span in kernel.spans}
    objects = [stem for output, stem in stems.items() if not output.endswith(".so")]
    cut = _common(objects) if len(objects) > 1 else 0
    return {output: "link" if output.endswith(".so") else stem[cut:] for output, stem in stems.items()}


def _common(stems: list[str]) -> int:
    """How much of the names is the same, up to an underscore, and leaves each with a letter: mask_0, not 0."""
    cut = os.path.commonprefix(stems).rfind("_") + 1  # noqa: RUF071 - of names, letter by letter
    while cut and not all(any(map(str.isalpha, stem[cut:])) for stem in stems):
        cut = stems[0].rfind("_", 0, cut - 1) + 1
    return cut
