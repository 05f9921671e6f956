"""What is in a store elsewhere, and what goes: by age and size, and nothing that was used lately."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.judge.reasons import Reason, judgement
from fitasks.doctor.stores import examine
from fitasks.store.remote import layout
from fitasks.store.remote.shelf import Removed
from fitasks.ui.store_table import local_lines, remote_lines, removed_line
from tests.store.elsewhere import Client, Wanted, find, request, stand_in

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.receipt import Receipt
    from fitasks.store.remote.remote import Remote

pytest.importorskip("obstore")
DAY = 24 * 3600
AGES = {"page": 100, "rope": 50, "norm": 40, "decode": 3}  # days


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Receipt]:
    made = {name: stand_in(tmp_path / name, name) for name in AGES}
    remote = Client(tmp_path / "one").remote(request(tmp_path / "share", push=True), {"HOME": str(tmp_path)})
    for name, receipt in made.items():
        assert remote.share(tmp_path / name, receipt) == 3000
    for name, age in AGES.items():
        kept = [layout.at(layout.FILES, one.sha256) for one in made[name].outputs.values()]
        for place in (layout.at(layout.KERNELS, made[name].fingerprint), *kept):
            aged(tmp_path / "share" / place, age)
    return made


def aged(file: Path, days: float) -> None:
    at = time.time() - days * DAY
    if file.exists():
        os.utime(file, (at, at))


@pytest.fixture
def remote(tmp_path: Path, stored: dict[str, Receipt]) -> Remote:
    return Client(tmp_path / "gc").remote(request(tmp_path / "share"))


def names(remote: Remote) -> list[str]:
    return [one.receipt.name if one.receipt else "?" for one in remote.contents().kernels]


def test_what_is_there(remote: Remote) -> None:
    assert names(remote) == list(AGES), "the least recently used first"
    lines = list(remote_lines(remote.url, remote.contents()))
    assert lines[0] == f"{remote.url}: 4 kernels, 4 versions, 12.0 kB"
    assert lines[1] == "  decode    1    3.0 kB  used 72 h 0 m ago"


@pytest.mark.parametrize(
    ("limit", "days", "left"),
    [
        (0, 30, ["decode"]),
        (0, 45, ["norm", "decode"]),
        (9000, 30, ["rope", "norm", "decode"]),
        (100_000, 30, list(AGES)),
        (0, 0, []),
        (0, 1000, list(AGES)),
    ],
)
def test_what_goes(remote: Remote, limit: int, days: int, left: list[str]) -> None:
    gone = len(AGES) - len(left)
    assert remote.clear(limit, days) == Removed(gone, 3000 * gone, len(left), 3000 * len(left))
    assert names(remote) == left
    assert remote.contents().bytes == 3000 * len(left)
    if left:
        assert removed_line("x", remote.clear(limit, days)).startswith("x: 0 kernels removed (0 B), ")


def test_what_was_taken_lately_stays(remote: Remote, stored: dict[str, Receipt], tmp_path: Path) -> None:
    """Noted by who may write, once a day."""
    share = tmp_path / "share"
    for push in (False, True, True):
        client = Client(tmp_path / f"two-{push}")
        assert find(client.chain(request(share, push=push), env={"HOME": str(tmp_path)}), stored["page"])
        assert client.said == []
    (use,) = share.glob("v1/used/*/*")
    assert use.name == stored["page"].fingerprint
    before = use.stat().st_ino
    assert find(
        Client(tmp_path / "three").chain(request(share, push=True), env={"HOME": str(tmp_path)}), stored["page"]
    )
    assert use.stat().st_ino == before, "once a day is enough"
    remote.clear(0, 30)
    assert names(remote) == ["decode", "page"]
    aged(use, 31)
    remote.clear(0, 30)
    assert names(remote) == ["decode"]
    assert list(share.glob("v1/used/*/*")) == []


def test_what_nobody_can_take_goes_and_what_is_being_put_there_stays(remote: Remote, tmp_path: Path) -> None:
    share = tmp_path / "share"
    old, new = "a" * 64, "b" * 64
    for name in (old, new):
        for kind in (layout.FILES, layout.KERNELS):
            place = share / layout.at(kind, name)
            place.parent.mkdir(exist_ok=True)
            place.write_text("torn")
            aged(place, 31 if name == old else 0)
    (share / "v1" / "files" / "notes.txt").write_text("somebody's own")
    assert "  8 B in files that no kernel names" in "\n".join(remote_lines("x", remote.contents()))
    remote.clear(100_000, 30)
    assert names(remote) == ["page", "rope", "norm", "decode", "?"]
    assert [path.name for path in share.glob("v1/*/*/*") if path.name in {old, new}] == [new, new]
    assert (share / "v1" / "files" / "notes.txt").exists()


def test_a_kernel_whose_file_is_lost_goes_once_it_is_old(
    remote: Remote, stored: dict[str, Receipt], tmp_path: Path
) -> None:
    for name in ("page", "decode"):
        (tmp_path / "share" / layout.at(layout.FILES, stored[name].outputs[f"{name}.so"].sha256)).unlink()
    remote.clear(100_000, 30)
    assert names(remote) == ["rope", "norm", "decode"]


def test_one_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="No such file or directory"):
        Client(tmp_path / "one").remote(request(tmp_path / "nowhere")).contents()


def test_this_machines_store_is_listed_alike(tmp_path: Path, stored: dict[str, Receipt]) -> None:
    chain = Client(tmp_path / "two").chain(request(tmp_path / "share"))
    assert find(chain, stored["page"])
    lines = list(local_lines(chain.local.root, chain.local.contents()))
    assert lines[0].startswith(f"{chain.local.root}: 1 kernels, 1 versions, ")


def test_one_store_that_is_gone_hides_no_other(
    tmp_path: Path, stored: dict[str, Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    from fitasks.graph.actions import share

    places = [tmp_path / "nowhere", tmp_path / "share", tmp_path / "gone"]
    remotes = Client(tmp_path / "one").chain(*map(request, places)).remotes
    with pytest.raises(EnvironmentProblem) as told:
        share._of_each(remotes, lambda one: remote_lines(one.url, one.contents()))
    assert capsys.readouterr().out.startswith(f"{tmp_path}/share: 4 kernels, ")
    assert [line.partition(": ")[0] for line in told.value.message.splitlines()] == [
        f"store {tmp_path}/nowhere",
        f"store {tmp_path}/gone",
    ]


def test_what_no_limit_removes_is_said() -> None:
    removed = Removed(0, 0, 1, 10)
    assert "within a day is never removed" in removed_line("x", removed, 0)
    assert removed_line("x", removed, 1) == "x: 0 kernels removed (0 B), 1 kept (10 B)"


def test_a_kernel_that_lacks_a_file_is_not_said_to_be_in_the_store(stored: dict[str, Receipt], tmp_path: Path) -> None:
    wanted = {name: Wanted(receipt) for name, receipt in stored.items()}
    (tmp_path / "share" / layout.at(layout.FILES, stored["page"].outputs["page_0.o"].sha256)).unlink()
    chain = Client(tmp_path / "two").chain(request(tmp_path / "empty"), request(tmp_path / "share"))
    for name, one in wanted.items():
        there = chain.holding([one], {one.target: one})  # type: ignore[list-item,dict-item]
        assert there == ({} if name == "page" else {name: f"{tmp_path}/share"})
        said = chain.explain(one, one, judgement("stale", [Reason("new", "never built")]))  # type: ignore[arg-type]
        assert ("and a file of it is gone" in said[-1]) == (name == "page")
        assert ("in the store" in said[-1]) == (name != "page")


def test_the_doctor_lists_each_store(stored: dict[str, Receipt], tmp_path: Path) -> None:
    key = f"ed25519:{'A' * 43}="
    known, gone = tmp_path / "share", str(tmp_path / "nowhere")
    found = list(examine([request(known, push=True, trust=(key,)), request(gone)], {"XDG_CONFIG_HOME": str(tmp_path)}))
    assert [(one.subject, one.state) for one in found] == [(str(known), "ok"), (gone, "note")]
    assert found[0].value == "answers; takes what 1 key signed; written, unsigned"
    assert found[1].value.endswith("; takes all; only read")
