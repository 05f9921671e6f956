"""A finished kernel as bytes, on its way from the machine that made it. It arrives as an entry of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.base.files import is_plain_name
from fitasks.compile import receipt as receipts
from fitasks.compile.ninja.ninja import DEPS, LOG
from fitasks.store.local import Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel


def pack(kernel: Kernel) -> dict[str, bytes]:
    """The library, its objects and their receipt, by name. Raises KernelFailure, OSError."""
    receipt = receipts.read(kernel)
    if receipt is None:
        raise KernelFailure(f"{kernel.label}: its receipt is gone, which was written a moment ago")
    names = [receipts.NAME, *(name for name in receipt.outputs if name not in {LOG, DEPS})]
    return {name: (kernel.build_dir / name).read_bytes() for name in names}


def unpack(files: Mapping[str, bytes], kernel: Kernel, place: Path) -> tuple[Store, Receipt]:
    """Lay what came into an empty directory, as a store with one entry, which compares each file with its hash.

    Raises KernelFailure where it is no whole kernel of this name, OSError.
    """
    came = place / "came"
    came.mkdir()
    for name, data in files.items():
        if not is_plain_name(name):
            raise KernelFailure(f"{kernel.label}: a file called {name!r:.100} came with it, which no build makes")
        (came / name).write_bytes(data)
    receipt = receipts.read_file(came / receipts.NAME, kernel.name)
    if receipt is None:
        raise KernelFailure(f"{kernel.label}: what came is damaged: its receipt can't be believed")
    store = Store(place / "store")
    store.put(kernel.name, came, receipt)
    if not store.holds(store.root / kernel.name / receipt.fingerprint, kernel.name):
        raise KernelFailure(f"{kernel.label}: what came is damaged: {store.refusal or 'a file is not what was built'}")
    return store, receipt
