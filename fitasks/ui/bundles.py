"""What `doit bundle` and `doit unbundle` did, in lines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fitasks.base.wording import counted
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.delivery.bundle.bundle import Bundled
    from fitasks.delivery.bundle.unbundle import Unbundled
    from fitasks.delivery.deliver import Delivered
    from fitasks.delivery.wheel.from_bundle import Repacked


_CACHES = {
    "flashinfer": "into FlashInfer's cache",
    "cute": "into FlashInfer's cache",
    "sglang": "into SGLang's cache",
    "sglang-keyed": "into SGLang's cache",
}
_WENT = {
    "store": "into the store, for the next doit to adopt",
    "kept": "there already",
    "left": "left in it",
}


def bundled_lines(done: Bundled, place: str = "") -> Iterator[str]:
    """Which kernels were left out and why, then the file, or the place that has got it."""
    for label, why in done.left_out:
        yield f"left out  kernel:{label}: {why}"
    files = counted(done.files, "file")
    yield f"{place or done.path}: {_kernels(len(done.kernels))}, {files}, {size(done.bytes)} in {size(done.size)}"
    if done.left_out:
        yield f"{_kernels(len(done.left_out))} left out"


def unbundled_lines(done: Unbundled, called: str = "") -> Iterator[str]:
    """Which paths differ, what was left in the bundle, which kernels are of no use as they are, how many went where."""
    for root in done.moved:
        yield f"path differs  {root}"
    for architecture, count in done.left.items():
        yield f"left in it  {_kernels(count)} for {architecture}, which is no target of kernels.yaml here"
    for arrival in done.arrivals:
        if arrival.note:
            yield f"{arrival.module}: {arrival.note}"
    places = (_WENT.get(arrival.went) or _CACHES[arrival.kind] for arrival in done.arrivals if arrival.usable)
    for place, count in Counter(places).items():
        yield f"{_kernels(count)} {place}"
    if done.unusable:
        command = f"doit unbundle --wheel {called or done.path}"
        package = f", or {command} makes a package that needs neither compiler nor these paths"
        packageable = any(arrival.kind == "flashinfer" for arrival in done.unusable)
        yield f"{_kernels(len(done.unusable))} of no use here as built: doit compiles{package if packageable else ''}"


def repacked_lines(made: Repacked) -> Iterator[str]:
    """The wheel, and how it gets into the serving environment: `doit install` would make another one, of the plan."""
    if made.left:
        yield f"left in it  {_kernels(made.left)} that no package can hold: doit unbundle"
    yield f"{made.wheel.path} ({size(made.wheel.bytes)})"
    if made.obstacle:
        yield f"not for this environment: {made.obstacle}"
    yield f"to install it: {made.python} -m pip install {made.wheel.path}"


def no_wheel_line(elsewhere: int) -> str:
    """That there is no wheel, where so many of the kernels are delivered in another way."""
    return f"nothing for a wheel{f': doit deliver lays out {_kernels(elsewhere)}' if elsewhere else ''}"


def delivered_lines(delivered: Sequence[Delivered], directory: str, needed: Sequence[str]) -> Iterator[str]:
    """How many kernels, where, and what a server needs to find them."""
    if not delivered:
        yield f"{directory}: laid out empty, for none of these kernels needs it; doit wheel has them"
        return
    yield f"{directory}: {_kernels(len(delivered))}, {size(sum(one.size for one in delivered))}"
    yield from (f"a server needs {variables}" for variables in needed)


def _kernels(count: int) -> str:
    return counted(count, "kernel")
