"""How long an upload may take: nobody tells how far it is, so each request has its time, and no more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from fitasks.store.remote import breaker, objects
from fitasks.store.remote.breaker import Breaker
from fitasks.store.remote.objects import Objects
from fitasks.store.remote.trouble import Off
from tests.store.elsewhere import Client, find, request, stand_in, whole

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the usual times; parts of 1,000 bytes, to each of which 20 ms are given."""
    for name, value in (("TICK", 0.002), ("GRACE", 0.005), ("RATE", 50_000)):
        monkeypatch.setattr(breaker, name, value)
    monkeypatch.setattr(objects, "WHOLE", 1000)


def test_what_is_large_goes_in_parts_and_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, parts = Objects.write, []

    async def write(self: Objects, begun: object, part: memoryview) -> None:
        parts.append(len(part))
        await real(self, begun, part)

    monkeypatch.setattr(Objects, "write", write)
    receipt = stand_in(tmp_path / "built", files=0, size=4500)
    client = Client(tmp_path / "one", budget=5.0)
    assert client.remote(request(tmp_path / "share", push=True)).share(tmp_path / "built", receipt) == 4500
    assert parts[:5] == [1000, 1000, 1000, 1000, 500], "the manifest comes after them"
    found = find(Client(tmp_path / "two", budget=5.0).chain(request(tmp_path / "share")), receipt)
    assert found
    assert whole(found[0], receipt)


def test_one_that_hangs_is_waited_for_as_long_as_for_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Objects, "write", write)
    receipt = stand_in(tmp_path / "built", files=0, size=500_000)  # to all of which 10 s would be given
    client, began = Client(tmp_path / "one", budget=0.05), time.monotonic()
    assert client.remote(request(tmp_path / "share", push=True)).share(tmp_path / "built", receipt) is None
    assert time.monotonic() - began < 5
    assert "no answer in" in client.said[0]
    assert not list((tmp_path / "share").glob("v1/kernels/*/*"))


def test_the_time_of_what_was_quickly_sent_is_nobody_elses() -> None:
    async def both(one: Breaker) -> None:
        hanging = asyncio.ensure_future(one.guard(asyncio.sleep(3600)))
        await one.guard(asyncio.sleep(0), upload=1 << 30)
        await asyncio.wait_for(hanging, 5)

    with pytest.raises(Off, match="no answer in"):
        asyncio.run(both(Breaker(lambda _: None, budget=0.05)))
