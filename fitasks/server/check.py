"""What a server will do with each kernel: predicted in its own environment, asked of its own tools, nothing loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fitasks.server import cute, flashinfer, keyed, sglang
from fitasks.server.place import place_of
from fitasks.server.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitasks.plan.kernel import Kernel, Kind
    from fitasks.server.knowledge import Knowledge
    from fitasks.server.place import Place

_BY_KIND: dict[Kind, Callable[[Knowledge, Kernel, Place], Verdict]] = {
    "flashinfer": flashinfer.predict,
    "sglang": sglang.predict,
    "sglang-keyed": keyed.predict,
    "cute": cute.predict,
}


def check(known: Knowledge, names: Sequence[str] = ()) -> list[Verdict]:
    """The verdict on each kernel of these names, or on every planned one in the plan's order.

    Raises EnvironmentProblem for a user that this machine doesn't know.
    """
    kernels = known.plan.chosen(names)
    workers = 4  # each asks one ninja process
    with place_of(known.plan.config) as place, ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda kernel: predict(known, kernel, place), kernels))


def predict(known: Knowledge, kernel: Kernel, place: Place) -> Verdict:
    """What a server that has the lines of `doit env` in its environment will do with this kernel."""
    try:
        return _BY_KIND[kernel.kind](known, kernel, place)
    except OSError as error:  # a directory in a file's place, or what we may not even look at
        reason = f"{error.filename or kernel.build_dir}: {error.strerror or error}"
        return Verdict(kernel.label, kernel.name, kernel.target, "unknown", reason, kind=kernel.kind)
