"""Bundles: there and back with the real ninja, at the same path, at another one, and over what is there already."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from fitasks.base import temporary
from fitasks.base.errors import EnvironmentProblem, FitasksError, KernelFailure
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile import scratch
from fitasks.compile.clear import Incomplete, clear_incomplete
from fitasks.compile.ninja.ninja import DEPS
from fitasks.compile.receipt import Output
from fitasks.delivery.bundle.bundle import bundle
from fitasks.delivery.bundle.placing import Arrival
from fitasks.delivery.bundle.staging import staging
from fitasks.delivery.bundle.unbundle import unbundle
from fitasks.store.local import Store
from fitasks.ui.bundles import unbundled_lines
from tests.delivery.conftest import Place, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = str(Path(__file__).parent.parent.parent)
FRESH = "fresh: 6 inputs unchanged; ninja: no work"


@pytest.fixture
def packed(here: Place, tmp_path: Path) -> Path:
    path = tmp_path / "kernels.tar.gz"
    bundle(here.machine, path)
    return path


def empty(place: Place) -> None:
    shutil.rmtree(place.workshop.root / "cache")
    shutil.rmtree(place.workshop.root / "xdg", ignore_errors=True)


def without_locks(tree: dict[str, tuple[int, int, bytes | str]]) -> dict[str, tuple[int, int, bytes | str]]:
    return {path: state for path, state in tree.items() if not path.endswith((".lock", "/cached_ops/tmp"))}


def went(place: Place, packed: Path) -> dict[str, str]:
    return {arrival.module: arrival.went for arrival in unbundle(place.machine, packed).arrivals}


def elsewhere(here: Place) -> Place:
    """The same FlashInfer in another directory, with newer timestamps and a store of its own."""
    shop = here.workshop
    root = shop.root / "elsewhere"
    shutil.copytree(shop.root / shop.site, root / shop.site)
    return Place(replace(shop, root=root, store=None))


def test_a_bundle_holds_all_files_of_the_fresh_kernels_after_a_manifest(here: Place, tmp_path: Path) -> None:
    path = tmp_path / "out" / "kernels.tar.gz"
    done = bundle(here.machine, path)
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert names == [
        "manifest.json",
        *(f"90a/cached_ops/page/{name}" for name in (".ninja_deps", ".ninja_log", "build.ninja")),
        *(f"90a/cached_ops/page/{name}" for name in ("fitasks-receipt.json", "page.so", "page_0.o", "page_1.o")),
        *(f"90a/cached_ops/rope/{name}" for name in (".ninja_deps", ".ninja_log", "build.ninja")),
        *(f"90a/cached_ops/rope/{name}" for name in ("fitasks-receipt.json", "rope.so", "rope_0.o", "rope_1.o")),
        *(
            f"90a/generated/{name}"
            for name in ("page/page_0.cpp", "page/page_1.cpp", "rope/rope_0.cpp", "rope/rope_1.cpp")
        ),
    ]
    assert (done.kernels, done.left_out, done.files) == (("page", "rope"), (), 18)
    assert done.size == path.stat().st_size
    assert done.bytes == sum(
        file.stat().st_size
        for file in here.workshop.workspace.rglob("*")
        if "tmp" not in file.parts[-2:] and file.is_file()
    )
    assert list(path.parent.iterdir()) == [path]


def test_the_same_kernels_give_the_same_bytes(here: Place, tmp_path: Path) -> None:
    bundle(here.machine, tmp_path / "one")
    time.sleep(1.1)  # the resolution of gzip's own timestamp
    bundle(here.machine, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_only_fresh_kernels_are_bundled(here: Place, tmp_path: Path) -> None:
    here.kernels[1].library.unlink()
    done = bundle(here.machine, tmp_path / "bundle")
    assert (done.kernels, done.left_out) == (("page",), (("rope", "rope.so is missing"),))


def test_a_changed_stamp_is_no_obstacle(here: Place, tmp_path: Path) -> None:
    here.workshop.stamp = "stamp-2"  # another libcudart on this machine
    assert [str(here.session.judge(kernel).verdict) for kernel in here.kernels] == ["look", "look"]
    assert bundle(here.machine, tmp_path / "bundle").kernels == ("page", "rope")


def test_wrong_timestamps_are_put_right_first(here: Place, tmp_path: Path) -> None:
    later = time.time_ns() + 10**9
    os.utime(here.workshop.include / "common.h", ns=(later, later))
    os.utime(here.kernels[0].library, ns=(later, later))
    assert [here.session.judge(kernel).verdict for kernel in here.kernels] == ["heal", "heal"]
    assert bundle(here.machine, tmp_path / "bundle").left_out == ()
    assert here.state() == {"page": FRESH, "rope": FRESH}
    empty(here)
    assert went(here, tmp_path / "bundle") == {"page": "cache", "rope": "cache"}
    assert here.state() == {"page": FRESH, "rope": FRESH}


def test_a_kernel_whose_sources_are_missing_is_left_out(here: Place, tmp_path: Path) -> None:
    machine, page = here.machine, here.kernels[0]
    page.sources[0].unlink()
    done = bundle(machine, tmp_path / "bundle")
    assert done.kernels == ("rope",)
    assert done.left_out[0][1] == (
        "generated source {CACHE}/generated/page/page_0.cpp is missing and will be generated again, "
        "which can't be put right: No such file or directory"
    )


def test_without_a_fresh_kernel_there_is_no_bundle(here: Place, tmp_path: Path) -> None:
    for kernel in here.kernels:
        receipts.path_of(kernel).unlink()
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, tmp_path / "bundle")
    assert str(caught.value) == (
        "no planned kernel is fresh, so there is nothing to bundle; page: incomplete: page.so has no receipt\n"
        "  remedy: run doit, then doit bundle"
    )
    assert not (tmp_path / "bundle").exists()


def test_an_object_altered_under_its_old_time_is_not_bundled(here: Place, tmp_path: Path) -> None:
    victim = here.kernels[0].build_dir / "page_0.o"
    before = victim.stat()
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    os.utime(victim, ns=(before.st_mtime_ns, before.st_mtime_ns))
    receipt = receipts.path_of(here.kernels[0])
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, tmp_path / "bundle")
    assert str(caught.value) == (
        f"page: {victim} is not what was built; no bundle was written\n  remedy: rm {receipt}, run doit, then doit bundle"
    )
    assert not (tmp_path / "bundle").exists()


def test_a_place_that_cannot_be_written_is_named(here: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, tmp_path / "file" / "bundle")
    assert str(caught.value) == f"{tmp_path / 'file'}: File exists; no bundle was written"


def test_a_directory_is_no_name_for_a_bundle(here: Place, tmp_path: Path) -> None:
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, tmp_path)
    assert str(caught.value) == f"{tmp_path} is a directory\n  remedy: doit bundle {tmp_path / 'kernels.tar.gz'}"


def refused_name(place: Place, path: Path) -> str:
    with pytest.raises(FitasksError) as caught:
        bundle(place.machine, path)
    return str(caught.value)


def test_what_is_no_bundle_is_not_overwritten(here: Place, tmp_path: Path) -> None:
    written = tmp_path / "kernels.yaml"
    written.write_text("kernels:\n  page:\n")
    link = tmp_path / "link"
    link.symlink_to(written)
    for path in (written, link):
        assert refused_name(here, path) == (
            f"{path} is there and is no bundle; it was not overwritten\n  remedy: name another file, or rm {path} first"
        )
    assert (link.is_symlink(), written.read_text()) == (True, "kernels:\n  page:\n")


def test_what_is_no_plain_file_is_not_replaced(here: Place, tmp_path: Path) -> None:
    """Such as /dev/null, which root could replace."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        assert refused_name(here, path) == (
            f"{path} is no regular file, and would be replaced by one\n  remedy: name another file"
        )
    assert (pipe.is_fifo(), link.is_symlink()) == (True, True)


