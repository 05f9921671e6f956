"""`cudart:` in kernels.yaml: what is done where the server's libcudart doesn't fit the compiled kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.compile import receipt as receipts
from fitasks.cuda import patch as patches
from fitasks.cuda.audit import audit
from fitasks.cuda.gpus import driver_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.cuda.cudart import Runtime
    from fitasks.cuda.patch import Decision
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan


def failures(plan: Plan, runtime: Runtime) -> list[str]:
    """The audit's sentences: which compiled kernels the server's libcudart can't load, and why."""
    sentences = [audit_kernel(runtime, kernel) for kernel in plan.buildable()]
    return [sentence for sentence in sentences if sentence]


def audit_kernel(runtime: Runtime, kernel: Kernel) -> str:
    """Why this kernel won't load, by its receipt; "" if it will, or isn't compiled."""
    receipt = receipts.read(kernel)
    if receipt is None:
        return ""
    return audit(kernel.library.name, receipt.needed, receipt.undefined, runtime.loaded)


def decision(plan: Plan, runtime: Runtime, failed: Sequence[str]) -> Decision:
    """What `patch` would do, whatever kernels.yaml says; `failed` are the audit's sentences."""
    server = plan.server
    prefixes = [server.prefix, *server.site_packages]
    return patches.decide(runtime.loaded, runtime.toolkit, prefixes, failed)


def apply(plan: Plan, runtime: Runtime) -> list[str]:
    """Act by the policy; what there is to say, nothing where all fits.

    Raises KernelFailure where kernels won't load and the policy, or the environment, doesn't let us mend it.
    """
    failed, decided = _due(plan, runtime)
    if decided is None:
        return []
    if _mends(plan, decided):
        return [_patch(runtime, decided)]
    if not failed:
        return []  # `doit cudart` shows both; no kernel needs the newer one
    raise KernelFailure("\n".join(failed), remedy=decided.remedy or _remedy(decided))


def foretold(plan: Plan, runtime: Runtime) -> tuple[list[str], str]:
    """Which kernels the server's libcudart can't load and why, and what the policy does after the next build, or ""."""
    failed, decided = _due(plan, runtime)
    if decided is None:
        return failed, ""
    if _mends(plan, decided):
        return failed, _patch(runtime, decided, dry_run=True)
    return failed, (decided.remedy or _remedy(decided)) if failed else ""


def _due(plan: Plan, runtime: Runtime) -> tuple[list[str], Decision | None]:
    """The audit's sentences, and what could be done; None where the policy or a fitting library asks for nothing."""
    policy, failed = plan.config.cudart, failures(plan, runtime)
    if policy == "ignore" or (policy == "check" and not failed):
        return failed, None
    decided = decision(plan, runtime, failed)
    return failed, None if decided.action == "none" and not failed else decided


def _mends(plan: Plan, decided: Decision) -> bool:
    return plan.config.cudart == "patch" and decided.action == "patch"


def patch(plan: Plan, runtime: Runtime, *, dry_run: bool = False) -> str:
    """`doit patch_cudart`. Raises EnvironmentProblem where it isn't allowed or doesn't fit."""
    return _patch(runtime, decision(plan, runtime, failures(plan, runtime)), dry_run=dry_run)


def _patch(runtime: Runtime, decided: Decision, *, dry_run: bool = False) -> str:
    said = patches.patch(decided, dry_run=dry_run)
    driver = patches.driver_sentence(runtime.toolkit, driver_version())
    return f"{said}\n{driver}" if driver and "replace" in said else said


def restore(runtime: Runtime, *, dry_run: bool = False) -> str:
    """`doit restore_cudart`: every libcudart of the environment that we have replaced."""
    said = [
        patches.restore(Path(found.path), dry_run=dry_run)
        for found in runtime.found
        if patches.is_patched(Path(found.path))
    ]
    return "\n".join(said) or "nothing to restore: no libcudart of this environment was patched"


def _remedy(decided: Decision) -> str:
    if decided.action == "patch":
        return f"doit patch_cudart ({decided.reason}), or pip install a newer nvidia-cuda-runtime"
    return "pip install a newer nvidia-cuda-runtime, or compile with an older toolkit"
