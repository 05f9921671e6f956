"""Receipts, in a cache and in the store, altered in any way: nothing raises, nothing false is fresh, nothing is touched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.compile import receipt as receipts
from fitasks.compile.judge.contents import Contents
from fitasks.compile.ninja.ninja import DEPS, LOG, find_ninja
from fitasks.compile.pool.pool import Pool
from fitasks.cuda.probe import ProbeMemo
from fitasks.store.local import Store
from tests.mutants import JSON, altered_bytes, altered_json
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge

FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """With `page` built and stored, and files around both that are nobody's business."""
    root = tmp_path_factory.mktemp("shop")
    made = Workshop(root, find_ninja(dict(os.environ), ProbeMemo(root / "probe.json")), Pool(2))
    made.store = Store(root / "store")
    assert made.build(made.kernel()).outcome == "compiled"
    library = made.kernel().library
    for copy in (root / "victim.so", library.parents[1] / "victim.so", root / "store" / "page" / "victim.so"):
        shutil.copy(library, copy)  # of which a receipt may say the truth
    return made


@pytest.fixture(scope="module")
def judge(shop: Workshop) -> Judge:
    return shop.judge()


def outside(shop: Workshop) -> dict[str, tuple[int, int]]:
    """Every file but those of the module's own directories and receipts."""
    own = {shop.kernel().build_dir, shop.root / "taken"}
    files = (path for path in shop.root.rglob("*") if path.is_file() and path.parent not in own)
    stats = {str(path): path.stat() for path in files if path.name != receipts.NAME}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@contextlib.contextmanager
def put_back(file: Path) -> Iterator[None]:
    """Whatever the block makes of it."""
    whole = file.read_bytes()
    try:
        yield
    finally:
        file.write_bytes(whole)


NAMES = ["page_0.o", "../victim.so", "{root}/victim.so", "page.so", "..", LOG, "a\0.o", "/etc/passwd", "x" * 300 + ".o"]
LINE = "0" * 64
INPUTS = ["", LINE, f"{LINE} ", f"{LINE} a\0b", f"{LINE}\t/etc/passwd", "x", f"{LINE} {{SITE}}/x", "\n\n"]


def hostile(shop: Workshop, whole: str) -> st.SearchStrategy[str]:
    """As somebody would make it who knows what is looked at: without a seal, its names and inputs altered."""
    said = json.loads(whole)
    del said["seal"]
    output = said["outputs"]["page.so"]
    names = [name.format(root=shop.root) for name in NAMES]
    other = st.sampled_from(names).map(lambda name: [name]) | st.lists(st.text(max_size=5), max_size=2)
    more = other.map(lambda names: json.dumps(said | {"outputs": said["outputs"] | dict.fromkeys(names, output)}))
    lines = st.lists(st.sampled_from([*INPUTS, *said["inputs"].split("\n")]) | st.text(max_size=70)).map("\n".join)
    return more | lines.map(lambda inputs: json.dumps(said | {"inputs": inputs}))


@FEW
@given(data=st.data())
def test_a_receipt_of_any_content_is_judged(shop: Workshop, judge: Judge, data: st.DataObject) -> None:
    kernel = shop.kernel()
    file, before = receipts.path_of(kernel), outside(shop)
    whole = file.read_text()
    with put_back(file):
        file.write_text(
            data.draw(st.one_of(altered_json(whole), hostile(shop, whole), JSON.map(json.dumps), st.text())),
            errors="replace",
        )
        judge.refreshed().judge(kernel)
        found = receipts.read(kernel)
        assert found is None or {"page.so", LOG, DEPS} <= found.outputs.keys()
        assert outside(shop) == before


@FEW
@given(data=st.data())
def test_a_damaged_receipt_is_never_fresh(shop: Workshop, judge: Judge, data: st.DataObject) -> None:
    kernel = shop.kernel()
    file = receipts.path_of(kernel)
    whole, vouched = file.read_bytes(), receipts.read(kernel)
    assert judge.refreshed().judge(kernel).verdict == "fresh", "so that what follows means something"
    with put_back(file):
        file.write_bytes(data.draw(altered_bytes(whole)))
        if judge.refreshed().judge(kernel).verdict == "fresh":
            assert receipts.read(kernel) == vouched


@FEW
@given(data=st.data())
def test_an_entry_of_any_content_touches_nothing(shop: Workshop, judge: Judge, data: st.DataObject) -> None:
    """Also where it is damaged so that its fingerprint fits, as somebody would make it on purpose."""
    assert shop.store
    kernel = shop.kernel()
    (entry,) = shop.store.contents()
    file, before = entry.path / receipts.NAME, outside(shop)
    whole = file.read_text()
    taken = replace(kernel, build_dir=shop.root / "taken")
    taken.build_dir.mkdir(exist_ok=True)
    with put_back(file):
        file.write_text(data.draw(hostile(shop, whole) | altered_json(whole)), errors="replace")
        if found := shop.store.find(kernel, judge.refreshed()):
            shop.store.take(*found, taken.build_dir)
        shop.store.explain(kernel, judge.refreshed(), judge.refreshed().judge(taken))
        assert outside(shop) == before


@FEW
@given(data=st.data())
def test_damaged_files_of_an_entry_are_not_adopted(shop: Workshop, judge: Judge, data: st.DataObject) -> None:
    assert shop.store
    kernel = shop.kernel()
    (entry,) = shop.store.contents()
    file = entry.path / data.draw(st.sampled_from(["page.so", "page_0.o"]))
    whole = file.read_bytes()
    damaged = data.draw(altered_bytes(whole))
    with put_back(file):
        file.write_bytes(damaged)
        assert (shop.store.find(kernel, judge.refreshed()) is None) == (damaged != whole)


def test_a_receipt_with_a_nul_in_a_path(shop: Workshop, tmp_path: Path) -> None:
    kernel = shop.kernel()
    file = receipts.path_of(kernel)
    whole = file.read_text()
    said = json.loads(whole)
    del said["seal"]
    with put_back(file):
        file.write_text(json.dumps(said | {"inputs": f"{LINE} /usr/include/a\0b.h"}))
        assert shop.verdict(kernel).verdict == "stale"
    assert Contents(tmp_path / "memo").state("/usr/a\0b") is None
