"""What may leave this machine: complete kernels, each proven by its receipt, with the machine code that they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fitasks.base.errors import KernelFailure
from fitasks.compile import receipt as receipts
from fitasks.delivery.machine_code import audited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from fitasks.plan.target import Target

_Made = TypeVar("_Made")
_WAY = "doit bundle, or doit deliver for an image"

_KEYED = {  # what is found only where the same things are again
    "cute": "under a key of this environment's packages and paths",
    "sglang-keyed": "under a key of packages and of what its compilers say",
}


@dataclass(frozen=True)
class Complete:
    """A finished kernel.

    `library`, with its SHA-256 (hex) and bytes, is the file that travels: first the one that the receipt vouches for.
    """

    kernel: Kernel
    receipt: Receipt
    target: Target
    architectures: tuple[str, ...]  # of its machine code, as FlashInfer writes them: "sm90a"
    library: Path
    sha256: str
    size: int

    @property
    def directory(self) -> str:
        """Where packages have it: a name for its target's whole architecture set, "sm90a", "sm80-sm90a"."""
        return self.target.directory


def collect(plan: Plan, judges: Mapping[str, Judge], names: Sequence[str] = ()) -> tuple[Complete, ...]:
    """The named kernels, or every planned one in the plan's order; none where no package can hold any.

    Raises KernelFailure that names all that aren't complete. What no package can hold isn't among them, see `left_out`
    and `unpackaged`.
    Judged anew: they may have been built in this very run. Wrong timestamps do not matter here.
    """
    refuse_nothing(plan, names)
    today = {target: judge.refreshed() for target, judge in judges.items()}
    chosen = [kernel for kernel in plan.chosen(names) if not kernel.unfit and kernel.packageable]
    return collected(chosen, lambda kernel: _complete(kernel, today[kernel.target], plan.targets[kernel.target]))


def refuse_nothing(plan: Plan, names: Sequence[str]) -> None:
    """Raise KernelFailure where no kernel is planned: whoever asks to deliver some has forgotten them."""
    if not plan.chosen(names):
        raise KernelFailure("there are no kernels to deliver", remedy="name some in kernels.yaml")


def collected(kernels: Iterable[Kernel], make: Callable[[Kernel], _Made]) -> tuple[_Made, ...]:
    """What `make` makes of each. Raises one KernelFailure that names all kernels of which it raises one."""
    found, refused = [], []
    for kernel in kernels:
        try:
            found.append(make(kernel))
        except KernelFailure as error:
            refused.append(KernelFailure(f"  kernel:{kernel.label}: {error.message}", remedy=error.remedy))
    if refused:
        lines = "\n".join(error.message for error in refused)
        raise KernelFailure(f"nothing is delivered, because of\n{lines}", remedy=refused[0].remedy)
    return tuple(found)


def left_out(plan: Plan, names: Sequence[str] = ()) -> tuple[str, ...]:
    """A sentence for each of these kernels that nobody has: no GPU of its target runs it."""
    return _said((kernel.label, kernel.problem) for kernel in plan.chosen(names) if kernel.unfit)


def unpackaged(plan: Plan, names: Sequence[str] = ()) -> tuple[str, ...]:
    """A sentence for each of these kernels that no package has, since its engine wouldn't look there."""
    kernels = [kernel for kernel in plan.chosen(names) if not kernel.packageable and not kernel.problem]
    return _said((kernel.label, _alone(kernel)) for kernel in kernels)


def _alone(kernel: Kernel) -> str:
    engine = "FlashInfer" if kernel.kind == "cute" else "SGLang"
    place = kernel.build_dir.parents[2 if kernel.kind == "sglang-keyed" else 0]
    under = f", {_KEYED[kernel.kind]}" if kernel.built_whole else ""
    return f"{engine} loads it from {place} alone{under}; {_WAY}"


def _said(reasons: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"left out: kernel:{label}: {why}" for label, why in dict(reasons).items())


def _complete(kernel: Kernel, judge: Judge, target: Target) -> Complete:
    """The kernel with what it holds. Raises KernelFailure for one that isn't complete, or isn't what it should be."""
    if kernel.problem:
        raise KernelFailure(kernel.problem, remedy="correct kernels.yaml")
    judged, receipt = judge.judge(kernel), receipts.read(kernel)
    if judged.verdict == "stale" or receipt is None:
        raise KernelFailure(str(judged.reasons[0]), remedy="doit")
    return complete(kernel, receipt, target)


def complete(kernel: Kernel, receipt: Receipt, target: Target) -> Complete:
    """The kernel with its machine code. Raises KernelFailure where that isn't what its build asked for."""
    found = audited(kernel, target.gpus, receipt.toolchain.get("nvcc", ""))
    output = receipt.outputs[kernel.library.name]
    return Complete(kernel, receipt, target, found, kernel.library, output.sha256, output.size)