def test_a_file_that_cannot_be_read_is_not_overwritten(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    path.write_text("")

    def denied(self: Path, *args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert refused_name(here, path) == f"{path}: Permission denied; no bundle was written"


def test_an_older_bundle_an_empty_file_and_where_a_link_leads_are_overwritten(here: Place, tmp_path: Path) -> None:
    """What mktemp made has nothing to lose; a link stays one, as it would with `>`."""
    path, link, later = tmp_path / "bundle", tmp_path / "link", tmp_path / "later"
    path.write_text("")
    bundle(here.machine, path)
    first = path.read_bytes()
    path.write_bytes(first[:100])
    link.symlink_to(path)
    later.symlink_to(tmp_path / "out" / "made")
    assert bundle(here.machine, link).path == link
    bundle(here.machine, later)
    assert (link.is_symlink(), later.is_symlink()) == (True, True)
    assert path.read_bytes() == later.read_bytes() == first


def test_a_dash_is_no_name_for_a_bundle(here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, Path("-"))
    assert str(caught.value) == (
        "a bundle can't be written to standard output: it gets its name when it is whole\n"
        "  remedy: doit bundle kernels.tar.gz"
    )
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("o.tar.zst", ".zst"), ("o.TAR.XZ", ".XZ"), ("o.tzst", ".tzst"), ("o.tar", ".tar"), ("o.zip", ".zip")],
)
def test_a_name_that_promises_another_format(here: Place, tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, tmp_path / name)
    good = tmp_path / "o.tar.gz"
    assert str(caught.value) == (
        f"{tmp_path / name}: a bundle is tar in gzip, its name says {kind}\n  remedy: doit bundle {good}"
    )
    assert not (tmp_path / name).exists()


