"""What is fetched: where it arrives, who else may be at it, and when it is there for good."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import functools
import http.server
import os
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.store.local import Store
from fitasks.store.remote import staging
from fitasks.store.remote.loop import Loop
from tests.store.elsewhere import Client, Wanted, find, request, stand_in, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.compile.receipt import Receipt
    from fitasks.store.chain import Chain

pytest.importorskip("obstore")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share"


@pytest.fixture
def receipt(tmp_path: Path, share: Path) -> Receipt:
    """Of a kernel in the store, whose files lie in built/."""
    return put(tmp_path, share, stand_in(tmp_path / "built"))


@pytest.fixture
def umask() -> Iterator[None]:
    """The laxest."""
    before = os.umask(0)
    yield
    os.umask(before)


def put(tmp_path: Path, share: Path, receipt: Receipt) -> Receipt:
    assert Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "built", receipt) is not None
    return receipt


def arrive(chain: Chain, receipt: Receipt) -> Path:
    """Wait for what was begun beforehand, as `expect` begins it."""
    wanted = Wanted(receipt)
    assert chain.expect([wanted], {"9.0a": wanted}) == {receipt.name}  # type: ignore[dict-item, list-item]
    return chain._loop.wait(chain._begin(chain.remotes[0], receipt))


def test_what_has_arrived_is_in_the_own_store_before_anybody_asks(
    tmp_path: Path, share: Path, receipt: Receipt
) -> None:
    place = arrive(Client(tmp_path / "two").chain(request(share)), receipt)
    assert place == tmp_path / "two" / "page" / receipt.fingerprint
    assert whole(place, receipt)
    assert list((tmp_path / "two" / ".fetch").iterdir()) == []


def test_a_directory_in_which_a_kernel_arrives_is_locked_until_it_is_gone(
    tmp_path: Path, share: Path, receipt: Receipt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, as it were, at the latest moment."""
    seen = []

    def put_as_ever(store: Store, name: str, directory: Path, found: Receipt, fetched: bytes) -> None:
        second = staging.staging(store, receipt.fingerprint)
        seen.append((directory, second.path))
        second.close()
        real(store, name, directory, found, fetched)

    real = Store.put
    monkeypatch.setattr(Store, "put", put_as_ever)
    client = Client(tmp_path / "two")
    assert find(client.chain(request(share)), receipt)
    assert [first == second for first, second in seen] == [False]
    assert client.said == []


def test_what_another_process_has_fetched_meanwhile_is_not_fetched_again(
    tmp_path: Path, share: Path, receipt: Receipt
) -> None:
    chain = Client(tmp_path / "two").chain(request(share))
    assert chain.remotes[0].find(Wanted(receipt), Wanted(receipt))  # type: ignore[arg-type]
    assert find(Client(tmp_path / "two").chain(request(share)), receipt)
    shutil.rmtree(share / "v1" / "files")
    assert whole(chain._loop.wait(chain._begin(chain.remotes[0], receipt)), receipt)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ELOOP, errno.ENOSPC])
def test_only_where_there_is_no_place_a_store_is_not_asked_again(
    tmp_path: Path, share: Path, receipt: Receipt, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    client = Client(tmp_path / "two")
    chain = client.chain(request(share))
    monkeypatch.setattr(chain.remotes[0].reader, "files", fails)
    assert find(chain, receipt) is None
    assert bool(chain.remotes[0].reading.reason) == bool(client.said) == (number == errno.ENOSPC)


def test_what_is_done_just_as_the_patience_ends_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: concurrent.futures.Future[int] = concurrent.futures.Future()
    real = begun.result
    calls: list[float] = []

    def late(timeout: float | None = None) -> int:
        if timeout is not None and not calls:
            calls.append(timeout)
            begun.set_result(7)
            raise concurrent.futures.TimeoutError
        return real(timeout)

    monkeypatch.setattr(begun, "result", late)
    assert Loop().wait(begun) == 7


# ---- who else may write there


@pytest.mark.usefixtures("umask")
def test_where_it_arrives_nobody_else_may_write(tmp_path: Path, share: Path, receipt: Receipt) -> None:
    (tmp_path / "two").mkdir(mode=0o755)
    assert find(Client(tmp_path / "two").chain(request(share)), receipt)
    assert (tmp_path / "two" / ".fetch").stat().st_mode & 0o022 == 0


def test_where_others_may_write_nothing_arrives(tmp_path: Path, share: Path, receipt: Receipt) -> None:
    left = tmp_path / "two" / ".fetch" / receipt.fingerprint
    left.mkdir(parents=True)
    left.parent.chmod(0o777)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (left / f".{receipt.outputs['page.so'].sha256}.part").symlink_to(victim)
    found = find(Client(tmp_path / "two").chain(request(share)), receipt)
    assert found
    assert whole(found[0], receipt)
    assert victim.read_text() == "precious"
    assert [one.name for one in left.iterdir()] == [f".{receipt.outputs['page.so'].sha256}.part"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_part_that_is_no_file_is_not_written_to(tmp_path: Path, share: Path, receipt: Receipt, kind: str) -> None:
    left = tmp_path / "two" / ".fetch" / receipt.fingerprint
    left.mkdir(parents=True)
    part, victim = left / f".{receipt.outputs['page.so'].sha256}.part", tmp_path / "victim"
    victim.write_text("precious")
    part.symlink_to(victim) if kind == "link" else os.mkfifo(part)
    client = Client(tmp_path / "two")
    assert find(client.chain(request(share)), receipt) is None
    assert victim.read_text() == "precious"
    assert client.said == [], "another kernel may be fetched"


# ---- files that arrive in several ways


def test_two_equal_files_of_a_kernel_are_fetched_once(tmp_path: Path, share: Path) -> None:
    found = stand_in(tmp_path / "built", files=3)
    shutil.copy(tmp_path / "built" / "page_0.o", tmp_path / "built" / "page_1.o")
    found = put(tmp_path, share, replace(found, outputs=found.outputs | {"page_1.o": found.outputs["page_0.o"]}))
    client = Client(tmp_path / "two")
    place = find(client.chain(request(share)), found)
    assert place
    assert whole(place[0], found)
    assert client.said == []


@pytest.mark.parametrize("left", [b"begin", b"\0" * 20_000, b"longer"])
def test_what_a_killed_run_left_ends_no_store_that_knows_no_ranges(tmp_path: Path, share: Path, left: bytes) -> None:
    found = put(tmp_path, share, stand_in(tmp_path / "built", size=40_000))
    library = (tmp_path / "built" / "page.so").read_bytes()
    known = {b"begin": library[:20_000], b"longer": library + b"x"}.get(left, left)
    parts = tmp_path / "two" / ".fetch" / found.fingerprint
    parts.mkdir(parents=True)
    (parts / f".{found.outputs['page.so'].sha256}.part").write_bytes(known)
    with simple(share) as url:
        client = Client(tmp_path / "two")
        place = find(client.chain(request(url)), found)
    assert place
    assert whole(place[0], found)
    assert client.said == []


@contextlib.contextmanager
def simple(directory: Path) -> Iterator[str]:
    """`python -m http.server`, which answers each request with all of a file."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
