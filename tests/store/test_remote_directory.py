"""A directory as a store for several machines: what is compiled on one is adopted on another, and only that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.compile.judge.reasons import Reason, judgement
from fitasks.compile.lock import module_lock
from fitasks.store.remote import layout
from tests.store.elsewhere import Client, find, request, stand_in, whole

if TYPE_CHECKING:
    from fitasks.store.chain import Chain
    from tests.workshop import Workshop

pytest.importorskip("obstore")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share"


def machine(workshop: Workshop, root: Path, share: Path, *, push: bool = False) -> Chain:
    """Another machine's store in front of the shared one; the workshop builds with it."""
    chain = Client(root / "store").chain(request(share, push=push))
    workshop.store = chain  # type: ignore[assignment]
    return chain


def test_what_one_machine_compiled_another_adopts(shop: Workshop, tmp_path: Path, share: Path) -> None:
    machine(shop, tmp_path / "one", share, push=True)
    kernel = shop.kernel()
    assert shop.build(kernel).outcome == "compiled"
    library = kernel.library.read_bytes()
    shutil.rmtree(kernel.build_dir)
    chain = machine(shop, tmp_path / "two", share)
    assert shop.build(kernel).outcome == "adopted"
    assert kernel.library.read_bytes() == library
    assert shop.ninja_would_run(kernel) == ""
    assert [entry.path.parent.name for entry in chain.local.contents()] == ["page"], "it is in this machine's own, too"
    (shop.include / "page_1.h").write_text("inline int own_1() { return 11; }\n")
    assert shop.build(kernel).outcome == "compiled", "and with another header there is none"


@pytest.mark.parametrize("force", [False, True])
def test_the_lock_is_free_while_a_store_is_waited_for(
    shop: Workshop, tmp_path: Path, share: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """A server waits for it, and not for our network: neither what is asked nor what is fetched happens under it."""
    machine(shop, tmp_path / "one", share, push=True)
    kernel = shop.kernel()
    shop.build(kernel)
    shutil.rmtree(kernel.build_dir)
    loop = machine(shop, tmp_path / "two", share)._loop
    real, waits = loop.wait, []

    def wait(begun: Any) -> Any:
        with module_lock(kernel.lock, timeout=0.01):
            waits.append(begun)
        return real(begun)

    monkeypatch.setattr(loop, "wait", wait)
    assert shop.builder().build(kernel, force=force).outcome == ("compiled" if force else "adopted")
    assert len(waits) == (0 if force else 2)


def test_without_push_nothing_is_written(shop: Workshop, tmp_path: Path, share: Path) -> None:
    share.mkdir()
    machine(shop, tmp_path / "one", share)
    assert shop.build(shop.kernel()).outcome == "compiled"
    assert list(share.iterdir()) == []


def test_fetch_only_compiles_nothing_and_says_what_lacks(shop: Workshop, tmp_path: Path, share: Path) -> None:
    machine(shop, tmp_path / "one", share, push=True)
    shop.build(shop.kernel())
    shutil.rmtree(shop.kernel().build_dir)
    machine(shop, tmp_path / "two", share)
    builder = shop.builder()
    builder.fetch_only = True
    assert builder.build(shop.kernel()).outcome == "adopted"
    with pytest.raises(
        KernelFailure, match="rope: not to be had from a store, and --fetch-only forbids to compile it: new: never"
    ):
        builder.build(shop.kernel("rope"))
    assert not shop.kernel("rope").library.exists()


def test_what_keeps_a_kernel_from_being_taken_is_told(shop: Workshop, tmp_path: Path, share: Path) -> None:
    machine(shop, tmp_path / "one", share, push=True)
    shop.build(shop.kernel())
    shutil.rmtree(shop.kernel().build_dir)

    def told() -> list[str]:
        return chain.explain(shop.kernel(), shop.judge(), shop.verdict(shop.kernel()))

    chain = machine(shop, tmp_path / "two", share)
    assert told() == [f"in the store {share}: compiled for FlashInfer , all inputs equal"]
    header = shop.include / "page_1.h"
    text = header.read_text()
    header.write_text("inline int own_1() { return 11; }\n")
    (line,) = told()
    assert line.startswith(
        f"not taken from {share}, compiled for FlashInfer : {{FLASHINFER}}/include/page_1.h changed ("
    )
    header.write_text(text)
    for file in share.glob("v1/files/*/*"):
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert shop.build(shop.kernel()).outcome == "compiled"
    (line,) = chain.explain(shop.kernel(), shop.judge(), judgement("stale", [Reason("changed", "x")]))
    assert line.startswith(f"not taken from {share}: page")
    assert line.endswith("isn't what its receipt says")


def test_of_one_question_there_are_several_answers(tmp_path: Path, share: Path) -> None:
    """The same module and commands, compiled from other headers."""
    receipts = []
    for flavour in ("a", "b", "c"):
        receipt = stand_in(tmp_path / flavour, flavour=flavour)
        object.__setattr__(receipt, "commands", "rule page")
        from fitasks.compile import receipt as module

        object.__setattr__(receipt, "inputs", f"{flavour * 64} {{FLASHINFER}}/page.h")
        made = module.fingerprint(receipt.commands, receipt.toolchain, receipt.inputs)
        object.__setattr__(receipt, "fingerprint", made)
        assert Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / flavour, receipt)
        receipts.append(receipt)
    assert len(list((share / "v1" / layout.INDEX).glob("*/*"))) == 1
    for receipt in receipts:
        found = find(Client(tmp_path / receipt.inputs[0]).chain(request(share)), receipt)
        assert found
        assert whole(found[0], receipt)


