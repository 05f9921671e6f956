"""Whatever a store does wrong: no wrong kernel is believed, one line is said, and no more than 5 s are lost in a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fitasks.store.remote.breaker import BUDGET
from tests.store.elsewhere import Client, find, request, stand_in, whole
from tests.store.servers import Faulty, faulty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.compile.receipt import Receipt

pytest.importorskip("obstore")
NAMES = ("page", "rope", "norm", "decode", "prefill")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Receipt]]:
    """A store with five kernels in a directory, and their receipts."""
    root = tmp_path_factory.mktemp("stored")
    receipts = [stand_in(root / name, name, size=100_000) for name in NAMES]
    remote = Client(root / "one").remote(request(root / "share", push=True))
    for name, receipt in zip(NAMES, receipts, strict=True):
        assert remote.share(root / name, receipt)
    return root / "share", receipts


@pytest.fixture
def server(stored: tuple[Path, list[Receipt]]) -> Iterator[Faulty]:
    with faulty(stored[0]) as made:
        yield made


@pytest.fixture
def receipts(stored: tuple[Path, list[Receipt]]) -> list[Receipt]:
    return stored[1]


def found(client: Client, url: str, receipts: list[Receipt]) -> list[str]:
    """The names of the kernels that a run with this store gets; each is whole."""
    chain = client.chain(request(url))
    names = []
    for receipt in receipts:
        if place := find(chain, receipt):
            assert whole(place[0], receipt)
            names.append(receipt.name)
    return names


def test_a_server_that_does_nothing_wrong(server: Faulty, receipts: list[Receipt], tmp_path: Path) -> None:
    client = Client(tmp_path)
    assert found(client, server.url, receipts) == list(NAMES)
    assert client.said == []


@pytest.mark.parametrize("only", ["", "/kernels/", "/files/"])
@pytest.mark.parametrize(
    "fault", ["500", "403", "404", "302", "gone", "wrong", "short", "long", "empty", "cut", "cut always"]
)
def test_no_fault_has_a_wrong_kernel_believed_or_waits_long(
    server: Faulty, receipts: list[Receipt], tmp_path: Path, fault: str, only: str
) -> None:
    server.fault, server.only = fault, only
    client, begun = Client(tmp_path, budget=0.6), time.monotonic()
    names = found(client, server.url, receipts)
    assert time.monotonic() - begun < 5
    assert names == (list(NAMES) if fault == "cut" else []), client.said
    assert len(client.said) <= 2, "one line for the first that isn't believed, and one when no more is asked"
    hidden = fault == "404" or only == ""  # an index is a hint: garbage is none
    assert client.said or names or hidden


@pytest.mark.parametrize("only", ["/index/", "/kernels/", "/files/"])
def test_no_more_is_read_than_there_can_be(server: Faulty, receipts: list[Receipt], tmp_path: Path, only: str) -> None:
    server.fault, server.only = "endless", only
    client = Client(tmp_path)
    assert found(client, server.url, receipts[:1]) == []
    assert server.sent < 64 << 20
    assert "has more than" in client.said[0] or "is longer than its receipt says" in client.said[0]


@pytest.mark.parametrize(("only", "budget"), [("", BUDGET), ("/files/", 0.6)])
def test_a_server_that_never_answers_costs_five_seconds_in_all(
    server: Faulty, receipts: list[Receipt], tmp_path: Path, only: str, budget: float
) -> None:
    server.fault, server.only = "hang", only
    client, begun = Client(tmp_path, budget=budget), time.monotonic()
    assert found(client, server.url, receipts) == []
    assert time.monotonic() - begun < budget + 0.5 + 0.5
    assert client.said == [f"store {server.url}: no answer in {budget:.1f} s; it isn't asked again in this run"]


@pytest.mark.parametrize(("fault", "taken"), [("steady", True), ("trickle", False)])
def test_a_transfer_is_not_cut_as_long_as_it_gets_on(tmp_path: Path, fault: str, taken: bool) -> None:
    """It takes three times as long as a store that gives no answer may take."""
    receipt = stand_in(tmp_path / "built", files=0, size=600_000)
    Client(tmp_path / "one").remote(request(tmp_path / "share", push=True)).share(tmp_path / "built", receipt)
    with faulty(tmp_path / "share") as server:
        server.fault, server.only = fault, "/files/"
        client, begun = Client(tmp_path / "two", budget=0.6), time.monotonic()
        assert found(client, server.url, [receipt]) == (["page"] if taken else [])
    assert (time.monotonic() - begun > 1.8) == taken
    assert bool(client.said) != taken


def test_one_that_is_not_there_is_left_for_the_next(server: Faulty, receipts: list[Receipt], tmp_path: Path) -> None:
    client = Client(tmp_path)
    chain = client.chain(request(tmp_path / "nowhere"), request(server.url))
    assert all(find(chain, receipt) for receipt in receipts)
    assert len(client.said) == 1
    assert "No such file or directory" in client.said[0]


def test_a_transfer_that_is_cut_goes_on(server: Faulty, receipts: list[Receipt], tmp_path: Path) -> None:
    server.fault, server.only = "cut", receipts[0].outputs["page.so"].sha256
    client = Client(tmp_path)
    assert found(client, server.url, receipts[:1]) == ["page"]
    assert client.said == []
