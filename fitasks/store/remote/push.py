"""How a kernel goes to a store: its files, then its manifest, then the index.

Whoever stops in between leaves files that nobody looks at, and that `doit gc --remote` removes.

A file that is there isn't sent again, unless it is so old that somebody who clears up may be about to remove it.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import regular
from fitasks.store.remote import layout
from fitasks.store.remote.fetch import together
from fitasks.store.remote.manifest import believed, files, text
from fitasks.store.remote.trouble import Missing, Refused

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from fitasks.compile.receipt import Output, Receipt
    from fitasks.store.remote.breaker import Breaker
    from fitasks.store.remote.keys import Signer
    from fitasks.store.remote.objects import Objects

DAY = 24 * 3600.0  # seconds for which nobody removes a file without a manifest
_YOUNG = DAY / 2


class Writer:
    """Writes one store; `signer` vouches for what is written."""

    def __init__(self, objects: Objects, breaker: Breaker, signer: Signer | None) -> None:
        self.objects, self.breaker, self.signer = objects, breaker, signer

    async def push(self, receipt: Receipt, directory: Path) -> int:
        """Write a kernel whose files lie in a directory; how many bytes of files were sent. Raises Refused, Off."""
        sent = 0
        if not await self._has(receipt, (self.signer.public,) if self.signer else ()):
            first, *others = files(receipt).items()  # the smallest alone: it tells whether the store takes anything
            sent = await self._file(first[1], directory / first[0])
            sent += sum(await together([self._file(output, directory / name) for name, output in others]))
            await self._put(layout.at(layout.KERNELS, receipt.fingerprint), text(receipt, self.signer))
        await self._name(receipt)
        return sent

    async def touch(self, fingerprint: str) -> None:
        """Note that a kernel was taken, once a day. Raises Off."""
        path = layout.at(layout.USED, fingerprint)
        if time.time() - await self._written(path) > DAY:
            await self._put(path, b"")

    async def has(self, receipt: Receipt) -> bool:
        """Return whether this kernel is there, whoever has signed it. Raises Off."""
        return await self._has(receipt, ())

    async def _has(self, receipt: Receipt, trust: Collection[str]) -> bool:
        """Return whether this kernel is there, and signed by one of these keys if there are any."""
        path = layout.at(layout.KERNELS, receipt.fingerprint)
        try:
            data = await self.breaker.guard(self.objects.get(path, layout.MANIFEST_BYTES))
            there = believed(data, receipt.fingerprint, trust)
            sizes = await together([self._size(one.sha256) for one in files(there).values()])
        except (Missing, Refused, EnvironmentProblem):
            return False
        return sizes == [one.size for one in files(there).values()]

    async def _size(self, sha256: str) -> int:
        return (await self.breaker.guard(self.objects.head(layout.at(layout.FILES, sha256)))).size

    async def _file(self, output: Output, source: Path) -> int:
        path = layout.at(layout.FILES, output.sha256)
        if time.time() - await self._written(path, output.size) < _YOUNG:
            return 0
        with regular(source, follow=False) as stream:
            data = stream.read(output.size + 1)
        if hashlib.sha256(data).hexdigest() != output.sha256:
            raise Refused(f"{source.name} isn't what was built")
        await self._put(path, data)
        return len(data)

    async def _written(self, path: str, size: int | None = None) -> float:
        """Return when an object (of this size) was written; 0 where there is none."""
        try:
            found = await self.breaker.guard(self.objects.head(path))
        except Missing:
            return 0.0
        return found.modified if size in {None, found.size} else 0.0

    async def _name(self, receipt: Receipt) -> None:
        """Put the kernel first among the answers to its question."""
        asked = layout.question(receipt.name, receipt.commands, receipt.toolchain)
        path = layout.at(layout.INDEX, asked)
        try:
            known = layout.answers(await self.breaker.guard(self.objects.get(path, layout.INDEX_BYTES)))
        except Missing:
            known = []
        if receipt.fingerprint not in known:
            await self._put(path, layout.index([receipt.fingerprint, *known]))

    async def _put(self, path: str, data: bytes) -> None:
        await self.breaker.guard(self.objects.put(path, data), upload=len(data))
