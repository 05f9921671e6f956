"""Who may write: signatures, what is believed of a manifest, and what an entry from elsewhere can't do."""

from __future__ import annotations

import json
import random
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import receipt as receipts
from fitasks.compile.receipt import Output
from fitasks.config.stores import is_key
from fitasks.graph.actions import share
from fitasks.store.remote import keys, layout
from fitasks.store.remote.manifest import believed, signed_by, text
from fitasks.store.remote.trouble import Refused, line
from tests.store.elsewhere import Client, find, request, stand_in

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.receipt import Receipt

pytest.importorskip("cryptography")


@pytest.fixture
def receipt(tmp_path: Path) -> Receipt:
    return stand_in(tmp_path / "built")


@pytest.fixture
def signer(tmp_path: Path) -> keys.Signer:
    return keys.make(tmp_path / "keys" / "signing.pem")


# ---- keys


def test_a_key_is_its_owners_alone_and_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "config" / "signing.pem"
    made = keys.make(file)
    assert is_key(made.public)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys.read(file).public == made.public
    with pytest.raises(EnvironmentProblem, match="is there already, and is not replaced"):
        keys.make(file)
    words = ["openssl", "pkey", "-in", str(file), "-noout", "-text"]
    assert "ED25519" in subprocess.run(words, capture_output=True, text=True, check=True).stdout, "others know it, too"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.chmod(0o640), "others may read or write it"),
        (lambda file: file.write_text("garbage"), "not an ed25519 key"),
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_bytes(b"\0" * 100_000), "not an ed25519 key"),
    ],
)
def test_a_key_that_cannot_be_used_is_told(tmp_path: Path, spoil: object, said: str) -> None:
    keys.make(file := tmp_path / "signing.pem")
    spoil(file)  # type: ignore[operator]
    with pytest.raises(EnvironmentProblem, match=said) as told:
        keys.signer_of({keys.VARIABLE: str(file)})
    assert str(file) in str(told.value)


