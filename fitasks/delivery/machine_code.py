"""The machine code of a kernel against what its build said it would make.

FlashInfer believes what a provider declares: code for another GPU would be loaded and fail at its first launch, and
PTX would be compiled by the driver, which is just what ahead-of-time modules are to avoid.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.cuda import architecture
from fitasks.cuda.elf import machine_code_architectures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.plan.kernel import Kernel

_WITH_SUFFIX = 13  # CUDA release whose machine code says "sm_90a"; earlier ones are taken to say "sm_90"


def audited(kernel: Kernel, targets: tuple[str, ...], nvcc: str) -> tuple[str, ...]:
    """The architectures of a kernel's machine code ("sm90a"). Raises KernelFailure that says what is wrong with it.

    `targets` are the GPUs that it is planned for, `nvcc` the compiler's build ("V13.0.88"). A module without any
    code for GPUs (launchers of code that FlashInfer downloads) is for all its targets.
    """
    real = machine_code_architectures(kernel.library)
    if ptx := [code for code in real if code.startswith("ptx_")]:
        raise _refused(f"it holds PTX ({_listed(ptx)}), which the driver would compile while the server starts")
    if not real:
        return targets
    declared = architecture.declared(kernel.ninja)
    if _comparable(real, nvcc) != _comparable(declared, nvcc):
        raise _refused(
            f"it holds machine code for {_listed(real)}, but its build says {_listed(declared) or 'nothing'}"
        )
    found = tuple(map(architecture.gpu_of, declared))
    if other := [code for code in found if not any(architecture.runs_on(code, target) for target in targets)]:
        raise _refused(f"it holds machine code for {_listed(other)}, and is planned for {_listed(targets)}")
    return found


def _refused(sentence: str) -> KernelFailure:
    return KernelFailure(sentence, remedy="leave it out of kernels.yaml; a server compiles it when it needs it")


def _comparable(codes: Iterable[str], nvcc: str) -> set[str]:
    release = re.match(r"V?(\d+)", nvcc)
    if release and int(release[1]) >= _WITH_SUFFIX:
        return set(codes)
    return {code.rstrip("af") for code in codes}


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(codes)
