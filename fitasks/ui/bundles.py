"""What `doit bundle` and `doit unbundle` did, in lines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.ship.bundle import Bundled
    from fitasks.ship.unbundle import Unbundled

_WENT = {
    "cache": "into FlashInfer's cache",
    "store": "into the store, for the next doit to adopt",
    "kept": "there already",
}


def bundled_lines(done: Bundled) -> Iterator[str]:
    """Which kernels were left out and why, then the file."""
    for label, why in done.left_out:
        yield f"left out  kernel:{label}: {why}"
    yield f"{done.path}: {len(done.kernels)} kernels, {done.files} files, {size(done.bytes)} in {size(done.size)}"


def unbundled_lines(done: Unbundled) -> Iterator[str]:
    """Which paths differ, which kernels are of no use as they are, then how many went where."""
    for root in done.moved:
        yield f"path differs  {root}"
    for arrival in done.arrivals:
        if arrival.note:
            yield f"{arrival.module}: {arrival.note}"
    for went, count in Counter(arrival.went for arrival in done.arrivals).items():
        yield f"{count} kernels {_WENT[went]}"
