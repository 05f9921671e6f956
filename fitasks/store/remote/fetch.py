"""What a store has of a kernel, and how that comes here: each file is compared with its hash before it is one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from typing import IO, TYPE_CHECKING, Any

from fitasks.base.files import NotRegularError, copy_regular, regular
from fitasks.store.remote import layout
from fitasks.store.remote.manifest import files
from fitasks.store.remote.trouble import Missing, Refused, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from fitasks.compile.receipt import Output, Receipt
    from fitasks.store.remote.breaker import Breaker
    from fitasks.store.remote.objects import Meta, Objects

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

    async def holds(self, receipt: Receipt) -> bool:
        """Return whether all files of a kernel are there, by their sizes. Raises Off."""
        return await all_there(self._head, receipt)

    async def _head(self, path: str) -> Meta:
        async with self._room:
            return await self.breaker.guard(self.objects.head(path))

    async def files(self, receipt: Receipt, place: Path) -> None:
        """Lay all of a kernel's files into a directory. Raises Refused, Off, OSError."""
        library = f"{receipt.name}.so"
        same: dict[str, list[str]] = {}
        for name, output in files(receipt).items():
            same.setdefault(output.sha256, []).append(name)
        wanted = [(receipt.outputs[names[0]], place / names[0], library in names) for names in same.values()]
        await together([self._file(output, target, run=run) for output, target, run in wanted])
        for first, *others in same.values():
            for name in others:
                await asyncio.to_thread(_copy, place / first, place / name)

    async def _file(self, output: Output, target: Path, *, run: bool) -> None:
        if _digest(target) == output.sha256:
            return
        part = target.with_name(f".{output.sha256}.part")
        async with self._room:
            digest = await self.breaker.guard(self._arriving(output, part, target.name, 0o755 if run else 0o644))
        if digest != output.sha256:
            part.unlink(missing_ok=True)
            raise Refused(f"{target.name} isn't what its receipt says")
        part.replace(target)

    async def _arriving(self, output: Output, part: Path, name: str, mode: int) -> str:
        """Write a file; its SHA-256. It goes on after what a killed run left, and where that fails, begins again."""
        with _opened(part) as stream:
            os.fchmod(stream.fileno(), mode)
            if os.fstat(stream.fileno()).st_size:
                with contextlib.suppress(Refused, Trouble):
                    if (digest := await self._rest(output, stream, name)) == output.sha256:
                        return digest
                stream.truncate(0)
            return await self._rest(output, stream, name)

    async def _rest(self, output: Output, stream: IO[bytes], name: str) -> str:
        """Append what lacks of a file. A transfer that breaks off goes on, if it got any further.

        Where going on fails (a server that knows no ranges), all is asked for once more.
        """
        digest, have = _before(stream, output.size)
        again = bool(have)  # whoever calls does that with what a killed run left
        while have < output.size:
            begun = have
            try:
                async for chunk in self.objects.chunks(layout.at(layout.FILES, output.sha256), have):
                    have += len(chunk)
                    if have > output.size:
                        raise Refused(f"{name} is longer than its receipt says")
                    stream.write(chunk)
                    digest.update(chunk)
                    self.breaker.moved(len(chunk))
            except Missing:
                raise Refused(f"its file {name} is missing") from None
            except Trouble:
                if have == begun and (again or not have):
                    raise
                if have == begun:
                    stream.truncate(0)
                    digest, have, again = hashlib.sha256(), 0, True
                continue
            if have < output.size:
                raise Refused(f"{name} is shorter than its receipt says")
        stream.flush()
        return str(digest.hexdigest())


def _opened(part: Path) -> IO[bytes]:
    """Open a part of a file to append to: a regular file, and no link to one. Raises OSError."""
    descriptor = os.open(
        part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
    )
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotRegularError(part, mode)
    return os.fdopen(descriptor, "ab+")


def _copy(source: Path, target: Path) -> None:
    """Lay the same file under another name. Raises OSError."""
    target.unlink(missing_ok=True)
    copy_regular(source, target)


def _before(stream: IO[bytes], size: int) -> tuple[Any, int]:
    """Take up what a killed run has of a file, if that can be its beginning: its hash so far, and how many bytes."""
    digest = hashlib.sha256()
    have = os.fstat(stream.fileno()).st_size
    if have > size:
        stream.truncate(0)
        return digest, 0
    stream.seek(0)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest, have


def _digest(path: Path) -> str:
    with contextlib.suppress(OSError), regular(path, follow=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return ""


async def all_there(head: Callable[[str], Coroutine[Any, Any, Meta]], receipt: Receipt) -> bool:
    """Return whether a store, which `head` asks, has all files of a kernel, by their sizes. Raises Off."""
    wanted = files(receipt).values()
    try:
        found = await together([head(layout.at(layout.FILES, one.sha256)) for one in wanted])
    except Missing:
        return False
    return [one.size for one in found] == [one.size for one in wanted]


async def together(works: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return all results in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
