"""Sources that FlashInfer has written: a plan holds while they are that, or gone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.plan.written import touched, written

if TYPE_CHECKING:
    from tests.workshop import Workshop


@pytest.fixture
def place(workshop: Workshop) -> Path:
    """The directory of one module's sources, with a header beside them that only they include."""
    generated = workshop.target().generated / "page"
    generated.mkdir(parents=True)
    (generated / "page_config.inc").write_text("#define DIM 128\n")
    return generated


@pytest.fixture
def files(workshop: Workshop, place: Path) -> Any:
    """As plan.json has them."""
    target, kernel = workshop.target(), workshop.kernel()
    elsewhere = replace(kernel, sources=(workshop.include / "common.h",))
    flat = target.generated / "flat.cu"
    flat.write_text("int flat;\n")
    (target.generated / "nobodys.cu").touch()
    found = written([kernel, elsewhere, replace(kernel, sources=(flat,))], {kernel.target: target})
    assert {directory: sorted(names) for directory, names in found.items()} == {
        str(target.generated): ["flat.cu"],
        str(place): ["page_0.cpp", "page_1.cpp", "page_config.inc"],
    }
    return json.loads(json.dumps(found))


def test_it_holds(files: Any) -> None:
    assert touched(files) == 0


@pytest.mark.parametrize("name", ["page_0.cpp", "page_config.inc", "../flat.cu"])
@pytest.mark.parametrize("left", [0, 5])
def test_a_part_of_a_source_is_no_source(files: Any, place: Path, name: str, left: int) -> None:
    """As a process that was killed, or a full disk, leaves it."""
    os.truncate(place / name, left)
    assert touched(files) is None


def test_an_edit_is_none_even_with_size_and_time_kept(files: Any, place: Path) -> None:
    source = place / "page_config.inc"
    before = source.stat()
    source.write_text("#define DIM 256\n")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert touched(files) is None


def test_what_was_touched_is_looked_at_once(files: Any, place: Path) -> None:
    os.utime(place / "page_0.cpp", (1, 1))
    os.utime(place / "page_1.cpp", (1, 1))
    assert touched(files) == 2
    assert touched(files) == 0


def test_what_is_gone_is_written_again_by_whoever_needs_it(files: Any, place: Path) -> None:
    (place / "page_0.cpp").unlink()
    (place / "page_config.inc").unlink()
    assert touched(files) == 0


def test_a_directory_in_a_sources_place_does_not_hold(files: Any, place: Path) -> None:
    (place / "page_0.cpp").unlink()
    (place / "page_0.cpp").mkdir()
    assert touched(files) is None


@pytest.mark.parametrize(
    "damaged", [None, [], {"/a": None}, {"/": {"proc": None}}, {"/": {"proc": []}}, {"/": {"proc": [1]}}]
)
def test_of_a_damaged_memo_nothing_holds(damaged: Any) -> None:
    assert touched(damaged) is None
