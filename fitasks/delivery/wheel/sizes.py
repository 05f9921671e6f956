"""What a wheel weighs, by kernel, family and architecture, beside FlashInfer's own packages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fitasks.delivery.wheel.wheel import Wheel

# Download sizes of FlashInfer's own ahead-of-time packages, as it publishes them (bytes).
_HOPPER = "sm90", 526_000_000
_ALL = "all architectures", 1_900_000_000


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
    official: dict[str, int]  # bytes of FlashInfer's own packages that have these architectures, by name

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": 1, **asdict(self)}


def report(wheel: Wheel) -> Report:
    """The sizes of a wheel."""
    lines = [
        (
            one.kernel.label,
            one.kernel.op,
            one.directory,
            one.size,
            wheel.compressed[f"{one.directory}/{one.kernel.name}"],
        )
        for one in wheel.kernels
    ]
    return Report(
        wheel.path.name,
        wheel.bytes,
        wheel.stripped,
        _by(lambda line: line[0], lines),
        _by(lambda line: line[1], lines),
        _by(lambda line: line[2], lines),
        _official(wheel),
    )


def _official(wheel: Wheel) -> dict[str, int]:
    """An sm80 wheel has nothing in common with the sm90 package."""
    hopper = all(one.directory in {"sm90", "sm90a"} for one in wheel.kernels)
    return dict([_HOPPER, _ALL] if hopper else [_ALL])


_Line = tuple[str, str, str, int, int]


def _by(name: Callable[[_Line], str], lines: Iterable[_Line]) -> tuple[Size, ...]:
    groups: dict[str, list[_Line]] = {}
    for line in lines:
        groups.setdefault(name(line), []).append(line)
    sizes = [
        Size(key, len(group), sum(line[3] for line in group), sum(line[4] for line in group))
        for key, group in groups.items()
    ]
    return tuple(sorted(sizes, key=lambda size: (-size.bytes, size.name)))
