"""What was fetched stays known as such: in this machine's store, in a cache, and where it would be put elsewhere."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from fitasks.compile import receipt as receipts
from fitasks.store.local import FETCHED
from fitasks.store.remote import keys
from fitasks.store.remote.manifest import signer_in, text
from tests.store.elsewhere import Client, find, request, stand_in, whole

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.receipt import Receipt
    from tests.workshop import Workshop

pytest.importorskip("cryptography")
pytest.importorskip("obstore")


@pytest.fixture
def receipt(tmp_path: Path) -> Receipt:
    return stand_in(tmp_path / "built")


def put(tmp_path: Path, receipt: Receipt, share: str, signed: str = "") -> str:
    """By a machine that signs with the key of this name, or with none; that key's public part."""
    file = tmp_path / f"{signed}.pem"
    public = (keys.read(file) if file.exists() else keys.make(file)).public if signed else ""
    env = {keys.VARIABLE: str(file)} if signed else {"XDG_CONFIG_HOME": str(tmp_path)}
    remote = Client(tmp_path / f"by-{signed}").remote(request(tmp_path / share, push=True), env)
    assert remote.share(tmp_path / "built", receipt) is not None
    return public


# ---- in this machine's own store


def test_what_was_fetched_unsigned_is_not_taken_where_signatures_are_asked_for(
    tmp_path: Path, receipt: Receipt
) -> None:
    put(tmp_path, receipt, "share")
    public = keys.make(tmp_path / "key.pem").public
    share, home = tmp_path / "share", tmp_path / "home"
    assert find(Client(home).chain(request(share)), receipt)
    client = Client(home)
    assert find(client.chain(request(share, trust=(public,))), receipt) is None
    place = home / "page" / receipt.fingerprint
    assert client.said[0].startswith(f"{place} is not taken: it was fetched earlier, and no key that is trusted now")
    assert find(Client(home).chain(request(share)), receipt), "but where none is asked for"
    other = Client(home).chain(request(tmp_path / "signed", trust=(public,)), request(share))
    assert find(other, receipt), "and where its store needs none"


def test_what_a_key_has_signed_is_taken_where_that_is_trusted_now(tmp_path: Path, receipt: Receipt) -> None:
    public = put(tmp_path, receipt, "share", "ours")
    other = keys.make(tmp_path / "other.pem").public
    home = tmp_path / "home"
    assert find(Client(home).chain(request(tmp_path / "share")), receipt)
    assert find(Client(home).chain(request("/nowhere", trust=(public,))), receipt)
    assert find(Client(home).chain(request("/nowhere", trust=(other,))), receipt) is None
    (home / "page" / receipt.fingerprint / FETCHED).write_bytes(b"")  # as a power failure leaves it
    assert find(Client(home).chain(request("/nowhere", trust=(public,))), receipt) is None


def test_what_was_compiled_here_takes_the_place_of_what_was_fetched(tmp_path: Path, receipt: Receipt) -> None:
    put(tmp_path, receipt, "share")
    public = keys.make(tmp_path / "key.pem").public
    assert find(Client(tmp_path / "home").chain(request(tmp_path / "share")), receipt)
    chain = Client(tmp_path / "home").chain(request(tmp_path / "share", trust=(public,)))
    chain.put("page", tmp_path / "built", receipt)
    found = find(chain, receipt)
    assert found
    assert whole(found[0], receipt)
    assert receipts.FETCHED not in found[1].notes
    find(Client(tmp_path / "home").chain(request(tmp_path / "share")), receipt)
    assert find(chain, receipt), "and stays"


def test_what_is_signed_takes_the_place_of_what_was_fetched_unsigned(tmp_path: Path, receipt: Receipt) -> None:
    put(tmp_path, receipt, "share")
    public = put(tmp_path, receipt, "signed", "ours")
    assert find(Client(tmp_path / "home").chain(request(tmp_path / "share")), receipt)
    found = find(Client(tmp_path / "home").chain(request(tmp_path / "signed", trust=(public,))), receipt)
    assert found
    assert found[1].notes[receipts.FETCHED] == public


def test_a_signature_counts_for_the_receipt_that_it_is_of(tmp_path: Path, receipt: Receipt) -> None:
    signer, other = keys.make(tmp_path / "a.pem"), stand_in(tmp_path / "other", "rope")
    data = text(receipt, signer)
    assert signer_in(data, receipt) == signer.public
    assert signer_in(data, other) == ""
    assert signer_in(data.replace(b"0.7.4", b"0.7.5"), receipt) == ""
    assert signer_in(text(receipt, None), receipt) == ""
    stranger = keys.make(tmp_path / "b.pem").public
    assert signer_in(data.replace(signer.public[8:].encode(), stranger[8:].encode()), receipt) == ""


def test_why_tells_that_nobody_vouches_for_it(tmp_path: Path, receipt: Receipt) -> None:
    from fitasks.compile.judge.reasons import Reason, judgement
    from tests.store.elsewhere import Wanted

    put(tmp_path, receipt, "share")
    public = keys.make(tmp_path / "key.pem").public
    assert find(Client(tmp_path / "home").chain(request(tmp_path / "share")), receipt)
    shutil.rmtree(tmp_path / "share")
    client, wanted = Client(tmp_path / "home"), Wanted(receipt)
    chain = client.chain(request(tmp_path / "share", trust=(public,)))
    told = chain.explain(wanted, wanted, judgement("stale", [Reason("new", "never built")]))  # type: ignore[arg-type]
    assert told == ["not adopted from FlashInfer 0.7.4: no key that is trusted has signed it"]


# ---- where it would be put elsewhere


def test_what_was_fetched_is_only_put_elsewhere_where_a_trusted_key_vouches_for_it(
    tmp_path: Path, receipt: Receipt
) -> None:
    put(tmp_path, receipt, "plain")
    ours, own = put(tmp_path, receipt, "signed", "ours"), keys.make(tmp_path / "own.pem").public
    env = {keys.VARIABLE: str(tmp_path / "own.pem")}
    to = tmp_path / "to"
    for source, trust, sent in (
        ("plain", (), None),
        ("signed", (), None),
        ("signed", (own,), None),
        ("signed", (ours,), 3000),
    ):
        found = find(Client(tmp_path / f"home-{source}").chain(request(tmp_path / source)), receipt)
        assert found
        client = Client(tmp_path / "pusher")
        assert client.remote(request(to, push=True, trust=trust), env).share(*found) == sent, (source, trust)
        told = f"store {to}: page is not put there: it was fetched from a store, and no key that is trusted here"
        assert [line.startswith(told) for line in client.said] == [True] * (sent is None)
        assert bool(list(to.glob("v1/kernels/*/*"))) == (sent is not None)
    found = find(Client(tmp_path / "home-plain").chain(request(tmp_path / "plain")), receipt)
    assert found
    again = Client(tmp_path / "pusher")
    assert again.remote(request(tmp_path / "plain", push=True), env).share(*found) == 0, "it is there already"
    assert again.said == []


def test_a_kernel_that_was_adopted_keeps_the_note(shop: Workshop, tmp_path: Path) -> None:
    share = tmp_path / "share"
    for home, note in (("one", None), ("two", "unsigned"), ("two", "unsigned")):
        shop.store = Client(tmp_path / home).chain(request(share, push=True))  # type: ignore[assignment]
        shop.build(shop.kernel())
        found = receipts.read(shop.kernel())
        assert found
        assert found.notes.get(receipts.FETCHED) == note
        shutil.rmtree(shop.kernel().build_dir)
