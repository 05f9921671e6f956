"""Adoption of finished kernels: what may be adopted, what must not, and how the store stays whole and small."""

from __future__ import annotations

import errno
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
from fitasks.compile.judge.reasons import Judgement, Kind, Reason
from fitasks.compile.ninja.ninja import LOG
from fitasks.store.local import Store, Stored

if TYPE_CHECKING:
    from fitasks.compile.receipt import Receipt
    from tests.workshop import Workshop


@pytest.fixture
def workshop(shop: Workshop) -> Workshop:
    return shop


@pytest.fixture
def store(workshop: Workshop) -> Store:
    workshop.store = Store(workshop.root / "store")
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
    first = workshop.built()
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
    kernel = workshop.built()
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
    workshop.built()
    upgrade(workshop)
    (workshop.include / "page_1.h").write_text("inline int own_1() { return 11; }\n")
    assert workshop.build(workshop.kernel()).outcome == "compiled"


def test_why_nothing_was_adopted_is_said_where_it_is_compiled(workshop: Workshop, store: Store) -> None:
    workshop.built()
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
    kernel = workshop.built()
    assert workshop.build(workshop.with_flag(kernel, "-DX=1")).outcome == "compiled"
    kernel.sources[0].write_text(kernel.sources[0].read_text() + "int more;\n")
    assert workshop.build(kernel).outcome == "compiled"


def test_healing_one_cache_does_not_disturb_the_other(workshop: Workshop, store: Store) -> None:
    """They must not share inodes whose times ninja compares."""
    first = workshop.built()
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
    kernel = workshop.built()
    (place,) = (stored.path for stored in store.contents())
    victim = next(path for path in place.iterdir() if path.suffix == suffix)
    data = victim.read_bytes()
    victim.unlink()  # a hard link: the cache keeps its bytes
    victim.write_bytes(data[:-1] + b"\xff")
    shutil.rmtree(kernel.build_dir)
    assert workshop.build(kernel).outcome == "compiled"


def stored(workshop: Workshop, store: Store) -> Path:
    """The one entry, of a kernel that is gone from the cache."""
    kernel = workshop.built()
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
    told = store.explain(kernel, workshop.judge(), workshop.verdict(kernel))
    assert told == (
        ["not adopted from FlashInfer : its files in the store are damaged"]
        if damage in {"altered", "cut", "lost"}
        else []
    )
    assert workshop.build(kernel).outcome == "compiled"
    shutil.rmtree(kernel.build_dir)
    (promised,) = store.explain(kernel, workshop.judge(), workshop.verdict(kernel))
    assert promised.startswith("will be adopted")
    assert workshop.build(kernel).outcome == "adopted"
    assert [entry.name for entry in place.parent.iterdir()] == [place.name], "and nothing is left over"


def test_what_befalls_a_cache_does_not_befall_the_store(workshop: Workshop, store: Store) -> None:
    kernel = workshop.built()
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
    told = store.explain(kernel, workshop.judge(), workshop.verdict(kernel))
    assert told == [f"not adopted from {spread}: everybody may write to {spread}"]
    rope = workshop.kernel("rope")
    assert store.explain(rope, workshop.judge(), workshop.verdict(rope)) == []


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


# ---- what lies there, and what is said of it


def alter(place: Path, **fields: object) -> Receipt:
    """The entry's receipt with other fields, which fit it."""
    said = json.loads((place / receipts.NAME).read_text()) | fields
    said.pop("seal", None)
    (place / receipts.NAME).write_text(json.dumps(said))
    receipt = receipts.read_file(place / receipts.NAME, "page")
    assert receipt
    return receipt


def another(place: Path, **fields: object) -> Path:
    """A second entry of the same files, made from other things."""
    twin = shutil.copytree(place, place.parent / "twin")
    receipt = alter(twin, **fields)
    name = receipts.fingerprint(receipt.commands, receipt.toolchain, receipt.inputs)
    alter(twin, fingerprint=name)
    return twin.rename(place.parent / name)


def told(workshop: Workshop, store: Store) -> list[str]:
    kernel = workshop.kernel()
    told: list[str] = store.explain(kernel, workshop.judge(), workshop.verdict(kernel))
    return told


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_an_entry_is_all_that_was_built_but_ninjas_logs(workshop: Workshop, store: Store) -> None:
    kernel = workshop.built()
    receipt = receipts.read(kernel)
    assert receipt
    (entry,) = store.contents()
    assert entry.path == store.root / "page" / receipt.fingerprint
    assert sorted(path.name for path in entry.path.iterdir()) == [receipts.NAME, "page.so", "page_0.o", "page_1.o"]
    assert receipts.read_file(entry.path / receipts.NAME, "page") == receipt
    assert entry.bytes == sum(path.stat().st_size for path in entry.path.iterdir())
    assert (entry.path / "page.so").read_bytes() == kernel.library.read_bytes()
    assert [path.name for path in store.root.iterdir()] == ["page"], "nothing of the way there is left"


