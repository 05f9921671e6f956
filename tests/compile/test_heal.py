"""What healing writes: the outputs' times and ninja's two logs, and nothing else; and why it gives up."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.compile import receipt as receipts
from fitasks.compile.heal import NotHealed, commands_of, heal, log_version
from fitasks.compile.ninja.ninja import DEPS, LOG, Ninja, read_deps, read_log

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop


@pytest.fixture
def workshop(shop: Workshop) -> Workshop:
    return shop


@pytest.fixture
def page(workshop: Workshop) -> Kernel:
    return workshop.built()


def receipt_of(kernel: Kernel) -> Receipt:
    receipt = receipts.read(kernel)
    assert receipt
    return receipt


def healed(workshop: Workshop, kernel: Kernel) -> Receipt:
    return heal(kernel, receipt_of(kernel), workshop.judge().roots, workshop.ninja)


def hashes(log: Path) -> dict[str, str]:
    """Output → hash of its command."""
    lines = [line.split("\t") for line in log.read_text().splitlines()[1:]]
    return {fields[3]: fields[4] for fields in lines}


def test_the_log_says_what_ninjas_own_said_at_one_moment(workshop: Workshop, page: Kernel) -> None:
    log, began = page.build_dir / LOG, time.time_ns()
    header, before = log.read_text().splitlines()[0], hashes(log)
    receipt = healed(workshop, page)
    text = log.read_text()
    assert text.startswith(f"{header}\n0\t1\t{receipt.sealed_ns}\t")
    assert text.endswith("\n")
    assert len(text.splitlines()) == 4
    assert hashes(log) == before
    assert set(read_log(page.build_dir).values()) == {receipt.sealed_ns}
    assert began <= receipt.sealed_ns <= time.time_ns()


def test_every_output_has_the_seals_time_and_the_receipt_tells_all_of_them(workshop: Workshop, page: Kernel) -> None:
    before = receipt_of(page)
    receipt = healed(workshop, page)
    names = {path.name for path in page.build_dir.iterdir()} - {receipts.NAME, "build.ninja"}
    assert set(receipt.outputs) == names == {"page.so", "page_0.o", "page_1.o", LOG, DEPS}
    for name in ("page.so", "page_0.o", "page_1.o"):
        assert (page.build_dir / name).stat().st_mtime_ns == receipt.sealed_ns
        assert receipt.outputs[name] == replace(before.outputs[name], mtime_ns=receipt.sealed_ns)
    changed = {"outputs": receipt.outputs, "sealed_ns": receipt.sealed_ns}
    assert receipt == replace(before, **changed)  # type: ignore[arg-type]
    assert receipt_of(page) == before, "the caller writes it, when all is done"


def test_an_input_from_the_future_is_no_newer_than_the_outputs_then(workshop: Workshop, page: Kernel) -> None:
    future = time.time_ns() + 3600 * 10**9
    os.utime(workshop.include / "page_1.h", ns=(future, future))
    assert healed(workshop, page).sealed_ns == future
    assert workshop.ninja_would_run(page) == ""


def test_what_each_object_was_compiled_from_stays_known(workshop: Workshop, page: Kernel) -> None:
    before = read_deps(page.build_dir)
    healed(workshop, page)
    assert read_deps(page.build_dir) == before
    assert str(workshop.include / "page_1.h") not in before[str(page.build_dir / "page_0.o")]


@pytest.mark.parametrize("lost", ["the log", "an object's part", "the place"])
def test_where_that_is_not_known_all_inputs_count_for_each_object(workshop: Workshop, page: Kernel, lost: str) -> None:
    match lost:
        case "the log":
            (page.build_dir / DEPS).unlink()
        case "an object's part":
            os.truncate(page.build_dir / DEPS, (page.build_dir / DEPS).stat().st_size - 4)
        case "the place":  # the commands are another place's, and so would be the paths in the log
            receipts.write(page, replace(receipt_of(page), build_ninja="0" * 64))
    healed(workshop, page)
    everything = {workshop.judge().roots.absolute(path) for path, _ in receipts.parse_inputs(receipt_of(page).inputs)}
    found = read_deps(page.build_dir)
    assert {path: set(read) for path, read in found.items()} == {
        str(page.build_dir / name): everything for name in ("page_0.o", "page_1.o")
    }


def test_a_file_that_has_another_name_elsewhere_is_parted_from_it(workshop: Workshop, page: Kernel) -> None:
    other = workshop.root / "other.so"
    other.hardlink_to(page.library)
    before, alone = other.stat(), (page.build_dir / "page_0.o").stat().st_ino
    healed(workshop, page)
    after = other.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert page.library.read_bytes() == other.read_bytes()
    assert os.access(page.library, os.X_OK)
    assert (page.build_dir / "page_0.o").stat().st_ino == alone, "nobody else's, so it stays the file that it is"
    assert not list(page.build_dir.glob("*.fitasks"))


# ---- what it gives up for


def test_where_ninja_would_compile_all_the_same_its_first_reason_is_told(workshop: Workshop, page: Kernel) -> None:
    """For a file that no receipt knows of, here one that the link waits for."""
    extra = workshop.root / "extra"
    extra.touch()
    future = time.time_ns() + 3600 * 10**9
    os.utime(extra, ns=(future, future))
    edge = f"build {page.library}: link {page.build_dir}/page_0.o {page.build_dir}/page_1.o"
    assert edge in page.ninja
    waits = replace(page, ninja=page.ninja.replace(edge, f"{edge} | {extra}"))
    with pytest.raises(NotHealed, match=rf"^output {page.library} older than most recent input {extra} \("):
        healed(workshop, waits)
    assert page.ninja_file.read_text() == waits.ninja


def test_a_build_file_that_ninja_cannot_read_is_told(workshop: Workshop, page: Kernel) -> None:
    broken = replace(page, ninja="build\n")
    with pytest.raises(NotHealed, match=rf"^ninja can't read {page.ninja_file}: ninja: error: .*expected path"):
        healed(workshop, broken)
    page.ninja_file.write_text(page.ninja)
    assert list(commands_of(page, workshop.ninja)) == [
        *(str(page.build_dir / name) for name in ("page_0.o", "page_1.o", "page.so"))
    ]


def ninja_that(directory: Path, script: str) -> Ninja:
    executable = directory / "ninja"
    executable.write_text(f"#!/bin/sh\ncd $2\n{script}\n")
    executable.chmod(0o755)
    return Ninja(executable, "9.9")


def test_a_log_of_an_unknown_version_is_not_written(workshop: Workshop, page: Kernel) -> None:
    """Of a later ninja, whose way to hash commands nobody here knows."""
    later = ninja_that(
        workshop.root,
        f'case "$*" in *compdb*) exec {workshop.ninja.executable} "$@";; *) echo "# ninja log v99" > .ninja_log;; esac',
    )
    before = (page.build_dir / LOG).read_bytes()
    with pytest.raises(NotHealed, match=r"^this ninja writes logs of version 99, which isn't known here$"):
        heal(page, receipt_of(page), workshop.judge().roots, later)
    assert (page.build_dir / LOG).read_bytes() == before


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ('echo "# ninja log v7" > .ninja_log; echo more >> .ninja_log', 7),
        ('echo "# ninja log v5" > .ninja_log; echo chatter; echo chatter >&2; exit 1', 5),
        ("exit 0", 0),
        ("echo something else > .ninja_log", 0),
        ('printf "\\377" > .ninja_log', 0),
    ],
)
def test_the_version_of_a_log_is_what_ninja_writes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str, version: int
) -> None:
    assert log_version(ninja_that(tmp_path, script)) == version
    assert capfd.readouterr() == ("", "")


def test_the_real_ninja_says_it_in_a_directory_that_the_next_run_would_know(workshop: Workshop, page: Kernel) -> None:
    header = (page.build_dir / LOG).read_text().splitlines()[0]
    assert header == f"# ninja log v{log_version(workshop.ninja)}"
    log_version(ninja_that(workshop.root, f"cp build.ninja {workshop.root}/asked; basename $2 > {workshop.root}/where"))
    assert (workshop.root / "where").read_text().startswith("fitasks-ninja-")
    assert "command = :" in (workshop.root / "asked").read_text()
