"""Each way in which a kernel can stop being what a build would make, and each in which only timestamps differ."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from fitasks.compile import receipt as receipts
from fitasks.compile.judge.freshness import _difference
from fitasks.compile.judge.reasons import Reason
from fitasks.compile.ninja.ninja import DEPS, LOG
from fitasks.compile.receipt import fingerprint, input_lines

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop


@pytest.fixture
def workshop(shop: Workshop) -> Workshop:
    return shop


@pytest.fixture
def page(workshop: Workshop) -> Kernel:
    kernel = workshop.built()
    assert workshop.verdict(kernel).verdict == "fresh"
    return kernel


def touch(path: Path) -> None:
    later = time.time_ns() + 10**9
    os.utime(path, ns=(later, later))


def rewrite(path: Path, text: str) -> None:
    """Other contents under the old mtime: the case that ninja can't see."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def said(workshop: Workshop, kernel: Kernel) -> str:
    judged = workshop.verdict(kernel)
    return f"{judged.verdict}: {judged}"


def test_a_kernel_that_was_never_built_is_new(workshop: Workshop) -> None:
    assert said(workshop, workshop.kernel()) == "stale: new: never built"


def test_a_fresh_kernel_says_how_many_inputs_it_compared(workshop: Workshop, page: Kernel) -> None:
    assert said(workshop, page) == "fresh: fresh: 6 inputs unchanged"
    assert workshop.build(page).outcome == "fresh"
    assert workshop.ninja_would_run(page) == ""


def unsealed(receipt: Path) -> dict[str, object]:
    """As whoever alters a receipt on purpose would have it: damage alone is told by the seal."""
    said: dict[str, object] = json.loads(receipt.read_text())
    del said["seal"]
    return said