@pytest.mark.parametrize(("shared", "umask", "modes"), [(False, 0, 0o755), (False, 0o077, 0o700), (True, 0, 0o777)])
def test_whether_others_may_write_into_new_directories(
    workshop: Workshop, tmp_path: Path, shared: bool, umask: int, modes: int
) -> None:
    kernel = workshop.built()
    receipt = receipts.read(kernel)
    assert receipt
    store = Store(tmp_path / "deeper" / "store", shared=shared)
    before = os.umask(umask)
    try:
        store.put("page", kernel.build_dir, receipt)
    finally:
        os.umask(before)
    (entry,) = store.contents()
    assert {mode(path) for path in (store.root.parent, store.root, entry.path.parent, entry.path)} == {modes}


def test_a_whole_entry_is_left_alone(workshop: Workshop, store: Store) -> None:
    kernel = workshop.built()
    receipt = receipts.read(kernel)
    assert receipt
    before = {path: path.stat().st_ino for path in store.root.rglob("*")}
    store.put("page", kernel.build_dir, receipt)
    assert {path: path.stat().st_ino for path in store.root.rglob("*")} == before


def test_where_a_file_is_missing_nothing_is_kept(workshop: Workshop, tmp_path: Path) -> None:
    kernel = workshop.built()
    receipt = receipts.read(kernel)
    assert receipt
    (kernel.build_dir / "page_1.o").unlink()
    store = Store(tmp_path / "store")
    store.put("page", kernel.build_dir, receipt)
    assert store.contents() == []
    assert [path.name for path in store.root.rglob("*")] == ["page"]


def test_nothing_is_put_into_a_refused_store(workshop: Workshop, tmp_path: Path) -> None:
    kernel = workshop.built()
    receipt = receipts.read(kernel)
    assert receipt
    store = Store(tmp_path / "store")
    store.root.mkdir()
    store.root.chmod(0o777)
    store.put("page", kernel.build_dir, receipt)
    assert list(store.root.iterdir()) == []
    assert store.remedy == (
        "make it yours alone (chown, chmod go-w), or set FITASKS_STORE=shared to load what others put there"
    )
    shared = Store(store.root, shared=True)
    assert shared.refusal == ""
    shared.put("page", kernel.build_dir, receipt)
    assert len(shared.contents()) == 1


def test_an_entry_that_others_may_write_is_taken_from_a_shared_store_alone(workshop: Workshop, store: Store) -> None:
    place, kernel = stored(workshop, store), workshop.kernel()
    place.chmod(0o777)
    assert store.find(kernel, workshop.judge()) is None
    found = Store(store.root, shared=True).find(kernel, workshop.judge())
    assert found
    assert found[0] == place


def test_of_several_entries_the_one_that_fits_is_found(workshop: Workshop, store: Store) -> None:
    place, kernel = stored(workshop, store), workshop.kernel()
    for number in range(5):  # some before it and some after it, by name
        other = another(place, toolchain={"nvcc": f"V12.{number}", "c++": "g++ 12"})
        assert other != place
    (place.parent / "README").write_text("no entry")
    found = store.find(kernel, workshop.judge())
    assert found
    assert found[0] == place
    assert found[1] == receipts.read_file(place / receipts.NAME, "page")
    shutil.rmtree(place)
    assert store.find(kernel, workshop.judge()) is None


@pytest.mark.parametrize("field", ["commands", "inputs", "fingerprint"])
def test_an_entry_is_found_by_what_it_was_made_from(workshop: Workshop, store: Store, field: str) -> None:
    """A receipt whose fingerprint isn't that of what it names, or isn't its directory's name, is none."""
    place = stored(workshop, store)
    before = json.loads((place / receipts.NAME).read_text())[field]
    alter(place, **{field: before + ("\n" if field != "fingerprint" else "0")})
    assert store.find(workshop.kernel(), workshop.judge()) is None
    assert told(workshop, store) == []
    alter(place, **{field: before})
    place.rename(place.parent / "moved")
    assert store.find(workshop.kernel(), workshop.judge()) is None


def test_what_will_be_adopted_is_told_with_its_version(workshop: Workshop, store: Store) -> None:
    alter(stored(workshop, store), flashinfer="0.7.1")
    assert told(workshop, store) == ["will be adopted: compiled for FlashInfer 0.7.1, all inputs equal"]


