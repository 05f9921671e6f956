"""Kernels whose contents are right and whose timestamps are not: put right before they leave, and when they arrive."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.compile import receipt as receipts
from fitasks.compile.heal import NotHealed, heal

if TYPE_CHECKING:
    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.plan.kernel import Kernel


def put_right(kernel: Kernel, judge: Judge, ninja: Ninja) -> str:
    """Why a build would compile this kernel; "" if it wouldn't, for which timestamps may be put right.

    Called under the module's lock; looks at every file anew.
    """
    judge = judge.refreshed()
    judged, receipt = judge.judge(kernel), receipts.read(kernel)
    if judged.verdict == "stale" or receipt is None:
        return str(judged)
    if judged.verdict != "heal":
        return ""  # to look again is about this machine's libcudart
    try:
        healed = heal(kernel, receipt, judge.roots, ninja)
        receipts.write(kernel, replace(healed, stamp=judge.stamp))
    except NotHealed as error:
        return f"ninja would compile: {error}"
    except OSError as error:
        return f"{judged}, which can't be put right: {error.strerror or error}"
    return ""
