"""Adoption of finished kernels: what may be adopted, what must not, and how the store stays whole and small."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base import temporary
from fitasks.compile import receipt as receipts
from fitasks.store.local import Store

if TYPE_CHECKING:
    from tests.workshop import Workshop


@pytest.fixture
def store(workshop: Workshop, tmp_path: Path) -> Store:
    workshop.store = Store(tmp_path / "store")
    return workshop.store


def upgrade(workshop: Workshop) -> None:
    """Another FlashInfer: another cache directory, the same package contents with new times."""
    old, workshop.version = workshop.workspace, "0.8.0"
    shutil.copytree(old / "generated", workshop.workspace / "generated")
    for path in workshop.include.iterdir():
        text = path.read_text()
        path.unlink()
        path.write_text(text)


def test_after_an_upgrade_an_unchanged_kernel_is_adopted_and_ninja_accepts_it(workshop: Workshop, store: Store) -> None:
    first = workshop.kernel()
    assert workshop.build(first).outcome == "compiled"
    upgrade(workshop)
    second = workshop.kernel()
    assert second.library != first.library
    assert workshop.build(second).outcome == "adopted"
    assert second.library.read_bytes() == first.library.read_bytes()
    assert workshop.ninja_would_run(second) == ""
    assert workshop.verdict(second).verdict == "fresh"
    receipt = receipts.read(second)
    assert receipt
    assert set(receipt.notes) == {"adopted_from", "adopted"}


def test_of_a_run_that_is_killed_while_it_puts_a_kernel_in_nothing_stays(workshop: Workshop, store: Store) -> None:
    kernel = workshop.kernel()
    workshop.build(kernel)
    receipt = receipts.read(kernel)
    assert receipt
    shutil.rmtree(store.root)
    script = (
        "import os, signal, sys, pickle\n"
        "from fitasks.store import local as store\n"
        "made, kernel, receipt = pickle.load(sys.stdin.buffer)\n"
        "store.copy_regular = lambda source, target: (target.touch(), os.kill(os.getpid(), signal.SIGKILL))\n"
        "made.put(kernel.name, kernel.build_dir, receipt)\n"
    )
    words = pickle.dumps((store, kernel, receipt))
    killed = subprocess.run([sys.executable, "-c", script], input=words, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[:13] for path in store.root.iterdir() if path.name != kernel.name] == [".fitasks-put-"]
    assert (store.contents(), store.gc(0)) == ([], [])
    temporary.sweep(store.root)  # as each run does
    assert [path.name for path in store.root.iterdir()] == [kernel.name]
    store.put(kernel.name, kernel.build_dir, receipt)
    assert len(store.contents()) == 1


def test_a_changed_header_forbids_it(workshop: Workshop, store: Store) -> None:
    workshop.build(workshop.kernel())
    upgrade(workshop)
    (workshop.include / "page_1.h").write_text("inline int own_1() { return 11; }\n")
    assert workshop.build(workshop.kernel()).outcome == "compiled"


def test_why_nothing_was_adopted_is_said_where_it_is_compiled(workshop: Workshop, store: Store) -> None:
    workshop.build(workshop.kernel())
    upgrade(workshop)
    for name in ("page_0.h", "page_1.h"):
        (workshop.include / name).write_text("inline int own_0() { return 11; }\ninline int own_1() { return 11; }\n")
    said: list[str] = []
    builder = workshop.builder()
    builder.runner = replace(builder.runner, say=said.append)
    builder.build(workshop.kernel())
    assert said[0].startswith("kernel:page: compiling 2 files; new: never built; not adopted from FlashInfer ")
    assert "{FLASHINFER}/include/page_0.h changed (" in said[0]
    assert said[0].endswith(") and 1 more")
    said.clear()
    builder.build(workshop.kernel("rope"))
    assert said[0] == "kernel:rope: compiling 2 files; new: never built", "nothing of it was ever stored"


def test_the_header_changed_back_is_adopted_again(workshop: Workshop, store: Store) -> None:
    kernel = workshop.kernel()
    header = workshop.include / "page_1.h"
    text = header.read_text()
    workshop.build(kernel)
    header.write_text("inline int own_1() { return 11; }\n")
    assert workshop.build(kernel).outcome == "compiled"
    header.write_text(text)
    assert workshop.build(kernel).outcome == "adopted"
    assert len(store.contents()) == 2


def test_other_commands_and_other_sources_forbid_it(workshop: Workshop, store: Store) -> None:
    kernel = workshop.kernel()
    workshop.build(kernel)
    assert workshop.build(workshop.with_flag(kernel, "-DX=1")).outcome == "compiled"
    kernel.sources[0].write_text(kernel.sources[0].read_text() + "int more;\n")
    assert workshop.build(kernel).outcome == "compiled"


def test_healing_one_cache_does_not_disturb_the_other(workshop: Workshop, store: Store) -> None:
    """They must not share inodes whose times ninja compares."""
    first = workshop.kernel()
    workshop.build(first)
    upgrade(workshop)
    second = workshop.kernel()
    workshop.build(second)
    assert workshop.ninja_would_run(first) in {"", workshop.ninja_would_run(first)}
    os.utime(next(second.build_dir.glob("*.o")), ns=(1, 1))
    assert workshop.build(second).outcome == "healed"
    before = {path.name: path.stat().st_mtime_ns for path in first.build_dir.glob("*.o")}
    workshop.build(second)
    assert {path.name: path.stat().st_mtime_ns for path in first.build_dir.glob("*.o")} == before


def in_both(workshop: Workshop) -> list[str]:
    """Build the kernel in the cache of one FlashInfer and in that of another; the outcomes."""
    outcomes: list[str] = []
    for workshop.version in ("0.7.2.post1", "0.8.0"):
        outcomes.append(workshop.build(workshop.kernel()).outcome)
        assert workshop.ninja_would_run(workshop.kernel()) == ""
    return outcomes


def test_two_caches_over_one_store_come_to_rest(workshop: Workshop, store: Store) -> None:
    """Healing one of them must not change what the other has proven."""
    assert in_both(workshop) == ["compiled", "adopted"]
    assert os.access(workshop.kernel().library, os.X_OK)
    assert in_both(workshop) == ["fresh", "fresh"]


def test_caches_that_share_a_file_part_when_one_is_healed(workshop: Workshop, store: Store) -> None:
    """As an earlier fitasks left them."""
    in_both(workshop)
    library = workshop.kernel().library
    library.unlink()
    (stored,) = store.root.glob("page/*/page.so")
    library.hardlink_to(stored)
    assert in_both(workshop) == ["fresh", "healed"]
    assert in_both(workshop) == ["fresh", "fresh"]


@pytest.mark.parametrize("suffix", [".so", ".o"])
def test_a_damaged_stored_file_is_not_adopted(workshop: Workshop, store: Store, suffix: str) -> None:
    kernel = workshop.kernel()
    workshop.build(kernel)
    (place,) = (stored.path for stored in store.contents())
    victim = next(path for path in place.iterdir() if path.suffix == suffix)
    data = victim.read_bytes()
    victim.unlink()  # a hard link: the cache keeps its bytes
    victim.write_bytes(data[:-1] + b"\xff")
    shutil.rmtree(kernel.build_dir)
    assert workshop.build(kernel).outcome == "compiled"


def stored(workshop: Workshop, store: Store) -> Path:
    """The one entry, of a kernel that is gone from the cache."""
    kernel = workshop.kernel()
    workshop.build(kernel)
    (entry,) = store.contents()
    shutil.rmtree(kernel.build_dir)
    return entry.path


@pytest.mark.parametrize("damage", ["altered", "cut", "lost", "no receipt", "another receipt", "a file"])
def test_a_damaged_entry_is_replaced_and_promised_to_nobody(workshop: Workshop, store: Store, damage: str) -> None:
    place, kernel = stored(workshop, store), workshop.kernel()
    receipt = place / receipts.NAME
    match damage:
        case "altered":
            (place / "page.so").write_bytes(b"x" * (place / "page.so").stat().st_size)
        case "cut":
            os.truncate(place / "page_0.o", 10)
        case "lost":
            (place / "page_1.o").unlink()
        case "no receipt":
            receipt.unlink()
        case "another receipt":
            receipt.write_text(receipt.read_text().replace("page_0.h", "page_9.h"))
        case "a file":
            shutil.rmtree(place)
            place.write_text("")
    told = store.told(kernel, workshop.judge(), workshop.verdict(kernel))
    assert told == (
        ["not adopted from FlashInfer : its files in the store are damaged"]
        if damage in {"altered", "cut", "lost"}
        else []
    )
    assert workshop.build(kernel).outcome == "compiled"
    shutil.rmtree(kernel.build_dir)
    (promised,) = store.told(kernel, workshop.judge(), workshop.verdict(kernel))
    assert promised.startswith("will be adopted")
    assert workshop.build(kernel).outcome == "adopted"
    assert [entry.name for entry in place.parent.iterdir()] == [place.name], "and nothing is left over"


def test_what_befalls_a_cache_does_not_befall_the_store(workshop: Workshop, store: Store) -> None:
    kernel = workshop.kernel()
    workshop.build(kernel)
    for name in ("page.so", "page_0.o"):
        with (kernel.build_dir / name).open("r+b") as stream:  # in place, as a bad disk or a careless tool would
            stream.write(b"damaged")
    receipts.path_of(kernel).unlink()
    assert workshop.build(kernel).outcome == "adopted"
    assert workshop.verdict(kernel).verdict == "fresh"


def plant(place: Path, name: str, **fields: object) -> None:
    """Another receipt, which fits its entry: as somebody would make it on purpose."""
    said = json.loads((place / receipts.NAME).read_text()) | fields
    said.pop("seal")
    said["outputs"][name] = said["outputs"]["page.so"]
    (place / receipts.NAME).write_text(json.dumps(said))


@pytest.mark.parametrize("name", ["../victim.so", "{root}/victim.so", "..", "", "more/page.o", "evil.sh"])
def test_an_entry_that_names_other_places_is_none(workshop: Workshop, store: Store, name: str) -> None:
    """Whose bytes are what the receipt says: those of another file would be replaced by them, or the file be deleted."""
    place, name = stored(workshop, store), name.format(root=workshop.root)
    victims = [workshop.root / "victim.so", workshop.kernel().build_dir.parent / "victim.so"]
    for copy in (*victims, place.parent / "victim.so", place / "evil.sh", place / "more" / "page.o"):
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(place / "page.so", copy)
    before = [victim.stat().st_ino for victim in victims]
    plant(place, name)
    assert workshop.build(workshop.kernel()).outcome == "compiled"
    assert [victim.stat().st_ino for victim in victims] == before
    assert not (workshop.kernel().build_dir / "evil.sh").exists()


@pytest.mark.parametrize("kind", ["link", "link to a receipt", "pipe", "directory", "linked entry", "linked module"])
def test_only_regular_files_are_taken(workshop: Workshop, store: Store, kind: str) -> None:
    """A link among objects would have another user's file copied, a pipe be waited for."""
    place, kernel = stored(workshop, store), workshop.kernel()
    victim = place / (receipts.NAME if kind == "link to a receipt" else "page_0.o")
    aside = workshop.root / "aside"
    if kind.startswith("linked"):
        linked = place if kind == "linked entry" else place.parent
        linked.rename(aside)
        linked.symlink_to(aside)
        assert store.contents() == [], "nor does gc go there"
    else:
        victim.rename(aside)
        {"link": lambda: victim.symlink_to(aside), "pipe": lambda: os.mkfifo(victim)}.get(
            kind.partition(" ")[0], victim.mkdir
        )()
    assert workshop.build(kernel).outcome == "compiled"
    assert aside.exists()