def test_where_nobody_named_a_key_the_usual_one_signs(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert keys.signer_of(env) is None
    made = keys.make(keys.usual_file(env))
    signer = keys.signer_of(env)
    assert signer
    assert signer.public == made.public


# ---- manifests


def test_what_a_trusted_key_signed_is_believed(receipt: Receipt, signer: keys.Signer) -> None:
    data = text(receipt, signer)
    assert believed(data, receipt.fingerprint, (signer.public,)) == receipt
    assert believed(data, receipt.fingerprint, ()) == receipt
    assert signed_by(data) == signer.public


def test_who_has_not_signed_it_is_refused(receipt: Receipt, signer: keys.Signer, tmp_path: Path) -> None:
    other = keys.make(tmp_path / "other.pem")
    for data, why in (
        (text(receipt, None), "it is unsigned"),
        (text(receipt, other), "it is signed by a key that kernels.yaml doesn't trust"),
        (text(receipt, other).replace(other.public[8:].encode(), signer.public[8:].encode()), "doesn't hold"),
    ):
        with pytest.raises(Refused, match=why):
            believed(data, receipt.fingerprint, (signer.public,))


def test_the_signature_of_one_kernel_is_none_of_another(receipt: Receipt, signer: keys.Signer, tmp_path: Path) -> None:
    other = stand_in(tmp_path / "other", "rope")
    vouched = text(receipt, signer).split(b"\n", 2)[1]
    forged = text(other, signer).split(b"\n", 2)
    with pytest.raises(Refused, match="its signature doesn't hold"):
        believed(b"\n".join([forged[0], vouched, forged[2]]), other.fingerprint, (signer.public,))
    with pytest.raises(Refused, match="its receipt is that of another kernel"):
        believed(text(receipt, signer), other.fingerprint, (signer.public,))
    with pytest.raises(Refused, match="its receipt is that of another module"):
        believed(text(receipt, signer), receipt.fingerprint, (signer.public,), "rope")


def test_any_altered_byte_is_refused(receipt: Receipt, signer: keys.Signer) -> None:
    """Each byte once, and 2,000 of several at random: what is still believed is what was signed."""
    data = text(receipt, signer)
    chosen = random.Random(1)
    for place in [*range(len(data)), *(None,) * 2000]:
        spots = [place] if place is not None else [chosen.randrange(len(data)) for _ in range(3)]
        altered = bytearray(data)
        for spot in spots:
            altered[spot] ^= chosen.randrange(1, 256)
        if bytes(altered) == data:
            continue
        try:
            found = believed(bytes(altered), receipt.fingerprint, (signer.public,))
        except Refused:
            continue
        assert found == receipt


@pytest.mark.parametrize(
    "name", ["../../victim.so", "/etc/passwd", "..", "", "sub/page.o", "run.sh", "a\x1b[2J.o", "é" * 200 + ".o"]
)
def test_a_signed_path_stays_below_its_root(receipt: Receipt, signer: keys.Signer, name: str) -> None:
    """Even of one whose signature is right: a key may be stolen, or its owner make mistakes."""
    outputs = receipt.outputs | {name: receipt.outputs["page.so"]}
    with pytest.raises(Refused):
        believed(text(replace(receipt, outputs=outputs), signer), receipt.fingerprint, (signer.public,))


def test_what_is_too_large_or_cannot_be_shown_is_refused(receipt: Receipt) -> None:
    huge = receipt.outputs | {"page.so": Output("0" * 64, layout.KERNEL_BYTES, 1)}
    many = receipt.outputs | {f"{number}.o": Output("0" * 64, 1, 1) for number in range(layout.MOST_FILES)}
    path = receipt.outputs | {"page.so": Output("../../victim", 1, 1)}
    for wrong, why in (
        (replace(receipt, outputs=huge), "larger than a kernel can be"),
        (replace(receipt, outputs=many), "larger than a kernel can be"),
        (replace(receipt, outputs=path), "has no hashes"),
        (replace(receipt, flashinfer="\x1b[2J"), "can't be shown"),
        (replace(receipt, target="x" * 1000), "can't be shown"),
    ):
        with pytest.raises(Refused, match=why):
            believed(text(wrong, None), receipt.fingerprint, ())


@pytest.mark.parametrize("path", ["/proc/kmsg", "//dev/zero", "/./sys/x", "{CUDA}/../../proc/kmsg", "/usr/../dev/tty"])
def test_an_input_that_no_build_reads_is_refused(receipt: Receipt, path: str) -> None:
    inputs = f"{receipt.inputs}\n{'0' * 64} {path}"
    made = receipts.fingerprint(receipt.commands, receipt.toolchain, inputs)
    wrong = replace(receipt, inputs=inputs, fingerprint=made)
    with pytest.raises(Refused, match="as an input, which no build has"):
        believed(text(wrong, None), made, ())


@pytest.mark.parametrize("path", ["/usr/include/c++/12/proc", "{FLASHINFER}/dev/x.h", "/opt/a..b/x.h", "proc/x.h"])
def test_other_inputs_are_believed(receipt: Receipt, path: str) -> None:
    inputs = f"{receipt.inputs}\n{'0' * 64} {path}"
    made = receipts.fingerprint(receipt.commands, receipt.toolchain, inputs)
    assert believed(text(replace(receipt, inputs=inputs, fingerprint=made), None), made, ())


def test_an_index_is_only_a_hint() -> None:
    good = ["ab" * 32, "cd" * 32]
    assert layout.answers(layout.index(good)) == good
    for wrong in (b"", b"[]", b"{", b'{"version": 2}', b"[" * 10_000, b'{"version": 1, "kernels": 7}', b"\xff"):
        assert layout.answers(wrong) == []
    hostile = {"version": 1, "kernels": ["../../etc", 7, None, "AB" * 32, *good, *good]}
    assert layout.answers(json.dumps(hostile).encode()) == good


# ---- from one machine to another


def test_only_what_a_trusted_key_signed_is_taken_and_the_rest_is_said_once(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    ours, theirs = (keys.make(tmp_path / name / "signing.pem") for name in ("ours", "theirs"))
    share = tmp_path / "share"
    made = {}
    for name, key in (("page", "ours"), ("rope", "theirs"), ("norm", ""), ("decode", "")):
        made[name] = stand_in(tmp_path / name, name)
        env = {keys.VARIABLE: str(tmp_path / key / "signing.pem")} if key else {"XDG_CONFIG_HOME": str(tmp_path)}
        assert Client(tmp_path / "a").remote(request(share, push=True), env).share(tmp_path / name, made[name])
    client = Client(tmp_path / "b")
    chain = client.chain(request(share, trust=(ours.public,)))
    assert [name for name, receipt in made.items() if find(chain, receipt)] == ["page"]
    told = (
        "rope is not taken: it is signed by a key that kernels.yaml doesn't trust; further ones are told by `doit why`"
    )
    assert client.said == [f"store {share}: {told} alone"]
    both = Client(tmp_path / "c").chain(request(share, trust=(ours.public, theirs.public)))
    assert [name for name, receipt in made.items() if find(both, receipt)] == ["page", "rope"]


def test_who_signs_takes_the_place_of_who_does_not(tmp_path: Path, receipt: Receipt, signer: keys.Signer) -> None:
    pytest.importorskip("obstore")
    share, env = tmp_path / "share", {keys.VARIABLE: str(tmp_path / "keys" / "signing.pem")}
    for name, given in (
        ("plain", {"XDG_CONFIG_HOME": str(tmp_path)}),
        ("signed", env),
        ("plain", {"XDG_CONFIG_HOME": str(tmp_path)}),
    ):
        remote = Client(tmp_path / name).remote(request(share, push=True), given)
        assert remote.share(tmp_path / "built", receipt) is not None
    assert find(Client(tmp_path / "b").chain(request(share, trust=(signer.public,))), receipt), "and isn't replaced"


def test_what_a_trusted_key_has_signed_is_not_replaced_by_another_key(tmp_path: Path, receipt: Receipt) -> None:
    pytest.importorskip("obstore")
    share = tmp_path / "share"
    ours, theirs = (keys.make(tmp_path / f"{name}.pem").public for name in ("ours", "theirs"))

    def push(key: str, trust: tuple[str, ...]) -> list[str]:
        client = Client(tmp_path / "by")
        remote = client.remote(request(share, push=True, trust=trust), {keys.VARIABLE: str(tmp_path / key)})
        assert remote.share(tmp_path / "built", receipt) is not None
        return client.said

    def taken(trust: str) -> bool:
        return (
            find(Client(tmp_path / f"reader-{trust[8:12]}").chain(request(share, trust=(trust,))), receipt) is not None
        )

    assert push("ours.pem", ()) == []
    (line,) = push("theirs.pem", (ours, theirs))
    assert line.startswith(f"store {share}: page is there, signed by {ours}, which isn't replaced")
    assert taken(ours)
    (line,) = push("theirs.pem", ())
    assert "signed by" in line
    assert "with `trust:`, only keys that it names are left so" in line
    assert taken(ours), "who names no keys replaces none"
    assert push("theirs.pem", (theirs,)) == [], "of a key that says nothing here"
    assert taken(theirs)
    for file in share.glob("v1/files/*/*"):
        file.unlink()
    assert len(push("ours.pem", (theirs,))) == 1
    shutil.rmtree(tmp_path / f"reader-{theirs[8:12]}")
    assert taken(theirs), "its files are put there again"


def test_another_build_does_not_repair_what_a_trusted_key_has_signed(tmp_path: Path, receipt: Receipt) -> None:
    pytest.importorskip("obstore")
    share, ours = tmp_path / "share", keys.make(tmp_path / "ours.pem").public
    env = {keys.VARIABLE: str(tmp_path / "ours.pem")}
    Client(tmp_path / "one").remote(request(share, push=True), env).share(tmp_path / "built", receipt)
    for file in share.glob("v1/files/*/*"):
        file.unlink()
    before = [path.read_bytes() for path in share.glob("v1/kernels/*/*")]
    other = replace(receipt, outputs=stand_in(tmp_path / "other", flavour="x").outputs)
    client = Client(tmp_path / "two")
    remote = client.remote(request(share, push=True, trust=(ours,)), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert remote.share(tmp_path / "other", other) is None
    assert "isn't replaced" in client.said[0]
    assert [path.read_bytes() for path in share.glob("v1/kernels/*/*")] == before


def test_without_the_package_a_key_is_an_error_in_words(
    tmp_path: Path, receipt: Receipt, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    keys.make(tmp_path / "signing.pem")
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    client = Client(tmp_path / "a")
    remote = client.remote(request(tmp_path / "share", push=True), {keys.VARIABLE: str(tmp_path / "signing.pem")})
    assert remote.share(tmp_path / "built", receipt) is None
    assert "signed kernels need the package cryptography" in client.said[0]


def test_a_key_that_cannot_be_used_keeps_kernels_from_being_put(tmp_path: Path, receipt: Receipt) -> None:
    """They would be unsigned, which nobody wants who has named a key."""
    pytest.importorskip("obstore")
    client = Client(tmp_path / "a")
    remote = client.remote(request(tmp_path / "share", push=True), {keys.VARIABLE: "/nowhere/signing.pem"})
    assert remote.share(tmp_path / "built", receipt) is None
    assert "signing key /nowhere/signing.pem: No such file or directory" in client.said[0]
    assert not (tmp_path / "share").exists()


def test_what_a_service_says_is_shown_without_secrets() -> None:
    said = "GET https://user:secret@host/a?sig=secret&se=1 failed\x1b[2J\nDebug source: secret"
    assert line(said) == "GET https://host/a failed?[2J"
    assert len(line("x" * 10_000)) == 160
    assert receipts.parse(b"\xff\xfe") is None


def test_a_key_elsewhere_is_used_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    share.keygen([])
    assert capsys.readouterr().out.startswith(
        f"{tmp_path}/config/fitasks/signing.pem: kernels that this user puts into stores are signed with it\n"
    )
    share.keygen([f"{tmp_path}/other.pem"])
    assert f"signed with it, where FITASKS_SIGNING_KEY={tmp_path}/other.pem is set\n" in capsys.readouterr().out
    with pytest.raises(EnvironmentProblem, match="keygen makes one key, not 2"):
        share.keygen(["a", "b"])
