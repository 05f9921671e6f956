"""What a wheel weighs, by kernel, family and architecture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitasks.delivery.collect import Complete
    from fitasks.delivery.wheel.wheel import Wheel


@dataclass(frozen=True)
class Size:
    """Bytes of a kernel, or of several: installed, and in the wheel."""

    name: str
    kernels: int
    bytes: int
    compressed: int


@dataclass(frozen=True)
class Report:
    """All sizes, largest first. `wheel` is the whole file: kernels, receipts, licences."""

    file: str
    wheel: int
    stripped: bool
    kernels: tuple[Size, ...]
    families: tuple[Size, ...]  # by op
    architectures: tuple[Size, ...]

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": 2, **asdict(self)}


def report(wheel: Wheel | None) -> Report:
    """The sizes of a wheel; of none, nothing."""
    if wheel is None:
        return Report("", 0, stripped=True, kernels=(), families=(), architectures=())
    return Report(
        wheel.path.name,
        wheel.bytes,
        wheel.stripped,
        _by(lambda one: one.kernel.label, wheel),
        _by(lambda one: one.kernel.op, wheel),
        _by(lambda one: one.directory, wheel),
    )


def _by(name: Callable[[Complete], str], wheel: Wheel) -> tuple[Size, ...]:
    groups: dict[str, list[Complete]] = {}
    for one in wheel.kernels:
        groups.setdefault(name(one), []).append(one)
    sizes = [_size(key, group, wheel) for key, group in groups.items()]
    return tuple(sorted(sizes, key=lambda size: (-size.bytes, size.name)))


def _size(name: str, kernels: Sequence[Complete], wheel: Wheel) -> Size:
    compressed = (wheel.compressed[f"{one.directory}/{one.kernel.name}"] for one in kernels)
    return Size(name, len(kernels), sum(one.size for one in kernels), sum(compressed))
