"""The objects of one store, through obstore. What is asked of any store is this class, and nothing else.

All of it is asynchronous, so that whoever waits can stop waiting: a call that never ends holds up nobody. Raises
Missing where there is no such object, and Trouble for everything else.

obstore takes credentials, regions and endpoints from the environment, as each service's own tools do.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from fitasks.store.remote.keys import EXTRA
from fitasks.store.remote.trouble import Missing, Trouble, line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

T = TypeVar("T")
_WEB = {"http", "https"}
_CHUNK = 16 << 10  # bytes that a transfer hands on at once: as much is lost where it is cut
WHOLE = 8 << 20  # bytes that are put in one request; more goes in parts, of which S3 wants at least 5 MiB
_RETRY = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=3),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}
# A whole transfer has no limit of time: breaker.py looks whether it gets on.
_CLIENT = {"connect_timeout": "4s", "timeout": "30days"}
_WORDS = re.compile(r"^Generic \S+ error: |Error performing | in [\d.]+m?s, after .*?retry_timeout: \S+\s*- ")
_CAUSE = re.compile(r'message: "([^"]+)"|"(tcp connect error|dns error)"')


@dataclass(frozen=True)
class Meta:
    """An object: its path, bytes, and when it was written, in Unix seconds by the store's clock."""

    path: str
    size: int
    modified: float


class Objects:
    """One store; opened when it is first used."""

    def __init__(self, url: str, env: Mapping[str, str], *, make: bool = False) -> None:
        self.url = url
        self._env, self._make = env, make
        self._lock = asyncio.Lock()
        self._store: Any = None
        # obstore makes directories of a WebDAV server below the URL that it is given, and not that one itself.
        parts = urlsplit(url)
        self._below = parts.path.strip("/") + "/" if parts.scheme in _WEB and parts.path.strip("/") else ""

    async def get(self, path: str, limit: int) -> bytes:
        """Return an object of at most `limit` bytes."""
        store = await self._opened()
        data = bytearray()
        with _told():
            found = await _obstore().get_async(store, self._below + path)
            if found.meta["size"] > limit:
                raise Trouble(f"{path} has more than {limit:,} bytes")
            async for chunk in found.stream(min_chunk_size=_CHUNK):
                data += chunk
                if len(data) > limit:
                    raise Trouble(f"{path} has more than {limit:,} bytes")
        return bytes(data)

    async def chunks(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield an object's bytes, from `offset` on, which is less than its size."""
        store = await self._opened()
        with _told():
            options = {"range": {"offset": offset}} if offset else {}
            found = await _obstore().get_async(store, self._below + path, options=options)
            async for chunk in found.stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    async def put(self, path: str, data: bytes) -> None:
        """Write an object: whole or not at all, in place of what is there."""
        store = await self._opened()
        with _told():
            await _obstore().put_async(store, self._below + path, data, use_multipart=False)

    def parts(self, data: bytes) -> list[memoryview]:
        """Return what is sent at once: all, or in some services parts of it."""
        whole = len(data) <= WHOLE or urlsplit(self.url).scheme in _WEB  # which knows no parts
        size = len(data) if whole else WHOLE
        return [memoryview(data)[begin : begin + size] for begin in range(0, len(data), size)] if data else []

    async def begin(self, path: str) -> Any:
        """Begin an object that is written in parts; what `write` and `end` take. It isn't there before its end."""
        store = await self._opened()
        with _told():
            return _obstore().open_writer_async(store, self._below + path, buffer_size=WHOLE, max_concurrency=1)

    async def write(self, begun: Any, part: memoryview) -> None:
        """Take the next part, once the one before is there."""
        with _told():
            await begun.write(part)

    async def end(self, begun: Any) -> None:
        """Have the object there, in place of what was."""
        with _told():
            await begun.close()

    async def head(self, path: str) -> Meta:
        """Return what is known of an object without its bytes."""
        store = await self._opened()
        with _told():
            return self._meta(await _obstore().head_async(store, self._below + path))

    async def list(self, prefix: str) -> AsyncIterator[Meta]:
        """Yield the objects below a prefix, in any order."""
        store = await self._opened()
        with _told():
            async for batch in _obstore().list(store, self._below + prefix):
                for found in batch:
                    yield self._meta(found)

    async def delete(self, path: str) -> None:
        """Remove an object; one that isn't there is no trouble."""
        store = await self._opened()
        with contextlib.suppress(Missing), _told():
            await _obstore().delete_async(store, self._below + path)

    async def _opened(self) -> Any:
        async with self._lock:
            if self._store is None:
                with _told():
                    self._store = await _aside(self._open)
        return self._store

    def _open(self) -> Any:
        _obstore()
        from obstore.store import LocalStore, from_url

        path = self.url.removeprefix("file://")
        if path.startswith("/"):
            return LocalStore(path, mkdir=self._make)
        url = self.url.rstrip("/").removesuffix(self._below.rstrip("/"))
        plain = url.startswith("http:") or self._env.get("AWS_ENDPOINT_URL", "").startswith("http:")
        client: Any = _CLIENT | ({"allow_http": True} if plain else {})
        options: Any = {"client_options": client, "retry_config": _RETRY}
        return from_url(url, **options)

    def _meta(self, found: Mapping[str, Any]) -> Meta:
        return Meta(found["path"].removeprefix(self._below), found["size"], found["last_modified"].timestamp())


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise Trouble(f"needs the package obstore: {EXTRA}") from None
    return obstore


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of obstore, in our words. They are of many classes, also Python's own."""
    try:
        yield
    except (Missing, Trouble):
        raise
    except FileNotFoundError:
        raise Missing from None
    except Exception as error:  # noqa: BLE001 - obstore's classes come from a library in Rust, and its panics do
        raise Trouble(_sentence(str(error)) or type(error).__name__) from None


def _sentence(said: str) -> str:
    """Return what a long message of obstore comes to."""
    causes = [one or other for one, other in _CAUSE.findall(said)]
    first = line(_WORDS.sub("", said.strip().partition("\n")[0]))
    return f"{first} ({line(causes[-1])})" if causes and causes[-1] not in first else first


async def _aside(work: Callable[[], T]) -> T:
    """Return what `work` does in a thread that nobody waits for: a dead NFS server holds it for ever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is over, and nobody waits
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, name="open a store", daemon=True).start()
    return await done
