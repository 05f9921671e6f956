"""Each way in which a kernel can stop being what a build would make, and each in which only timestamps differ."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile.failure import failed
from fitasks.compile.judge.freshness import _difference
from fitasks.compile.judge.reasons import Reason
from fitasks.compile.ninja.ninja import DEPS, LOG
from fitasks.compile.receipt import fingerprint, input_lines

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.judge.contents import State
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.compile.receipt import Receipt
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


# ---- what exactly is said


def receipt_of(kernel: Kernel) -> Receipt:
    receipt = receipts.read(kernel)
    assert receipt
    return receipt


def the_reason(workshop: Workshop, kernel: Kernel, verdict: str) -> Reason:
    judged = workshop.verdict(kernel)
    assert judged.verdict == verdict
    (reason,) = judged.reasons
    return reason


def short(path: Path) -> str:
    return sha256_file(path)[:12]


@pytest.mark.parametrize(
    ("touched", "more"),
    [
        (["common.h"], ""),
        (["page_0.h", "common.h"], " and 1 more"),
        (["page_0.h", "page_1.h", "common.h"], " and 2 more"),
    ],
)
def test_inputs_newer_than_the_build_are_told_with_both_times(
    workshop: Workshop, page: Kernel, touched: list[str], more: str
) -> None:
    sealed = receipt_of(page).sealed_ns
    for name in touched:
        os.utime(workshop.include / name, ns=(1, sealed + 5))
    os.utime(workshop.include / "page_0.h", ns=(1, sealed + 7 if "page_0.h" in touched else sealed))
    newest = str(sealed + (7 if more else 5))
    told = f"{{FLASHINFER}}/include/common.h{more}"
    assert the_reason(workshop, page, "heal") == Reason("timestamps", told, str(sealed), newest)


def test_inputs_as_old_as_the_seal_are_what_was_built_from(workshop: Workshop, page: Kernel) -> None:
    os.utime(workshop.include / "common.h", ns=(1, receipt_of(page).sealed_ns))
    assert workshop.verdict(page).verdict == "fresh"


def test_an_object_under_another_time_is_told_with_both(workshop: Workshop, page: Kernel) -> None:
    made = receipt_of(page).outputs["page_0.o"].mtime_ns
    os.utime(page.build_dir / "page_0.o", ns=(1, made + 3))
    assert the_reason(workshop, page, "heal") == Reason("timestamps", "page_0.o", str(made), str(made + 3))


def test_an_object_of_another_size_under_its_old_time_is_read(workshop: Workshop, page: Kernel) -> None:
    made = page.build_dir / "page_0.o"
    before = short(made)
    rewrite(made, "no object")
    assert the_reason(workshop, page, "stale") == Reason("corrupt", "page_0.o", before, short(made))


def test_a_lost_object_is_missing(workshop: Workshop, page: Kernel) -> None:
    (page.build_dir / "page_1.o").unlink()
    assert the_reason(workshop, page, "stale") == Reason("missing", "page_1.o")
    assert workshop.verdict(page).damaged == ("page_1.o",)


def test_a_library_of_another_size_is_told_by_its_size(workshop: Workshop, page: Kernel) -> None:
    size = page.library.stat().st_size
    truncate(page.library)
    assert the_reason(workshop, page, "stale") == Reason("corrupt", "page.so", f"{size} bytes", "100 bytes")


def test_a_library_of_the_same_size_is_told_by_its_hash(workshop: Workshop, page: Kernel) -> None:
    before = short(page.library)
    garbage_of_the_same_size_and_time(page.library)
    assert the_reason(workshop, page, "stale") == Reason("corrupt", "page.so", before, short(page.library))


def test_a_lost_library_is_missing(workshop: Workshop, page: Kernel) -> None:
    page.library.unlink()
    assert the_reason(workshop, page, "stale") == Reason("missing", "page.so")


@pytest.mark.parametrize("name", [LOG, DEPS])
def test_a_log_that_another_ninja_run_changed_is_told_by_its_hash(workshop: Workshop, page: Kernel, name: str) -> None:
    log = page.build_dir / name
    before = short(log)
    with log.open("ab") as stream:
        stream.write(b"more\n")
    assert the_reason(workshop, page, "heal") == Reason("log", f"{name} changed", before, short(log))
    log.unlink()
    assert the_reason(workshop, page, "heal") == Reason("log", f"{name} is lost")


def test_the_time_of_a_log_says_nothing(workshop: Workshop, page: Kernel) -> None:
    touch(page.build_dir / LOG)
    assert workshop.verdict(page).verdict == "fresh"


def test_a_generated_source_that_is_gone_is_named_and_no_change(workshop: Workshop, page: Kernel) -> None:
    page.sources[1].unlink()
    assert the_reason(workshop, page, "heal") == Reason("generated", "{CACHE}/generated/page/page_1.cpp")


def test_all_reasons_are_told_the_gravest_first(workshop: Workshop, page: Kernel) -> None:
    page.library.unlink()
    (workshop.include / "page_0.h").unlink()
    (workshop.include / "common.h").write_text("inline int common() { return 2; }\n")
    judge = workshop.judge()
    judge.toolchain = {"nvcc": "V13.1.1", "c++": "g++ 12", "ptxas": "13.1"}
    judged = judge.judge(workshop.with_flag(page, "-DX=1"))
    assert [reason.kind for reason in judged.reasons] == [
        *("missing", "command", "toolchain", "toolchain", "changed", "vanished")
    ]
    assert judged.reasons[3] == Reason("toolchain", "ptxas", "none", "13.1")
    assert judged.damaged == (), "what it is made from is no more what it was"


def test_how_many_inputs_were_compared_is_known_of_every_verdict_with_a_receipt(
    workshop: Workshop, page: Kernel
) -> None:
    workshop.stamp = "stamp-2"
    assert (workshop.verdict(page).verdict, workshop.verdict(page).inputs) == ("look", 6)
    workshop.stamp = "stamp-1"
    (page.build_dir / "fitasks-begun.json").touch()
    assert (workshop.verdict(page).verdict, workshop.verdict(page).inputs) == ("look", 6)
    touch(page.library)
    assert (workshop.verdict(page).verdict, workshop.verdict(page).inputs) == ("heal", 6)
    page.library.unlink()
    assert (workshop.verdict(page).verdict, workshop.verdict(page).inputs) == ("stale", 6)
    receipts.path_of(page).unlink()
    assert workshop.verdict(page).inputs == 0


@pytest.mark.parametrize("line", ["", "/usr/include/stdio.h", "0" * 64 + "\t/usr/include/stdio.h", "0" * 64])
def test_an_input_that_is_none_is_never_equal(workshop: Workshop, page: Kernel, line: str) -> None:
    spoil(page, "inputs", f"{receipt_of(page).inputs}\n{line}")
    judged = workshop.verdict(page)
    assert judged.verdict == ("stale" if line else "fresh")
    assert [reason.subject for reason in judged.reasons] == (
        [f"a file that its receipt can't name ({line!r:.100})"] if line else []
    )


@pytest.mark.parametrize("place", ["{CACHE}/more.h", "{FLASHINFER}/generated/more.h"])
def test_only_what_the_planner_generates_may_be_gone(workshop: Workshop, page: Kernel, place: str) -> None:
    spoil(page, "inputs", f"{receipt_of(page).inputs}\n{'0' * 64} {place}")
    assert the_reason(workshop, page, "stale") == Reason("vanished", place)


def test_what_held_for_one_kernel_is_not_looked_at_again_for_another(workshop: Workshop, page: Kernel) -> None:
    rope = workshop.kernel("rope")
    workshop.build(rope)
    judge = workshop.judge()
    sealed = receipt_of(rope).sealed_ns
    os.utime(workshop.include / "common.h", ns=(1, sealed + 9))
    judge.judge(page)
    looked: list[str] = []
    state = judge.contents.state

    def looking(path: str) -> State | None:
        looked.append(path)
        return state(path)

    judge.contents.state = looking  # type: ignore[method-assign]
    for _ in range(2):
        (reason,) = judge.judge(rope).reasons
        assert reason == Reason("timestamps", "{FLASHINFER}/include/common.h", str(sealed), str(sealed + 9))
        assert str(workshop.include / "common.h") not in looked
    assert looked.count(str(workshop.include / "rope_0.h")) == 1


def test_a_change_is_told_of_every_kernel_that_includes_the_header(workshop: Workshop, page: Kernel) -> None:
    rope = workshop.kernel("rope")
    workshop.build(rope)
    (workshop.include / "common.h").write_text("inline int common() { return 2; }\n")
    judge = workshop.judge()
    for kernel in (page, rope, page):
        (reason,) = judge.judge(kernel).reasons
        assert (reason.kind, reason.subject) == ("changed", "{FLASHINFER}/include/common.h")


def test_a_judge_that_looks_anew_sees_what_changed_since_and_knows_the_same(workshop: Workshop, page: Kernel) -> None:
    judge = replace(workshop.judge(), bases=(workshop.root / "home",))
    assert judge.judge(page).verdict == "fresh"
    (workshop.include / "common.h").write_text("inline int common() { return 2; }\n")
    assert judge.judge(page).verdict == "fresh", "one run has one look"
    anew = judge.refreshed()
    assert anew.judge(page).verdict == "stale"
    assert (anew.roots, anew.toolchain, anew.ninja, anew.stamp, anew.bases) == (
        *(judge.roots, judge.toolchain, judge.ninja, judge.stamp, judge.bases),
    )


def test_differences_are_those_of_inputs_commands_and_tools_alone(workshop: Workshop, page: Kernel) -> None:
    receipt = receipt_of(page)
    page.library.unlink()
    touch(page.build_dir / "page_0.o")
    assert workshop.judge().differences(page, receipt) == []
    (workshop.include / "common.h").write_text("inline int common() { return 2; }\n")
    judge = workshop.judge()
    judge.toolchain = judge.toolchain | {"nvcc": "V13.1.1"}
    kinds = [reason.kind for reason in judge.differences(workshop.with_flag(page, "-DX=1"), receipt)]
    assert kinds == ["toolchain", "command", "changed"]


def test_a_receipt_that_is_older_than_a_root_has_the_same_commands(workshop: Workshop, page: Kernel) -> None:
    """What it spells out has a name since, e.g. a toolkit in a place that was none then."""
    spelt = receipt_of(page).commands.replace("{FLASHINFER}", str(workshop.root / workshop.site / "flashinfer"))
    assert spelt != receipt_of(page).commands
    spoil(page, "commands", spelt)
    assert workshop.verdict(page).verdict == "fresh"


def test_of_a_kernel_without_a_receipt_the_best_known_cause_is_told(workshop: Workshop, page: Kernel) -> None:
    """What says more comes first; each is taken away to see the next."""
    base = workshop.root / "home"
    shutil.copytree(page.build_dir, base / "0.7.2.post1" / "90a" / "cached_ops" / "page")
    judge = replace(workshop.judge(), bases=(base,))
    failed.remember(page, judge, "page_0.cpp:1: error: no such thing")
    receipts.path_of(page).write_text("{")
    told = []
    for gone in (receipts.path_of(page), page.library, page.build_dir / failed.NAME, page.build_dir, base, None):
        told.append(str(judge.refreshed().judge(page)))
        if gone:
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert told == [
        "incomplete: its receipt is torn, or of another version of fitasks",
        "incomplete: page.so has no receipt",
        "compiling it failed, and nothing has changed since: page_0.cpp:1: error: no such thing",
        "incomplete: its build was begun and not finished",
        f"compiled in {base}/0.7.2.post1/90a, where this server never looks (its cache is {workshop.root / 'cache'})",
        "new: never built",
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("nvcc = {CUDA}/bin/nvcc\n", "", "nvcc in build.ninja ({CUDA}/bin/nvcc → nothing)"),
        ("\nrule link", "cxx = c++\n\nrule link", "cxx in build.ninja (nothing → c++)"),
        ("default page/page.so", "default page/all", "default in build.ninja (page/page.so → page/all)"),
        ("default page/page.so", "default page/page.so page/all", "default in build.ninja (nothing → page/all)"),
        ("\nrule link", "# as FlashInfer has it\n\nrule link", "build.ninja"),
        (
            "rule link\n  command = $cxx $in -shared -o $out\n",
            "",
            "link: command in build.ninja ($cxx $in -shared -o $out → nothing)",
        ),
        ("\nrule link", "  deps = gcc\n\nrule link", "cuda_compile: deps in build.ninja (nothing → gcc)"),
        ("-O3", "-O3 " + " ".join("ABCDEFGH"), "cuda_cflags in build.ninja (nothing → A B C D E F G H)"),
        (" $\n  --compress-mode=size", "  --compress-mode=size", "build.ninja"),
        ("build page/page.cuda.o", "build elsewhere/page.cuda.o", "build.ninja"),
    ],
)
def test_a_statement_that_came_or_went_is_named(old: str, new: str, told: str) -> None:
    assert old in BEFORE
    reason = Reason("command", *_difference(BEFORE, BEFORE.replace(old, new)))
    assert str(reason) == f"command changed: {told}"


def test_the_variables_of_two_rules_are_told_apart() -> None:
    """`command` of one rule, `command` of another, and a variable of that name outside of both."""
    text = "rule a\n  command = x\nrule b\n  command = y\ncommand = z\n"
    changed = text.replace("= y", "= y2").replace("= z", "= z2")
    assert _difference(text, changed) == ("b: command in build.ninja, and 1 more", "y", "y2")
    assert _difference(text, text.replace("= z", "= z2")) == ("command in build.ninja", "z", "z2")
    bound = "rule a\n  command = x\nbuild d/e/o.o: a s$: t.cu\n  flags = -DX = 1\nbuild p.o: a p.cu\n"
    assert _difference(bound, bound.replace("= 1", "= 2")) == ("flags in build.ninja", "1", "2")
    assert _difference(bound, bound.replace("a s$: t.cu", "b s$: t.cu")) == ("o.o in build.ninja", "a", "b")
    assert _difference(bound, bound.replace("a p.cu", "a q.cu")) == ("p.o in build.ninja", "p.cu", "q.cu")
    assert _difference(bound, bound.replace("-DX =", "-DY =")) == ("flags in build.ninja", "-DX", "-DY")
