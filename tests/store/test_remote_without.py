"""Without the packages of fitasks[store]: a line with the command that installs them, and all else goes on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from fitasks.store.remote import layout
from fitasks.store.remote.manifest import text
from tests.store.elsewhere import Client, find, request, stand_in

if TYPE_CHECKING:
    from pathlib import Path


def test_without_obstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    receipt = stand_in(tmp_path / "built")
    client = Client(tmp_path / "one")
    chain = client.chain(request(tmp_path / "share", push=True), env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert find(chain, receipt) is None
    chain.share(tmp_path / "built", receipt)
    needs = f"store {tmp_path}/share: needs the package obstore: pip install 'fitasks[store]'"
    assert client.said == [
        f"{needs}; it isn't asked again in this run",
        f"{needs}; nothing more is put there in this run",
    ]


def test_without_cryptography_no_signature_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    receipt, share = stand_in(tmp_path / "built"), tmp_path / "share"
    remote = Client(tmp_path / "one").remote(request(share, push=True), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert remote.share(tmp_path / "built", receipt)
    key = f"ed25519:{'A' * 43}="
    vouched = text(receipt, None).replace(b"unsigned", f"{key.replace(':', ' ')} {'A' * 86}==".encode())
    (share / layout.at(layout.KERNELS, receipt.fingerprint)).write_bytes(vouched)
    client = Client(tmp_path / "two")
    assert find(client.chain(request(share, trust=(key,))), receipt) is None
    assert "signed kernels need the package cryptography remedy: pip install 'fitasks[store]'" in client.said[0]
