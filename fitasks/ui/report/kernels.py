"""What is known of kernels apart from the run: what lies on disk, from their receipts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.errors import FitasksError
from fitasks.compile import receipt as receipts
from fitasks.compile.judge import engine_receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fitasks.compile.judge.reasons import Judgement
    from fitasks.plan.kernel import Kernel


@dataclass(frozen=True)
class KernelInfo:
    """A planned kernel as it is now. `bytes` is 0 where nothing vouches for it."""

    label: str
    op: str
    target: str
    fresh: bool
    bytes: int = 0  # of the .so
    threads: int = 1  # of nvcc's optimiser, when it was compiled (`--split-compile`)


def kernels_on_disk(kernels: Iterable[Kernel], judge: Callable[[Kernel], Judgement]) -> tuple[KernelInfo, ...]:
    """Those that have a module of their own."""
    return tuple(_info(kernel, judge) for kernel in kernels if not kernel.problem and not kernel.twin)


def _info(kernel: Kernel, judge: Callable[[Kernel], Judgement]) -> KernelInfo:
    receipt = receipts.read(kernel)
    if receipt is None:  # what an engine builds in one go has one of another shape
        made = engine_receipt.read(kernel) if kernel.built_whole else None
        fresh = bool(made) and _usable(kernel, judge)
        return KernelInfo(kernel.label, kernel.op, kernel.target, fresh, made.size if made else 0)
    size = receipt.outputs[f"{kernel.name}.so"].size
    threads = receipt.notes.get("split_compile", 1)
    return KernelInfo(kernel.label, kernel.op, kernel.target, _usable(kernel, judge), size, threads)


def _usable(kernel: Kernel, judge: Callable[[Kernel], Judgement]) -> bool:
    """Whether nothing is to be compiled for it."""
    with contextlib.suppress(FitasksError, OSError):
        return judge(kernel).verdict != "stale"
    return False