def test_an_error_names_the_file_that_was_asked_for(here: Place) -> None:
    with pytest.raises(FitasksError) as caught:
        bundle(here.machine, Path("/proc/kernels.tar.gz"))
    assert str(caught.value) == "/proc/kernels.tar.gz: No such file or directory; no bundle was written"


def test_what_a_killed_bundle_left_is_swept(here: Place, tmp_path: Path) -> None:
    left, held = (tmp_path / f".fitasks-bundle-{name}.tmp" for name in ("left", "held"))
    for path in (left, held):
        path.write_text("")
    with held.open() as stream:
        assert temporary.lock(stream.fileno())
        bundle(here.machine, tmp_path / "bundle")
    assert [path.exists() for path in (left, held)] == [False, True]


def test_to_the_same_path_and_ninja_has_no_work(here: Place, packed: Path) -> None:
    before = snapshot(here.workshop.workspace)
    empty(here)
    for kernel in here.kernels:
        assert all(source.exists() for source in kernel.sources)  # made anew by the planner, newer than the objects
    done = unbundle(here.machine, packed)
    workspace = here.workshop.workspace
    assert done.arrivals == tuple(
        Arrival(name, "90a", "cache", workspace / "cached_ops" / name) for name in ("page", "rope")
    )
    assert (done.files, done.moved) == (18, ())
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert without_locks(snapshot(workspace)) == without_locks(before)
    assert sorted(path.name for path in workspace.parent.iterdir()) == ["90a"]