def test_what_is_there_is_not_sent_again(tmp_path: Path, share: Path) -> None:
    receipt = stand_in(tmp_path / "built")
    remote = Client(tmp_path / "one").remote(request(share, push=True))
    assert remote.share(tmp_path / "built", receipt) == 3000
    before = {path: path.stat().st_mtime_ns for path in share.rglob("*")}
    assert remote.share(tmp_path / "built", receipt) == 0
    assert {path: path.stat().st_mtime_ns for path in share.rglob("*")} == before
    (victim,) = share.glob(f"v1/files/*/{receipt.outputs['page.so'].sha256}")
    victim.write_bytes(b"torn")
    assert remote.share(tmp_path / "built", receipt) == 1000, "but what was torn is"


def test_a_file_that_was_damaged_is_put_there_again_by_who_compiles_it_instead(tmp_path: Path, share: Path) -> None:
    receipt = stand_in(tmp_path / "built")
    Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "built", receipt)
    (victim,) = share.glob(f"v1/files/*/{receipt.outputs['page.so'].sha256}")
    victim.write_bytes(b"x" * 1000)
    chain = Client(tmp_path / "two").chain(request(share, push=True))
    assert find(chain, receipt) is None
    chain.share(tmp_path / "built", receipt)
    assert find(Client(tmp_path / "three").chain(request(share)), receipt)


def test_a_file_that_is_not_what_was_built_is_not_sent(tmp_path: Path, share: Path) -> None:
    receipt = stand_in(tmp_path / "built")
    (tmp_path / "built" / "page.so").write_bytes(b"x" * 1000)
    client = Client(tmp_path / "one")
    assert client.remote(request(share, push=True)).share(tmp_path / "built", receipt) is None
    assert client.said == [f"store {share}: page is not put there: page.so isn't what was built"]
    assert not list(share.glob("v1/kernels/*/*")), "and there is no manifest"


def test_where_the_own_store_is_not_to_be_written_it_is_taken_all_the_same(tmp_path: Path, share: Path) -> None:
    receipt = stand_in(tmp_path / "built")
    Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "built", receipt)
    (tmp_path / "own").mkdir(mode=0o777)
    (tmp_path / "own").chmod(0o777)
    found = find(Client(tmp_path / "own").chain(request(share)), receipt)
    assert found
    assert whole(found[0], receipt)
    assert list((tmp_path / "own").iterdir()) == []


def test_what_a_killed_run_has_fetched_is_not_fetched_again(tmp_path: Path, share: Path) -> None:
    receipt = stand_in(tmp_path / "built", size=1000)
    Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "built", receipt)
    left = tmp_path / "two" / ".fetch" / receipt.fingerprint
    left.mkdir(parents=True)
    shutil.copy(tmp_path / "built" / "page.so", left)
    for place in share.glob(f"v1/files/*/{receipt.outputs['page.so'].sha256}"):
        place.unlink()  # whole already: it is not asked for
    half = receipt.outputs["page_0.o"].sha256
    data = (tmp_path / "built" / "page_0.o").read_bytes()
    (left / f".{half}.part").write_bytes(data[:400])
    garbage = receipt.outputs["page_1.o"].sha256
    (left / f".{garbage}.part").write_bytes(b"x" * 2000)
    found = find(Client(tmp_path / "two").chain(request(share)), receipt)
    assert found
    assert whole(found[0], receipt)
    assert not left.exists()


def test_one_that_is_full_fails_nothing_and_is_read_on(tmp_path: Path, full: Path) -> None:
    small, large = stand_in(tmp_path / "small", "page"), stand_in(tmp_path / "large", "rope", size=50_000)
    client = Client(tmp_path / "one")
    remote = client.remote(request(full / "share", push=True))
    assert remote.share(tmp_path / "small", small) == 3000
    assert remote.share(tmp_path / "large", large) is None
    assert remote.share(tmp_path / "large", large) is None
    assert len(client.said) == 1
    assert "No space left on device" in client.said[0]
    chain = Client(tmp_path / "two").chain(request(full / "share"))
    assert find(chain, small)
    assert find(chain, large) is None


def test_where_there_is_no_room_for_what_comes_it_is_compiled(tmp_path: Path, share: Path, full: Path) -> None:
    receipt = stand_in(tmp_path / "large", "rope", size=50_000)
    Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "large", receipt)
    client = Client(full / "own")
    assert find(client.chain(request(share)), receipt) is None
    assert client.said == [
        f"store {share}: what it has can't be kept here: No space left on device; it isn't asked again in this run"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may become another user")
def test_a_directory_that_is_read_only_is_read(tmp_path: Path, share: Path) -> None:
    """Of another user's, so that even root's tests meet one that can't be written."""
    receipt = stand_in(tmp_path / "built")
    Client(tmp_path / "one").remote(request(share, push=True)).share(tmp_path / "built", receipt)
    client = Client(tmp_path / "two")
    chain = client.chain(request("/proc/self/fdinfo", push=True), request(share))
    assert find(chain, receipt)
    assert chain.remotes[0].share(tmp_path / "built", receipt) is None
    assert len(client.said) == 1
    assert "nothing more is put there in this run" in client.said[0]
