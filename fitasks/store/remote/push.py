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
from fitasks.store.remote.fetch import all_there, together
from fitasks.store.remote.manifest import believed, files, signed_by, text
from fitasks.store.remote.objects import WHOLE
from fitasks.store.remote.trouble import Missing, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from fitasks.compile.receipt import Output, Receipt
    from fitasks.store.remote.breaker import Breaker
    from fitasks.store.remote.keys import Signer
    from fitasks.store.remote.objects import Meta, Objects

DAY = 24 * 3600.0  # seconds for which nobody removes a file without a manifest
_YOUNG = DAY / 2


class Writer:
    """Writes one store; `signer` vouches for what is written.

    What a key of `trust` has signed stays as it is; without any, what any other key has signed.
    """

    def __init__(
        self,
        objects: Objects,
        breaker: Breaker,
        signer: Signer | None,
        trust: Collection[str] = (),
        stays: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`stays` is told what is there with somebody else's signature."""
        self.objects, self.breaker, self.signer = objects, breaker, signer
        self._trust, self._stays = trust, stays

    async def push(self, receipt: Receipt, directory: Path, *, repair: bool = False) -> int:
        """Write a kernel whose files lie in a directory; how many bytes of files were sent. Raises Refused, Off.

        `repair` sends files that are there as well: they have the right size, and other contents.
        """
        data = await self._manifest(receipt)
        standing, by = self._standing(data, receipt.fingerprint), signed_by(data)
        foreign = standing is not None and by not in {"", self.signer.public if self.signer else ""}
        sent = 0
        if standing is None or repair or not await all_there(self._head, standing):
            if foreign and standing and _hashes(standing) != _hashes(receipt):
                raise Refused(f"what is there is signed by {by}, has lost files of its own, and isn't replaced")
            sent = await self._files(receipt, directory, repair=repair)
            if not foreign:
                await self._put(layout.at(layout.KERNELS, receipt.fingerprint), text(receipt, self.signer))
        if foreign:
            others = "" if self._trust else " (with `trust:`, only keys that it names are left so)"
            self._stays(f"{receipt.name} is there, signed by {by}, which isn't replaced{others}")
        await self._name(receipt)
        return sent

    async def _files(self, receipt: Receipt, directory: Path, *, repair: bool) -> int:
        first, *others = files(receipt).items()  # the smallest alone: it tells whether the store takes anything
        sent = await self._file(first[1], directory / first[0], repair=repair)
        works = [self._file(output, directory / name, repair=repair) for name, output in others]
        return sent + sum(map(int, await together(works)))

    async def touch(self, fingerprint: str) -> None:
        """Note that a kernel was taken, once a day. Raises Off."""
        path = layout.at(layout.USED, fingerprint)
        if time.time() - await self._written(path) > DAY:
            await self._put(path, b"")

    async def has(self, receipt: Receipt) -> bool:
        """Return whether this kernel is there, whoever has signed it. Raises Off."""
        try:
            there = believed(await self._manifest(receipt), receipt.fingerprint, ())
        except Refused:
            return False
        return await all_there(self._head, there)

    async def _manifest(self, receipt: Receipt) -> bytes:
        path = layout.at(layout.KERNELS, receipt.fingerprint)
        try:
            return await self.breaker.guard(self.objects.get(path, layout.MANIFEST_BYTES))
        except Missing:
            return b""

    def _standing(self, data: bytes, fingerprint: str) -> Receipt | None:
        """Return the receipt of a manifest that stays: by this key, or another that counts. None of others.

        Where keys are trusted, they count; else any whose signature holds. Who has no key replaces nothing that can be
        believed.
        """
        by = signed_by(data)
        if self.signer and (not by or (self._trust and by not in {self.signer.public, *self._trust})):
            return None
        try:
            return believed(data, fingerprint, (by,) if self.signer else ())
        except (Refused, EnvironmentProblem):
            return None

    async def _head(self, path: str) -> Meta:
        return await self.breaker.guard(self.objects.head(path))

    async def _file(self, output: Output, source: Path, *, repair: bool) -> int:
        path = layout.at(layout.FILES, output.sha256)
        if not repair and time.time() - await self._written(path, output.size) < _YOUNG:
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
            found = await self._head(path)
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
        """Write an object. Each part has its time, so that one that hangs takes no more than that of one."""
        if len(parts := self.objects.parts(data)) <= 1:
            await self.breaker.guard(self.objects.put(path, data), upload=len(data))
            return
        begun = await self.breaker.guard(self.objects.begin(path))
        for part in parts:
            await self.breaker.guard(self.objects.write(begun, part), upload=len(part))
        await self.breaker.guard(self.objects.end(begun), upload=WHOLE)


def _hashes(receipt: Receipt) -> set[str]:
    return {one.sha256 for one in files(receipt).values()}
