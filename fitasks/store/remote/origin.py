"""Where an entry of this machine's store was fetched from, and who vouched for it; of what was compiled here, nothing.

A file beside the entry has the store's URL in its first line, and then the manifest (remote/manifest.py) as it was
there, so that its signature can be held against the keys that are trusted now. What can't be read of it vouches for
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fitasks.compile.receipt import FETCHED
from fitasks.store.remote.manifest import signer_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.compile.receipt import Receipt
    from fitasks.config.stores import StoreRequest

_NOBODY = "unsigned"


@dataclass(frozen=True)
class Origin:
    """A store's URL, and the public key whose signature holds; "" where none does."""

    url: str
    key: str


def text(url: str, manifest: bytes) -> bytes:
    """Return what is kept beside an entry."""
    return url.encode() + b"\n" + manifest


def origin(kept: bytes, receipt: Receipt) -> Origin:
    """Return what is said beside an entry with this receipt."""
    url, _, manifest = kept.partition(b"\n")
    return Origin(url.decode(errors="replace"), signer_in(manifest, receipt))


def noted(receipt: Receipt, kept: bytes) -> Receipt:
    """Return the receipt with a note of who vouched for it, which stays with the kernel."""
    return replace(receipt, notes=receipt.notes | {FETCHED: origin(kept, receipt).key or _NOBODY})


@dataclass(frozen=True)
class Trust:
    """Whose word is taken for what was fetched: of these keys, and of these stores, which need no signature."""

    keys: frozenset[str]
    urls: frozenset[str]

    @classmethod
    def of(cls, stores: Iterable[StoreRequest], keys: Iterable[str]) -> Trust:
        """That of the stores of a run, and of further keys."""
        stores = tuple(stores)
        signed = frozenset(key for one in stores for key in one.trust)
        return cls(signed.union(keys), frozenset(one.url for one in stores if not one.trust))

    def takes(self, kept: bytes | None, receipt: Receipt) -> bool:
        """Whether an entry, beside which this is said, may be used."""
        if kept is None or not self.keys:
            return True
        found = origin(kept, receipt)
        return found.key in self.keys or found.url in self.urls