def test_why_not_is_told_of_the_entry_that_differs_least(workshop: Workshop, store: Store) -> None:
    place = stored(workshop, store)
    alter(place, flashinfer="0.7.1")
    another(place, flashinfer="0.7.0", toolchain={"nvcc": "V12", "c++": "g++ 11"})
    workshop.dep = "-MMD"  # another command
    kernel = workshop.kernel()
    (line,) = store.explain(kernel, workshop.judge(), workshop.verdict(kernel))
    assert line.startswith("not adopted from FlashInfer 0.7.1: command changed: compile: command in build.ninja (-MD →")
    assert line.endswith("-MMD)")
    shutil.rmtree(place)
    assert told(workshop, store) == ["not adopted from FlashInfer 0.7.0: nvcc changed (V12 → V13.0.88) and 2 more"]


def test_of_a_damaged_entry_that_is_told(workshop: Workshop, store: Store) -> None:
    place = stored(workshop, store)
    alter(place, flashinfer="0.7.1")
    (place / "page.so").write_bytes(b"")
    assert told(workshop, store) == ["not adopted from FlashInfer 0.7.1: its files in the store are damaged"]


@pytest.mark.parametrize("kind", ["new", "elsewhere", "incomplete", "failed"])
def test_only_of_kernels_without_a_receipt_the_store_is_told(workshop: Workshop, store: Store, kind: Kind) -> None:
    alter(stored(workshop, store), flashinfer="0.7.1")
    kernel, judge = workshop.kernel(), workshop.judge()
    more = Reason("changed", "x")
    assert store.explain(kernel, judge, Judgement("stale", (Reason(kind, ""), more))) != []
    assert store.explain(kernel, judge, Judgement("stale", (more, Reason(kind, "")))) == []
    assert store.explain(kernel, judge, Judgement("fresh")) == []


def test_what_is_taken_replaces_what_is_there_and_counts_as_used(workshop: Workshop, store: Store) -> None:
    place, kernel = stored(workshop, store), workshop.kernel()
    found = store.find(kernel, workshop.judge())
    assert found
    os.utime(place, ns=(1, 1))
    target = workshop.root / "taken"
    target.mkdir()
    for name in ("page.so", LOG):
        (target / name).write_text("of another build")
    store.take(*found, target)
    assert sorted(path.name for path in target.iterdir()) == [LOG, "page.so", "page_0.o", "page_1.o"]
    for name in ("page.so", "page_0.o", "page_1.o"):
        assert (target / name).read_bytes() == (place / name).read_bytes()
    assert (target / LOG).read_text() == "of another build", "logs are of one place"
    assert store.contents()[0].used_ns > 1


def test_what_is_damaged_on_the_way_is_an_error_that_names_the_file(workshop: Workshop, store: Store) -> None:
    place = stored(workshop, store)
    found = store.find(workshop.kernel(), workshop.judge())
    assert found
    (place / "page.so").write_bytes(b"other bytes")
    target = workshop.root / "taken"
    target.mkdir()
    with pytest.raises(OSError, match="damaged on the way out of the store") as caught:
        store.take(*found, target)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(target / "page.so"))


def entries(store: Store, *ages: int) -> list[Path]:
    """Entries of 100 bytes each, as old as is said: `ages` in nanoseconds."""
    made = []
    for age in ages:
        place = store.root / ("page" if age % 2 else "rope") / f"{age}"
        place.mkdir(parents=True)
        (place / receipts.NAME).write_text("x" * 60)
        (place / "page.so").write_text("x" * 40)
        os.utime(place, ns=(age, age))
        made.append(place)
    return made


def test_what_is_stored_is_told_least_recently_used_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.contents() == []
    old, new, middle = entries(store, 5, 9, 6)
    (store.root / ".fitasks-put-x" / "new").mkdir(parents=True)
    (store.root / ".fitasks-put-x" / "new" / receipts.NAME).touch()
    (store.root / "page" / "no receipt").mkdir()
    (store.root / "page" / "file").touch()
    (store.root / "file").touch()
    assert store.contents() == [Stored(old, 100, 5), Stored(middle, 100, 6), Stored(new, 100, 9)]


@pytest.mark.parametrize(
    ("limit", "left"), [(301, 3), (300, 3), (299, 2), (200, 2), (101, 1), (100, 1), (99, 0), (0, 0)]
)
def test_no_more_is_removed_than_has_to_be(tmp_path: Path, limit: int, left: int) -> None:
    store = Store(tmp_path / "store")
    entries(store, 1, 2, 3)
    whole = store.contents()
    assert store.gc(limit) == whole[: 3 - left]
    assert store.contents() == whole[3 - left :]
    assert (store.root / "page").exists() == (left > 0)
    assert (store.root / "rope").exists() == (left > 1)


def test_without_a_limit_twenty_gigabytes_stay(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (place,) = entries(store, 1)
    os.truncate(place / "page.so", 20 * 10**9 - 60)  # a hole
    assert store.gc() == []
    os.truncate(place / "page.so", 20 * 10**9 - 59)
    assert [entry.path for entry in store.gc()] == [place]
