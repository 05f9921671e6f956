"""Fetching and putting, really killed at some moment, and really done by two at once."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.store.remote import layout
from fitasks.store.remote.manifest import files
from tests.store.elsewhere import Client, find, request, stand_in, whole
from tests.store.servers import faulty

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.compile.receipt import Receipt
    from fitasks.store.chain import Chain

pytest.importorskip("obstore")
SIZE = 300_000
_RUN = """\
import pickle, sys
from pathlib import Path
from tests.store.elsewhere import Client, Wanted, find, request
what, root, url, directory, receipts = pickle.loads(Path(sys.argv[1]).read_bytes())
client = Client(Path(root))
if what == "put":
    remote = client.remote(request(url, push=True), {"HOME": root})
    done = [remote.share(Path(directory) / one.name, one) is not None for one in receipts]
elif what == "expect":
    wanted = {one.name: Wanted(one) for one in receipts}
    done = [client.chain(request(url)).expect([one], {"9.0a": one}) for one in wanted.values()]
else:
    chain = client.chain(request(url))
    done = [find(chain, one) is not None for one in receipts]
print(sum(map(bool, done)), client.said)
"""


def start(what: str, root: Path, url: object, directory: Path, receipts: list[Receipt]) -> subprocess.Popen[str]:
    words = directory / f"{what}.pickle"
    words.write_bytes(pickle.dumps((what, str(root), str(url), str(directory), receipts)))
    words_of_it = [sys.executable, "-c", _RUN, str(words)]
    return subprocess.Popen(words_of_it, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def taken(chain: Chain, receipts: list[Receipt]) -> list[str]:
    """The names of the kernels that can be taken, and are whole."""
    places = [(one, find(chain, one)) for one in receipts]
    return [one.name for one, place in places if place and whole(place[0], one)]


def kill_when(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert process.poll() is None, "it has ended before"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_what_a_killed_run_was_fetching_the_next_one_finishes(tmp_path: Path) -> None:
    receipt = stand_in(tmp_path / "built" / "page", files=4, size=SIZE)
    share = tmp_path / "share"
    assert Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "built" / "page", receipt)
    arriving = tmp_path / "two" / ".fetch" / receipt.fingerprint
    with faulty(share) as server:
        server.fault, server.only = "hang", receipt.outputs["page_2.o"].sha256
        process = start("fetch", tmp_path / "two", server.url, tmp_path, [receipt])
        kill_when(
            process, lambda: arriving.is_dir() and len([one for one in arriving.iterdir() if one.name[0] != "."]) == 4
        )
        assert not list((tmp_path / "two").glob("page/*")), "nothing is there that could be taken"
        server.fault = ""
        server.asked.clear()
        found = find(Client(tmp_path / "two").chain(request(server.url)), receipt)
        assert found
        assert whole(found[0], receipt)
        assert len([path for path in server.asked if "/files/" in path]) == 1, "the one that lacked"
    assert not arriving.exists()


def test_of_what_a_killed_run_was_putting_there_nothing_is_taken(tmp_path: Path) -> None:
    names = ["page", "rope", "norm", "decode"]
    receipts = [stand_in(tmp_path / "built" / name, name, files=6, size=SIZE) for name in names]
    share = tmp_path / "share"
    process = start("put", tmp_path / "one", share, tmp_path / "built", receipts)
    kill_when(process, lambda: len(list(share.glob("v1/files/*/*"))) > 9)
    vouched = {path.name for path in share.glob("v1/kernels/*/*")}
    sent = {path.name for path in share.glob("v1/files/*/*")}
    assert len(vouched) < len(names)
    for one in receipts:
        assert one.fingerprint not in vouched or {each.sha256 for each in files(one).values()} <= sent
    assert len(taken(Client(tmp_path / "two").chain(request(share)), receipts)) <= len(vouched)
    remote = Client(tmp_path / "one").remote(request(share, push=True))
    assert all(remote.share(tmp_path / "built" / one.name, one) is not None for one in receipts), (
        "and it is finished later"
    )
    chain = Client(tmp_path / "three").chain(request(share))
    assert taken(chain, receipts) == names
    assert chain.remotes[0].reading.reason == ""


def test_who_ends_while_much_is_on_its_way_ends_well(tmp_path: Path) -> None:
    """obstore's threads must not ask for a Python that is gone: that aborts the process."""
    receipts = [stand_in(tmp_path / "built" / name, name, files=6, size=SIZE) for name in ("page", "rope", "norm")]
    share = tmp_path / "share"
    remote = Client(tmp_path / "one").remote(request(share, push=True))
    assert all(remote.share(tmp_path / "built" / one.name, one) for one in receipts)
    with faulty(share) as server:
        server.fault, server.only = "hang", receipts[0].outputs["page_2.o"].sha256
        process = start("expect", tmp_path / "two", server.url, tmp_path, receipts)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert told.startswith("3 [")


@pytest.mark.parametrize("what", ["put", "fetch"])
def test_two_at_once_do_not_disturb_each_other(tmp_path: Path, what: str) -> None:
    """Into one store, and out of one into one and the same cache."""
    names = ["page", "rope", "norm"]
    receipts = [stand_in(tmp_path / "built" / name, name, size=SIZE) for name in names]
    share = tmp_path / "share"
    if what == "fetch":
        remote = Client(tmp_path / "one").remote(request(share, push=True))
        assert all(remote.share(tmp_path / "built" / one.name, one) for one in receipts)
    both = [start(what, tmp_path / "same", share, tmp_path / "built", receipts) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["3 []\n"] * 2
    assert len(list(share.glob(f"v1/{layout.KERNELS}/*/*"))) == 3
    assert taken(Client(tmp_path / "three").chain(request(share)), receipts) == names
    if what == "fetch":
        assert len(Client(tmp_path / "same").chain().local.contents()) == 3
        assert list((tmp_path / "same" / ".fetch").iterdir()) == []
