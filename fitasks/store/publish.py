"""`doit push`: kernels of the cache that are fresh, into every store elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.compile import receipt as receipts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitasks.plan.kernel import Kernel
    from fitasks.store.remote.remote import Remote

_AT_ONCE = 8  # kernels; each sends its files at once


@dataclass(frozen=True)
class Published:
    """What became of the kernels in one store: labels of those sent, of those that it had, and of those it lacks."""

    url: str
    sent: tuple[str, ...]
    had: tuple[str, ...]
    lacking: tuple[str, ...]
    bytes: int


def publish(remotes: Iterable[Remote], kernels: Sequence[Kernel]) -> list[Published]:
    """Put kernels into each store. What goes wrong is said by the store."""
    return [_into(remote, kernels) for remote in remotes]


def _into(remote: Remote, kernels: Sequence[Kernel]) -> Published:
    def share(kernel: Kernel) -> int | None:
        receipt = receipts.read(kernel)
        return remote.share(kernel.build_dir, receipt) if receipt else None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sent = dict(zip((kernel.label for kernel in kernels), pool.map(share, kernels), strict=True))
    return Published(
        remote.url,
        tuple(label for label, count in sent.items() if count),
        tuple(label for label, count in sent.items() if count == 0),
        tuple(label for label, count in sent.items() if count is None),
        sum(filter(None, sent.values())),
    )