def spoil(kernel: Kernel, field: str, value: object) -> None:
    path = receipts.path_of(kernel)
    path.write_text(json.dumps(unsealed(path) | {field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("toolchain", None),
        ("toolchain", {"nvcc": 13}),
        ("sealed_ns", "now"),
        ("sealed_ns", -1),
        ("peak_rss", 1 << 62),
        ("seconds", "long"),
        ("seconds", float("nan")),
        ("commands", ["c++"]),
        ("commands", "\ud800"),
        ("inputs", 7),
        ("stamp", None),
        ("needed", [1]),
        ("needed", "\ud800"),
        ("notes", {"adopted_from": []}),
        ("outputs", {"page.so": {"sha256": 1, "size": 1, "mtime_ns": 1}}),
        ("outputs", {"page.so": {"sha256": "", "size": None, "mtime_ns": 1}}),
        ("outputs", []),
        ("unknown", 1),
        ("version", 2),
    ],
)
def test_a_receipt_with_a_field_of_another_type_is_none(
    workshop: Workshop, page: Kernel, field: str, value: object
) -> None:
    spoil(page, field, value)
    assert receipts.read(page) is None
    assert workshop.verdict(page).verdict == "stale"


def test_a_receipt_that_is_nested_without_end_is_none(workshop: Workshop, page: Kernel) -> None:
    receipts.path_of(page).write_text("[" * 100_000)
    assert receipts.read(page) is None


def test_only_regular_files_are_read(workshop: Workshop, page: Kernel) -> None:
    """/dev/zero has no end."""
    spoil(page, "inputs", f"{'0' * 64} /dev/zero")
    assert said(workshop, page).startswith("stale: /dev/zero, which it was compiled from, is gone")


def test_a_changed_header_is_named_with_both_hashes(workshop: Workshop, page: Kernel) -> None:
    (workshop.include / "common.h").write_text("inline int common() { return 2; }\n")
    judged = workshop.verdict(page)
    assert judged.verdict == "stale"
    (reason,) = judged.reasons
    assert (reason.kind, reason.subject) == ("changed", "{FLASHINFER}/include/common.h")
    assert len(reason.old) == len(reason.new) == 12
    assert reason.old != reason.new


def test_a_header_changed_under_its_old_time_is_compiled_although_ninja_sees_nothing(
    workshop: Workshop, page: Kernel
) -> None:
    before = page.library.read_bytes()
    rewrite(workshop.include / "common.h", "inline int common() { return 7; }\n")
    assert workshop.ninja_would_run(page) == ""
    assert workshop.build(page).outcome == "compiled"
    assert page.library.read_bytes() != before
    assert said(workshop, page) == "fresh: fresh: 6 inputs unchanged"


def test_a_header_that_is_gone(workshop: Workshop, page: Kernel) -> None:
    (workshop.include / "page_1.h").unlink()
    assert said(workshop, page) == "stale: {FLASHINFER}/include/page_1.h, which it was compiled from, is gone"


def test_a_changed_command_shows_the_flags(workshop: Workshop, page: Kernel) -> None:
    judged = workshop.verdict(workshop.with_flag(page, "-DX=1"))
    assert f"{judged.verdict}: {judged}" == ("stale: command changed: cflags in build.ninja (nothing → -DX=1)")


BEFORE = """\
nvcc = {CUDA}/bin/nvcc
cuda_cflags = $common_cflags -O3 $
  -gencode=arch=compute_90a,code=sm_90a $
  --compress-mode=size

rule cuda_compile
  command = $nvcc -c $in -o $out

rule link
  command = $cxx $in -shared -o $out

build page/page.cuda.o: cuda_compile {FLASHINFER}/csrc/page.cu
build page/page.so: link page/page.cuda.o
default page/page.so
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  --compress-mode=size\n", "  -DNDEBUG\n", "cuda_cflags in build.ninja (--compress-mode=size → -DNDEBUG)"),
        (" $\n  --compress-mode=size", "", "cuda_cflags in build.ninja (--compress-mode=size → nothing)"),
        ("-shared", "-shared -Wl,--as-needed", "link: command in build.ninja (nothing → -Wl,--as-needed)"),
        (
            "csrc/page.cu",
            "csrc/page_v2.cu",
            "page.cuda.o in build.ninja ({FLASHINFER}/csrc/page.cu → {FLASHINFER}/csrc/page_v2.cu)",
        ),
        ("-c $in -o $out", "-o $out -c $in", "cuda_compile: command in build.ninja, in another order"),
        (
            "-O3",
            "-O3 " + " ".join(f"-D{letter}" for letter in "ABCDEFGHIJ"),
            "cuda_cflags in build.ninja (nothing → -DA -DB -DC -DD -DE -DF -DG -DH …)",
        ),
        (
            "build page/page.so: link page/page.cuda.o",
            "build page/b.o: cuda_compile b.cu\nbuild page/page.so: link page/page.cuda.o page/b.o",
            "page.so in build.ninja, and 1 more (nothing → page/b.o)",
        ),
    ],
)
def test_a_command_reason_pairs_what_belongs_together_in_whole_words(old: str, new: str, told: str) -> None:
    reason = Reason("command", *_difference(BEFORE, BEFORE.replace(old, new)))
    assert str(reason) == f"command changed: {told}"


def test_another_compiler_is_named_with_both_versions(workshop: Workshop, page: Kernel) -> None:
    judge = workshop.judge()
    judge.toolchain = judge.toolchain | {"nvcc": "V13.1.1"}
    assert str(judge.judge(page)) == "nvcc changed (V13.0.88 → V13.1.1)"


def test_a_changed_stamp_makes_it_look_again_and_compile_nothing(workshop: Workshop, page: Kernel) -> None:
    workshop.stamp = "stamp-2"
    assert said(workshop, page) == "look: the toolchain's stamp changed; nothing of this kernel did"
    assert workshop.build(page).outcome == "audited"
    assert workshop.verdict(page).verdict == "fresh"


@pytest.mark.parametrize("name", ["fitasks-begun.json", "fitasks-threads"])
def test_what_a_build_left_that_was_killed_when_all_was_done_goes(workshop: Workshop, page: Kernel, name: str) -> None:
    (page.build_dir / name).write_text("1\n")
    assert said(workshop, page) == f"look: its build was killed when all was done: {name} is still there"
    assert workshop.build(page).outcome == "audited"
    assert not (page.build_dir / name).exists()
    assert workshop.verdict(page).verdict == "fresh"


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def garbage_of_the_same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"\x00" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [delete, truncate, garbage_of_the_same_size_and_time])
def test_a_damaged_library_is_linked_again_without_compiling(workshop: Workshop, page: Kernel, damage: object) -> None:
    right = page.library.read_bytes()
    objects = {path: path.stat().st_mtime_ns for path in page.build_dir.glob("*.o")}
    damage(page.library)  # type: ignore[operator]
    assert workshop.verdict(page).verdict == "stale"
    assert workshop.build(page).outcome == "compiled"
    assert page.library.read_bytes() == right
    assert {path: path.stat().st_mtime_ns for path in objects} == objects
    assert workshop.verdict(page).verdict == "fresh"


def test_a_damaged_object_is_compiled_again_and_the_others_stay(workshop: Workshop, page: Kernel) -> None:
    first, second = sorted(page.build_dir.glob("*.o"))
    first.write_bytes(b"nothing of the kind")
    kept = second.stat().st_mtime_ns
    assert workshop.verdict(page).verdict == "stale"
    assert workshop.build(page).outcome == "compiled"
    assert second.stat().st_mtime_ns == kept
    assert first.read_bytes()[:4] == b"\x7fELF"


def test_without_a_receipt_everything_is_compiled_again(workshop: Workshop, page: Kernel) -> None:
    objects = {path: path.stat().st_mtime_ns for path in page.build_dir.glob("*.o")}
    receipts.path_of(page).unlink()
    assert said(workshop, page) == "stale: incomplete: page.so has no receipt"
    assert workshop.build(page).outcome == "compiled"
    assert all(path.stat().st_mtime_ns > before for path, before in objects.items())


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_torn_receipt_is_no_receipt(workshop: Workshop, page: Kernel, keep: int) -> None:
    path = receipts.path_of(page)
    path.write_bytes(path.read_bytes()[:keep])
    assert said(workshop, page) == "stale: incomplete: its receipt is torn, or of another version of fitasks"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 2},
        {"name": "rope"},
        {"outputs": []},
        {"outputs": {"page.so": {}}},
        {"inputs": None},
    ],
)
def test_a_receipt_of_another_version_module_or_shape_is_refused(
    workshop: Workshop, page: Kernel, change: dict[str, object]
) -> None:
    path = receipts.path_of(page)
    path.write_text(json.dumps(unsealed(path) | change))
    assert workshop.verdict(page).verdict == "stale"
    assert workshop.build(page).outcome == "compiled"


# ---- the same contents under other timestamps: nothing is compiled, by us or by ninja afterwards


def touch_a_header(workshop: Workshop, kernel: Kernel) -> None:
    touch(workshop.include / "common.h")


def reinstall_the_package(workshop: Workshop, kernel: Kernel) -> None:
    for path in workshop.include.iterdir():
        text = path.read_text()
        path.unlink()
        path.write_text(text)
        touch(path)


def touch_an_object(workshop: Workshop, kernel: Kernel) -> None:
    touch(next(kernel.build_dir.glob("*.o")))


def age_the_library(workshop: Workshop, kernel: Kernel) -> None:
    os.utime(kernel.library, ns=(1, 1))


def copy_without_times(workshop: Workshop, kernel: Kernel) -> None:
    copy = workshop.root / "copy"
    shutil.copytree(workshop.workspace, copy, copy_function=shutil.copyfile)
    shutil.rmtree(workshop.workspace)
    copy.rename(workshop.workspace)


def lose_the_log(workshop: Workshop, kernel: Kernel) -> None:
    (kernel.build_dir / LOG).unlink()


def lose_the_deps(workshop: Workshop, kernel: Kernel) -> None:
    (kernel.build_dir / DEPS).unlink()


def lose_both_logs(workshop: Workshop, kernel: Kernel) -> None:
    lose_the_log(workshop, kernel)
    lose_the_deps(workshop, kernel)


def clock_set_back(workshop: Workshop, kernel: Kernel) -> None:
    future = time.time_ns() + 3600 * 10**9
    os.utime(workshop.include / "common.h", ns=(future, future))


@pytest.mark.parametrize(
    "trap",
    [
        touch_a_header,
        reinstall_the_package,
        touch_an_object,
        age_the_library,
        copy_without_times,
        lose_the_log,
        lose_the_deps,
        lose_both_logs,
        clock_set_back,
    ],
)
def test_timestamps_are_put_right(workshop: Workshop, page: Kernel, trap: object) -> None:
    library, header = page.library.read_bytes(), (workshop.include / "common.h")
    trap(workshop, page)  # type: ignore[operator]
    times = header.stat().st_mtime_ns
    assert workshop.ninja_would_run(page) != ""
    judged = workshop.verdict(page)
    assert judged.verdict == "heal", judged
    assert workshop.build(page).outcome == "healed"
    assert workshop.ninja_would_run(page) == ""
    assert workshop.verdict(page).verdict == "fresh"
    assert page.library.read_bytes() == library
    assert header.stat().st_mtime_ns == times, "another package's files are not ours to touch"


def test_ninja_still_sees_a_later_edit_after_healing(workshop: Workshop, page: Kernel) -> None:
    lose_both_logs(workshop, page)
    assert workshop.build(page).outcome == "healed"
    (workshop.include / "common.h").write_text("inline int common() { return 3; }\n")
    touch(workshop.include / "common.h")
    assert "older than most recent input" in workshop.ninja_would_run(page)


def test_a_log_of_another_ninja_is_written_for_this_one(workshop: Workshop, page: Kernel, old_ninja: Ninja) -> None:
    new, workshop.ninja = workshop.ninja, old_ninja
    assert workshop.ninja_would_run(page) != ""
    assert said(workshop, page) == f"heal: ninja's log is another version's ({new.version} → {old_ninja.version})"
    assert workshop.build(page).outcome == "healed"
    assert workshop.ninja_would_run(page) == ""
    workshop.ninja = new
    assert workshop.ninja_would_run(page) != ""
    assert workshop.build(page).outcome == "healed"
    assert workshop.ninja_would_run(page) == ""


def test_a_timestamp_of_a_file_that_differs_is_not_touched(workshop: Workshop, page: Kernel) -> None:
    header = workshop.include / "common.h"
    header.write_text("inline int common() { return 4; }\n")
    touch(header)
    before = header.stat().st_mtime_ns
    assert workshop.build(page).outcome == "compiled"
    assert header.stat().st_mtime_ns == before


# ---- fingerprints


def test_a_fingerprint_is_framed_so_that_parts_cannot_flow_into_each_other() -> None:
    assert fingerprint("ab", {}, "c") != fingerprint("a", {}, "bc")
    assert fingerprint("", {}, "x") != fingerprint("x", {}, "")


def test_inputs_with_a_line_break_in_their_name_are_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        input_lines([("a\nb", "0" * 64)])


def test_the_fingerprint_does_not_depend_on_where_things_are(workshop: Workshop, tmp_path: Path) -> None:
    from tests.workshop import Workshop as Another

    kernel = workshop.kernel()
    workshop.build(kernel)
    other = Another(tmp_path / "elsewhere" / "deeper", workshop.ninja, workshop.pool)
    twin = other.kernel()
    other.build(twin)
    first, second = receipts.read(kernel), receipts.read(twin)
    assert first
    assert second
    assert first.fingerprint == second.fingerprint
    assert str(tmp_path) not in first.inputs + first.commands


def test_headers_that_ninja_never_hears_of_are_inputs_too(workshop: Workshop) -> None:
    """FlashInfer's C++ sources: `-MMD` leaves out what `-isystem` brings, which is all of FlashInfer."""
    workshop.dep = "-MMD"
    kernel = workshop.kernel()
    workshop.build(kernel)
    assert said(workshop, kernel) == "fresh: fresh: 6 inputs unchanged"
    (workshop.include / "common.h").write_text("inline int common() { return 9; }\n")
    assert workshop.ninja_would_run(kernel) == ""
    assert workshop.build(kernel).outcome == "compiled"
    assert workshop.verdict(kernel).verdict == "fresh"


def test_a_header_from_the_future_is_compiled_once(workshop: Workshop) -> None:
    kernel = workshop.kernel()
    clock_set_back(workshop, kernel)
    assert workshop.build(kernel).outcome == "compiled"
    assert workshop.ninja_would_run(kernel) == ""
    assert workshop.verdict(kernel).verdict == "fresh"


def test_the_same_package_in_another_place_is_healed(workshop: Workshop, page: Kernel) -> None:
    """A virtual environment made anew under another path: equal contents, other commands."""
    site = workshop.root / "site"
    site.rename(workshop.root / "venv")
    (workshop.root / "venv").rename(site.with_name("moved"))
    workshop.site = "moved"
    moved = workshop.kernel()
    assert moved.ninja != page.ninja
    assert said(workshop, moved) == "heal: ninja's log has the same commands with other paths"
    assert workshop.build(moved).outcome == "healed"
    assert workshop.ninja_would_run(moved) == ""
    assert workshop.verdict(moved).verdict == "fresh"
