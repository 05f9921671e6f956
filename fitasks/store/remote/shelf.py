"""What is in a store elsewhere, and what may go: asked by `doit store` and `doit gc --remote` alone, which list.

A kernel's last use is the later of two times by the store's clock: when it was put there, and when somebody who may
write there took it (push.py notes that once a day). Machines that may only read leave no trace.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.errors import FitasksError
from fitasks.store.remote import layout
from fitasks.store.remote.fetch import together
from fitasks.store.remote.manifest import believed, files, signed_by
from fitasks.store.remote.push import DAY
from fitasks.store.remote.trouble import Missing, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.compile.receipt import Receipt
    from fitasks.store.remote.fetch import Reader
    from fitasks.store.remote.objects import Meta


@dataclass(frozen=True)
class Shelved:
    """A kernel in a store. `receipt` is None where its manifest isn't believed; `files` are the names of objects."""

    fingerprint: str
    receipt: Receipt | None
    files: tuple[str, ...]
    bytes: int
    used: float  # Unix seconds
    signed: str = ""  # public key that it names


@dataclass(frozen=True)
class Shelf:
    """All of a store: kernels, least recently used first; every file; and notes of use."""

    kernels: tuple[Shelved, ...]
    files: dict[str, Meta]
    uses: dict[str, Meta]

    @property
    def bytes(self) -> int:
        """Of all files, also of those that no kernel names."""
        return sum(one.size for one in self.files.values())

    @property
    def loose(self) -> int:
        """Bytes of files that no kernel names."""
        named = {name for one in self.kernels for name in one.files}
        return sum(one.size for name, one in self.files.items() if name not in named)


@dataclass(frozen=True)
class Removed:
    """What went, and what is left."""

    kernels: int
    bytes: int
    left: int
    left_bytes: int


async def shelf(reader: Reader) -> Shelf:
    """Return what is in a store. Raises Off."""
    kinds = (layout.KERNELS, layout.FILES, layout.USED)
    manifests, kept, uses = [await _listed(reader, kind) for kind in kinds]
    texts = await reader.manifests_of(manifests)
    kernels = [_shelved(name, data, manifests[name], uses.get(name), kept) for name, data in texts]
    return Shelf(tuple(sorted(kernels, key=lambda one: one.used)), kept, uses)


async def _listed(reader: Reader, kind: str) -> dict[str, Meta]:
    """Return the objects of a kind by their names; what has no such name isn't ours."""

    async def collect() -> dict[str, Meta]:
        found = {}
        try:
            async for one in reader.objects.list(f"v1/{kind}/"):
                reader.breaker.moved(1 << 20)
                name = one.path.rpartition("/")[2]
                if layout.is_hash(name) and one.path == layout.at(kind, name):
                    found[name] = one
        except Missing:
            return {}
        return found

    return await reader.breaker.guard(collect())


def _shelved(name: str, data: bytes, written: Meta, use: Meta | None, kept: dict[str, Meta]) -> Shelved:
    used = max(written.modified, use.modified if use else 0.0)
    try:
        receipt = believed(data, name, ())
    except (Refused, FitasksError):
        return Shelved(name, None, (), 0, used)
    named = tuple(dict.fromkeys(one.sha256 for one in files(receipt).values()))
    size = sum(kept[one].size for one in named if one in kept)
    return Shelved(name, receipt, named, size, used, signed_by(data))


def chosen(there: Shelf, limit: int, days: float, now: float) -> list[Shelved]:
    """Return the kernels that go: least recently used first, until at most `limit` bytes are left.

    What was used within the last `days`, and within a day at least, stays whatever the limit. What can't be taken, as
    its manifest isn't believed or a file lacks, goes once it is as old.
    """
    old = [one for one in there.kernels if now - one.used > max(days, 1) * DAY]
    useless = [one for one in old if one.receipt is None or not set(one.files) <= there.files.keys()]
    total, gone = there.bytes - sum(one.bytes for one in useless), list(useless)
    for one in old:
        if total <= limit:
            break
        if one not in useless:
            gone.append(one)
            total -= one.bytes
    return gone


async def clear(reader: Reader, limit: int, days: float) -> Removed:
    """Remove what `chosen` says, and files that no kernel names and nobody is about to name. Raises Off.

    A manifest goes before its files, so that what is interrupted leaves no manifest without them.
    """
    there, now = await shelf(reader), time.time()
    gone = chosen(there, limit, days, now)
    left = [one for one in there.kernels if one not in gone]
    await _delete(reader, [layout.at(layout.KERNELS, one.fingerprint) for one in gone])
    known = {one.fingerprint for one in left}
    await _delete(reader, [one.path for name, one in there.uses.items() if name not in known])
    named = {name for one in left for name in one.files}
    loose = [one for name, one in there.files.items() if name not in named and now - one.modified > DAY]
    await _delete(reader, [one.path for one in loose])
    freed = sum(one.size for one in loose)
    return Removed(len(gone), freed, len(left), there.bytes - freed)


async def _delete(reader: Reader, paths: Iterable[str]) -> None:
    await together([reader.delete(path) for path in paths])
