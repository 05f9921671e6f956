"""A kernel that was compiled where this server never looks: in another cache, for other GPUs or another version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.plan.caches import CACHED_OPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fitasks.plan.kernel import Kernel


def elsewhere(kernel: Kernel, bases: Iterable[Path]) -> str:
    """Where the same module lies and why the server won't find it there; "" if it lies nowhere.

    Of several the nearest: what differs in the place alone is rather what is missed than one of another version.
    """
    if kernel.kind != "flashinfer":
        return ""
    ours = kernel.workspace
    found = [place for base in bases for place in _places(kernel, base) if place != ours]
    if not found:
        return ""
    place = min(found, key=lambda place: _distance(place, ours))
    return f"compiled in {place}, where this server never looks ({_difference(place, ours)})"


def _places(kernel: Kernel, base: Path) -> Iterator[Path]:
    """The workspaces `<base>/<version>/<arch>` that have the module."""
    for library in sorted(base.glob(f"*/*/{CACHED_OPS}/{kernel.name}/{kernel.name}.so")):
        yield library.parents[2]


def _distance(place: Path, ours: Path) -> tuple[bool, bool, bool]:
    """Whether it is of another version, of another architecture set, in another cache: the gravest first."""
    return place.parent.name != ours.parent.name, place.name != ours.name, place.parent.parent != ours.parent.parent


def _difference(place: Path, ours: Path) -> str:
    """All in which the two workspaces differ."""
    version, arch, base = _distance(place, ours)
    told = [f"its cache is {ours.parent.parent}"] if base else []
    told += [f"its FlashInfer is {ours.parent.name}, not {place.parent.name}"] if version else []
    told += [f"its architecture set is {ours.name}, not {place.name}"] if arch else []
    return ", ".join(told)
