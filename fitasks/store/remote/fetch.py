"""What a store has of a kernel, and how that comes here: each file is compared with its hash before it is one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

from fitasks.base.files import regular
from fitasks.store.remote import layout
from fitasks.store.remote.manifest import files
from fitasks.store.remote.trouble import Missing, Refused, Trouble

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from pathlib import Path

    from fitasks.compile.receipt import Output, Receipt
    from fitasks.store.remote.breaker import Breaker
    from fitasks.store.remote.objects import Objects

AT_ONCE = 32  # requests to one store


class Reader:
    """Reads one store, as long as it is worth the wait."""

    def __init__(self, objects: Objects, breaker: Breaker) -> None:
        self.objects, self.breaker = objects, breaker
        self._room = asyncio.Semaphore(AT_ONCE)

    async def get(self, path: str, limit: int) -> bytes:
        """Return a small object. Raises Missing, Off."""
        async with self._room:
            return await self.breaker.guard(self.objects.get(path, limit))

    async def delete(self, path: str) -> None:
        """Remove an object. Raises Off."""
        async with self._room:
            await self.breaker.guard(self.objects.delete(path))

    async def manifests(self, question: str) -> list[tuple[str, bytes]]:
        """Return fingerprint and manifest of each kernel that was compiled for a question. Raises Off."""
        try:
            index = await self.get(layout.at(layout.INDEX, question), layout.INDEX_BYTES)
        except Missing:
            return []
        return await self.manifests_of(layout.answers(index))

    async def manifests_of(self, fingerprints: Iterable[str]) -> list[tuple[str, bytes]]:
        """Return these kernels' manifests, without those that aren't there. Raises Off."""
        found = await together([self._manifest(one) for one in fingerprints])
        return [one for one in found if one]

    async def _manifest(self, fingerprint: str) -> tuple[str, bytes] | None:
        try:
            return fingerprint, await self.get(layout.at(layout.KERNELS, fingerprint), layout.MANIFEST_BYTES)
        except Missing:
            return None

    async def files(self, receipt: Receipt, place: Path) -> None:
        """Lay all of a kernel's files into a directory. Raises Refused, Off, OSError."""
        wanted = files(receipt)
        library = f"{receipt.name}.so"
        await together([self._file(output, place / name, run=name == library) for name, output in wanted.items()])

    async def _file(self, output: Output, target: Path, *, run: bool) -> None:
        if _digest(target) == output.sha256:
            return
        part = target.with_name(f".{output.sha256}.part")
        async with self._room:
            digest = await self.breaker.guard(self._arriving(output, part, target.name))
        if digest != output.sha256:
            part.unlink(missing_ok=True)
            raise Refused(f"{target.name} isn't what its receipt says")
        part.chmod(0o755 if run else 0o644)
        part.replace(target)

    async def _arriving(self, output: Output, part: Path, name: str) -> str:
        """Append what lacks of a file; its SHA-256. A transfer that breaks off goes on, if it got any further."""
        digest = hashlib.sha256()
        path = layout.at(layout.FILES, output.sha256)
        with part.open("ab+") as stream:
            have = _before(stream, digest, output.size)
            while have < output.size:
                begun = have
                try:
                    async for chunk in self.objects.chunks(path, have):
                        have += len(chunk)
                        if have > output.size:
                            raise Refused(f"{name} is longer than its receipt says")
                        stream.write(chunk)
                        digest.update(chunk)
                        self.breaker.moved(len(chunk))
                except Missing:
                    raise Refused(f"its file {name} is missing") from None
                except Trouble:
                    if have == begun:
                        raise
                    continue
                if have < output.size:
                    raise Refused(f"{name} is shorter than its receipt says")
        return digest.hexdigest()


def _before(stream: Any, digest: Any, size: int) -> int:
    """Take up what a killed run has of a file, if that can be its beginning; how many bytes."""
    stream.seek(0)
    have = os.fstat(stream.fileno()).st_size
    if have > size:
        stream.truncate(0)
        return 0
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return have


def _digest(path: Path) -> str:
    with contextlib.suppress(OSError), regular(path, follow=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return ""


async def together(works: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return all results in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