# ---- a store that others may write


@pytest.fixture
def spread(workshop: Workshop, store: Store) -> Path:
    """The root of a store that has the kernel which is wanted."""
    stored(workshop, store)
    return store.root


@pytest.mark.parametrize("place", ["", "..", "page", "page/*"])
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_store_that_others_may_write_is_refused(
    workshop: Workshop, store: Store, spread: Path, place: str, mode: int
) -> None:
    """A sticky directory, like /tmp, is no harm above it: nobody can rename what is ours there."""
    directory = spread.parent if place == ".." else next(spread.glob(place)) if place else spread
    directory.chmod(mode)
    harmless = mode == 0o1777 and place in {"..", "page"}
    try:
        assert workshop.build(workshop.kernel()).outcome == ("adopted" if harmless else "compiled")
    finally:
        directory.chmod(0o700)
    if place in {"", ".."} and not harmless:
        directory.chmod(mode)
        assert store.refusal == f"everybody may write to {directory}"
        directory.chmod(0o700)


def test_one_that_is_shared_on_purpose_is_used(workshop: Workshop, store: Store, spread: Path) -> None:
    spread.chmod(0o777)
    workshop.store = Store(spread, shared=True)
    assert workshop.build(workshop.kernel()).outcome == "adopted"


def test_of_a_refused_store_it_is_said_what_was_not_adopted(workshop: Workshop, store: Store, spread: Path) -> None:
    spread.chmod(0o777)
    kernel = workshop.kernel()
    told = store.told(kernel, workshop.judge(), workshop.verdict(kernel))
    assert told == [f"not adopted from {spread}: everybody may write to {spread}"]
    rope = workshop.kernel("rope")
    assert store.told(rope, workshop.judge(), workshop.verdict(rope)) == []


def test_a_lax_umask_has_no_store_refused(workshop: Workshop, store: Store) -> None:
    before = os.umask(0)
    try:
        workshop.build(workshop.kernel())
    finally:
        os.umask(before)
    assert store.refusal == ""
    assert len(store.contents()) == 1


def test_gc_removes_the_least_recently_used(workshop: Workshop, store: Store) -> None:
    for name in ("page", "rope", "norm"):
        workshop.build(workshop.kernel(name))
    entries = store.contents()
    for age, entry in enumerate(entries):
        os.utime(entry.path, ns=(age, age))
    removed = store.gc(limit=entries[1].bytes + entries[2].bytes)
    assert [entry.path for entry in removed] == [entries[0].path]
    assert [entry.path for entry in store.contents()] == [entries[1].path, entries[2].path]


def test_a_store_that_cannot_be_written_is_no_obstacle(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    workshop.store = Store(tmp_path / "file" / "store")
    assert workshop.build(workshop.kernel()).outcome == "compiled"
    assert workshop.store.contents() == []