def test_ninja_itself_says_so(here: Place, packed: Path) -> None:
    empty(here)
    unbundle(here.machine, packed)
    for kernel in here.kernels:
        command = [*here.workshop.ninja.command(kernel.build_dir, kernel.ninja_file), "-n"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "ninja: no work to do."


def test_headers_installed_later_are_healed_on_arrival(here: Place, packed: Path) -> None:
    empty(here)
    later = time.time_ns() + 10**9
    for header in here.workshop.include.iterdir():
        os.utime(header, ns=(later, later))
    assert went(here, packed) == {"page": "cache", "rope": "cache"}
    assert here.state() == {"page": FRESH, "rope": FRESH}


def test_a_changed_header_is_said_on_arrival(here: Place, packed: Path) -> None:
    empty(here)
    (here.workshop.include / "rope_0.h").write_text("inline int own_0() { return 9; }\n")
    notes = [arrival.note for arrival in unbundle(here.machine, packed).arrivals]
    assert notes[0] == ""
    assert notes[1].startswith("{FLASHINFER}/include/rope_0.h changed (")


def test_a_kernel_that_nobody_plans_here_comes_too(here: Place, packed: Path) -> None:
    empty(here)
    here.names = ("page",)
    notes = {arrival.module: arrival.note for arrival in unbundle(here.machine, packed).arrivals}
    assert notes == {"page": "", "rope": "kernels.yaml here doesn't name it"}
    here.names = ("page", "rope")
    assert here.state() == {"page": FRESH, "rope": FRESH}


def test_a_fresh_module_is_not_replaced_by_one_that_is_stale_here(here: Place, packed: Path) -> None:
    header = here.workshop.include / "page_1.h"
    header.write_text("inline int own_1() { return 11; }\n")
    assert here.build() == ["compiled", "fresh"]
    before = here.kernels[0].library.read_bytes()
    done = unbundle(here.machine, packed)
    page, rope = done.arrivals
    assert (page.went, page.usable, rope.went) == ("kept", True, "kept")
    begin = "the one here is fresh and stays, the bundle's would not be: {FLASHINFER}/include/page_1.h changed ("
    assert page.note.startswith(begin)
    assert done.unusable == ()
    assert here.kernels[0].library.read_bytes() == before
    assert here.state() == {"page": FRESH, "rope": FRESH}


def test_where_neither_is_fresh_the_bundles_comes_and_is_said_to_be_of_no_use(here: Place, packed: Path) -> None:
    (here.workshop.include / "page_1.h").write_text("inline int own_1() { return 11; }\n")
    here.kernels[0].library.unlink()
    done = unbundle(here.machine, packed)
    assert [arrival.module for arrival in done.unusable] == ["page"]
    assert list(unbundled_lines(done))[1:] == [
        "1 kernel there already",
        (
            f"1 kernel of no use here as built: doit compiles, or doit unbundle --wheel {packed} makes a package "
            "that needs neither compiler nor these paths"
        ),
    ]


def test_what_is_there_already_is_healed_as_well(here: Place, packed: Path) -> None:
    later = time.time_ns() + 10**9
    for header in here.workshop.include.iterdir():
        os.utime(header, ns=(later, later))
    assert [here.session.judge(kernel).verdict for kernel in here.kernels] == ["heal", "heal"]
    assert went(here, packed) == {"page": "kept", "rope": "kept"}
    assert here.state() == {"page": FRESH, "rope": FRESH}


@pytest.mark.parametrize(
    "records",
    [
        struct.pack("<I", 0x80000000),
        struct.pack("<I4s", 0x80000004, b"\0" * 4),
        struct.pack("<Iiqi", 0x80000010, -9, 1, 0),
        struct.pack("<I7sI", 11, b"/a\0b/c\0", 0xFFFFFFFF) + struct.pack("<Iiqi", 0x80000010, 0, 1, 0),
    ],
)
def test_a_log_of_ninjas_that_is_none_ends_no_run(here: Place, tmp_path: Path, records: bytes) -> None:
    """Consistent with its receipt, and of another time, so that it is read to be put right."""
    page = here.kernels[0]
    (page.build_dir / DEPS).write_bytes(b"# ninjadeps\n" + struct.pack("<i", 4) + records)
    receipt = receipts.read(page)
    assert receipt
    stat = (page.build_dir / DEPS).stat()
    output = Output(sha256_file(page.build_dir / DEPS), stat.st_size, stat.st_mtime_ns)
    receipts.write(page, replace(receipt, outputs=receipt.outputs | {DEPS: output}))
    bundle(here.machine, tmp_path / "bundle")
    empty(here)
    later = time.time_ns() + 10**9
    os.utime(here.workshop.include / "common.h", ns=(later, later))
    assert went(here, tmp_path / "bundle") == {"page": "cache", "rope": "cache"}
    assert here.state() == {"page": FRESH, "rope": FRESH}


def test_elsewhere_the_store_gets_them_and_doit_adopts_them(here: Place, packed: Path) -> None:
    there = elsewhere(here)
    done = unbundle(there.machine, packed)
    store = there.session.store.root
    fingerprints = [receipt.fingerprint for kernel in here.kernels if (receipt := receipts.read(kernel))]
    assert done.arrivals == tuple(
        Arrival(name, "90a", "store", store / name / fingerprint)
        for name, fingerprint in zip(("page", "rope"), fingerprints, strict=True)
    )
    site, cache = here.workshop.root / "site", here.workshop.workspace
    new_site, new_cache = there.workshop.root / "site", there.workshop.workspace
    cuda = "cuda"
    assert done.moved == (
        f"CUDA_HOME: {here.workshop.root / cuda} there, {there.workshop.root / cuda} here",
        f"site-packages: {site} there, {new_site} here",
        f"cache of 90a: {cache} there, {new_cache} here",
    )
    assert sorted(path.name for path in store.parent.iterdir()) == ["store"]
    assert there.build() == ["adopted", "adopted"]
    assert there.state() == {"page": FRESH, "rope": FRESH}
    assert there.kernels[0].library.read_bytes() == here.kernels[0].library.read_bytes()


def test_elsewhere_with_another_header_it_is_said_and_compiled(here: Place, packed: Path) -> None:
    there = elsewhere(here)
    (there.workshop.include / "page_1.h").write_text("inline int own_1() { return 11; }\n")
    notes = [arrival.note for arrival in unbundle(there.machine, packed).arrivals]
    assert notes[0].startswith("{FLASHINFER}/include/page_1.h changed (")
    assert notes[1] == ""
    assert there.build() == ["compiled", "adopted"]


def test_a_damaged_entry_of_the_store_is_replaced(here: Place, packed: Path) -> None:
    there = elsewhere(here)
    unbundle(there.machine, packed)
    (victim,) = there.session.store.root.glob("page/*/page_0.o")
    victim.write_bytes(b"")
    assert went(there, packed) == {"page": "store", "rope": "store"}
    assert there.build() == ["adopted", "adopted"]
    assert went(there, packed) == {"page": "kept", "rope": "kept"}


def test_what_is_there_already_is_kept(here: Place, packed: Path) -> None:
    before = snapshot(here.workshop.workspace)
    assert went(here, packed) == {"page": "kept", "rope": "kept"}
    assert snapshot(here.workshop.workspace) == before


def test_another_build_a_damaged_one_and_a_lost_timestamp_are_replaced(here: Place, packed: Path) -> None:
    page, rope = here.kernels
    page.library.write_bytes(b"damaged")
    os.utime(rope.build_dir / "rope_0.o", ns=(1, 1))
    assert went(here, packed) == {"page": "cache", "rope": "cache"}
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert here.workshop.build(here.workshop.with_flag(page, "-DX=1")).outcome == "compiled"
    (page.build_dir / "left.o").write_bytes(b"")
    assert went(here, packed) == {"page": "cache", "rope": "kept"}
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert not (page.build_dir / "left.o").exists()


def test_a_module_that_is_locked_is_waited_for_and_then_left(here: Place, packed: Path) -> None:
    rope = here.kernels[1]
    empty(here)
    rope.lock.parent.mkdir(parents=True)
    with FileLock(rope.lock), pytest.raises(KernelFailure) as caught:
        unbundle(here.machine, packed, lock_timeout=0.3)
    assert str(caught.value).startswith(f"waited 0 s for {rope.lock}, held by pid {os.getpid()} ")
    assert not rope.build_dir.exists()
    assert [path.name for path in here.workshop.workspace.parent.iterdir()] == ["90a"]
    assert went(here, packed) == {"page": "kept", "rope": "cache"}


def test_plain_tar_gives_a_cache_that_ninja_accepts(here: Place, tmp_path: Path) -> None:
    for header in here.workshop.include.iterdir():
        os.utime(header, ns=(1, 1))  # not of the second in which objects were made, to which tar cuts their times
    packed = tmp_path / "bundle"
    bundle(here.machine, packed)
    empty(here)
    here.workshop.workspace.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", packed, "-C", here.workshop.workspace.parent], check=True)
    assert [here.workshop.ninja_would_run(kernel) for kernel in here.kernels] == ["", ""]


def test_what_a_killed_unbundle_left_is_swept(here: Place, packed: Path) -> None:
    """Also where this one doesn't unpack: beside the store."""
    machine = here.machine
    places = [here.workshop.workspace.parent, machine.store.root.parent]
    places += (here.workshop.workspace / place for place in ("cached_ops/tmp", "generated"))
    left = [place / ".fitasks-unbundle-x" / "90a" for place in places]
    for path in left:
        path.mkdir(parents=True)
    unbundle(machine, packed)
    assert not any(path.parent.exists() for path in left)


@pytest.mark.parametrize("place", ["", "90a/cached_ops/tmp", "90a/generated"])
def test_clear_incomplete_sweeps_too_but_not_under_somebodys_hands(here: Place, place: str) -> None:
    base, beside = here.workshop.workspace.parent.parent, here.workshop.workspace.parent / place
    left = beside / ".fitasks-unbundle-x"
    left.mkdir()
    (left / "file").write_text("1234")
    with scratch.claimed(beside):
        assert clear_incomplete(base) == []
    assert clear_incomplete(base) == [Incomplete(left, 4)]
    assert not left.exists()


def renamed(member: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    """What TarInfo.replace does, which Python 3.11.2 hasn't."""
    other = copy.copy(member)
    other.name = name
    return other


def add_sets(packed: Path, *architectures: str) -> None:
    """The same bundle as if these sets had been planned as well."""
    with tarfile.open(packed) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    said, ours = json.loads(members[0][1]), members[1:]
    for name in architectures:
        said["workspaces"][name] = f"/elsewhere/{name}"
        said["files"] |= {f"{name}{path[3:]}": entry for path, entry in said["files"].items() if path[:3] == "90a"}
        members += [(renamed(member, name + member.name[3:]), data) for member, data in ours]
    manifest = json.dumps(said).encode()
    members[0][0].size = len(manifest)
    with tarfile.open(packed, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        for member, data in [(members[0][0], manifest), *members[1:]]:
            archive.addfile(member, io.BytesIO(data))


def test_of_several_architecture_sets_the_planned_ones_are_taken(here: Place, packed: Path) -> None:
    add_sets(packed, "80", "80_90a")
    empty(here)
    done = unbundle(here.machine, packed)
    assert [(arrival.architecture, arrival.went) for arrival in done.arrivals] == [("90a", "cache"), ("90a", "cache")]
    assert (done.left, done.moved, done.files) == ({"80": 2, "80_90a": 2}, (), 18)
    assert list(unbundled_lines(done)) == [
        "left in it  2 kernels for 80, which is no target of kernels.yaml here",
        "left in it  2 kernels for 80_90a, which is no target of kernels.yaml here",
        "2 kernels into FlashInfer's cache",
    ]
    assert sorted(path.name for path in here.workshop.workspace.parent.iterdir()) == ["90a"]
    assert here.state() == {"page": FRESH, "rope": FRESH}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.delivery.conftest import Place
from tests.workshop import Workshop
from fitasks.compile.ninja.ninja import Ninja
from fitasks.delivery.bundle.unbundle import unbundle
from tests.delivery.test_bundle import Mounts
import pytest
root, packed, ninja, version, call, nth, *mounts = sys.argv[1:]
Mounts(pytest.MonkeyPatch(), *map(Path, mounts))
place = Place(Workshop(Path(root), Ninja(Path(ninja), version), None))
real, seen = getattr(os, call), []
def deadly(*args, **options):
    seen.append(args)
    if len(seen) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(os, call, deadly)
unbundle(place.machine, Path(packed))
"""


at_any_moment = pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("utime", 9),  # half unpacked
        ("replace", 2),  # half of the generated sources laid
        ("rename", 1),  # before the old module goes aside
        ("rename", 2),  # it is aside, the new one not there
        ("rename", 3),  # one module has come
    ],
)


@at_any_moment
def test_a_kill_at_any_moment_is_mended_by_the_next_run(here: Place, packed: Path, call: str, nth: int) -> None:
    killed_and_mended(here, packed, call, nth)


@at_any_moment
def test_a_kill_between_file_systems_is_mended_too(here: Place, packed: Path, call: str, nth: int) -> None:
    killed_and_mended(here, packed, call, nth, "cached_ops", "generated")


def killed_and_mended(here: Place, packed: Path, call: str, nth: int, *places: str) -> None:
    """The cache holds another build of page, so that something is to be moved aside."""
    page, shop = here.kernels[0], here.workshop
    shop.build(shop.with_flag(page, "-DX=1"))
    shutil.rmtree(here.kernels[1].build_dir)
    words = [shop.root, packed, shop.ninja.executable, shop.ninja.version, call, nth]
    words += [shop.workspace / place for place in places]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)], check=False, env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert killed.returncode == -signal.SIGKILL
    for kernel in here.kernels:  # what is there is whole: nothing is trusted that isn't
        judged = shop.verdict(kernel)
        assert judged.verdict == "fresh" or {reason.kind for reason in judged.reasons} <= {"command", "new"}
    unbundle(here.machine, packed)
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert [path.name for path in shop.workspace.parent.iterdir()] == ["90a"]
    assert not [*shop.workspace.rglob(f"{scratch.UNPACKED}*")]


class Mounts:
    """File systems as os.rename and os.replace see them: nothing can be renamed from one of these into another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *roots: Path) -> None:
        self.roots = sorted(roots, key=lambda root: -len(root.parts))
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self.guarded(getattr(os, name)))

    def guarded(self, real: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def call(source: Path, target: Path) -> None:
            if self.of(source) != self.of(target):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
            real(source, target)

        return call

    def of(self, path: Path) -> Path | None:
        real = Path(os.path.realpath(Path(path).parent))
        return next((root for root in self.roots if real.is_relative_to(root)), None)


@pytest.mark.parametrize(
    "places",
    [("",), ("cached_ops",), ("generated",), ("cached_ops", "generated"), ("", "cached_ops")],
    ids=["set", "cached_ops", "generated", "both", "set and cached_ops"],
)
@pytest.mark.parametrize("there", [True, False], ids=["over another build", "into an empty cache"])
def test_parts_of_the_cache_on_file_systems_of_their_own(
    here: Place, packed: Path, monkeypatch: pytest.MonkeyPatch, *, places: tuple[str, ...], there: bool
) -> None:
    shop = here.workshop
    before = snapshot(shop.workspace)
    if there:
        shop.build(shop.with_flag(here.kernels[0], "-DX=1"))
    else:
        empty(here)
    for place in places:
        (shop.workspace / place).mkdir(parents=True, exist_ok=True)
    Mounts(monkeypatch, *(shop.workspace / place for place in places))
    assert went(here, packed) == {"page": "cache", "rope": "kept" if there else "cache"}
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert without_locks(snapshot(shop.workspace)) == without_locks(before)


def test_a_set_behind_a_link(here: Place, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty(here)
    (tmp_path / "disk").mkdir()
    here.workshop.workspace.parent.mkdir(parents=True)
    here.workshop.workspace.symlink_to(tmp_path / "disk")
    Mounts(monkeypatch, tmp_path / "disk")
    assert went(here, packed) == {"page": "cache", "rope": "cache"}
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert sorted(path.name for path in (tmp_path / "disk" / "cached_ops").iterdir()) == ["page", "rope", "tmp"]


def test_a_module_of_an_images_lower_layer(here: Place, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """overlayfs renames no directory of a lower layer, wherever to."""
    shop = here.workshop
    before = snapshot(shop.workspace)
    shop.build(shop.with_flag(here.kernels[0], "-DX=1"))
    rename, lower = os.rename, here.kernels[0].build_dir.stat().st_ino

    def layered(source: Path, target: Path) -> None:
        if Path(source).stat().st_ino == lower:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", layered)
    assert went(here, packed) == {"page": "cache", "rope": "kept"}
    assert here.state() == {"page": FRESH, "rope": FRESH}
    assert without_locks(snapshot(shop.workspace)) == without_locks(before)


def test_an_old_module_comes_back_where_the_new_one_cannot(
    here: Place, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory may be full, or over its quota, between two renames."""
    stale = here.kernels[0].build_dir / "page_0.o"
    stale.write_bytes(b"another")
    rename = os.rename

    def full(source: Path, target: Path, **more: Any) -> None:
        if str(target) == str(here.kernels[0].build_dir) and "old" not in Path(source).name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        unbundle(here.machine, packed)
    assert stale.read_bytes() == b"another"
    assert here.kernels[0].library.exists()


def test_a_full_disk_of_its_own_is_named_and_nothing_is_half_there(
    here: Place, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = here.workshop
    shop.build(shop.with_flag(here.kernels[0], "-DX=1"))
    before = snapshot(shop.workspace)
    Mounts(monkeypatch, shop.workspace / "cached_ops")

    utime = os.utime

    def full(path: Path, **times: Any) -> None:
        if Path(path).suffix == ".so":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        utime(path, **times)

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(FitasksError) as caught:
        unbundle(here.machine, packed)
    assert str(caught.value) == f"{shop.workspace / 'cached_ops' / 'tmp'}: No space left on device"
    assert snapshot(shop.workspace) == before


def test_two_at_once_in_one_place_are_refused(here: Place, packed: Path) -> None:
    beside = here.workshop.workspace.parent
    with staging(beside), pytest.raises(FitasksError) as caught:
        unbundle(here.machine, packed)
    assert str(caught.value) == (
        f"another doit unbundle is at work in {beside}; nothing was changed\n  remedy: wait for its end"
    )


def test_names_as_long_as_flashinfers(here: Place, tmp_path: Path) -> None:
    here.names = ("n" * 180,)
    here.build()
    bundle(here.machine, tmp_path / "bundle")
    empty(here)
    assert went(here, tmp_path / "bundle") == {"n" * 180: "cache"}
    assert list(here.state().values()) == [FRESH]


def test_a_store_that_others_may_write_is_refused(here: Place, packed: Path) -> None:
    there = elsewhere(here)
    root = there.session.store.root
    root.mkdir(parents=True)
    root.chmod(0o777)
    with pytest.raises(FitasksError) as caught:
        unbundle(there.machine, packed)
    assert caught.value.message == f"{root} is not used: everybody may write to {root}"
    assert list(root.iterdir()) == []


def test_an_unwritable_store_is_said(here: Place, packed: Path) -> None:
    there = elsewhere(here)
    (there.workshop.root / "file").write_text("")
    there.workshop.store = Store(there.workshop.root / "file" / "fitasks" / "store")
    with pytest.raises(FitasksError) as caught:
        unbundle(there.machine, packed)
    assert str(caught.value) == f"{there.workshop.root / 'file' / 'fitasks'}: Not a directory"
