"""One ninja for each file: what they log is as if one ninja had compiled the whole kernel."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.compile.ninja import ninja as ninjas
from fitasks.compile.ninja import parts
from fitasks.plan.kernel import Kernel

if TYPE_CHECKING:
    from fitasks.compile.ninja.ninja import Ninja
    from tests.workshop import Workshop


def outputs(kernel: Kernel) -> list[str]:
    return sorted(Path(output).name for output in ninjas.read_log(kernel.build_dir))


def test_the_servers_ninja_has_nothing_to_do(workshop: Workshop) -> None:
    kernel = workshop.kernel(files=5)
    assert workshop.build(kernel).outcome == "compiled"
    assert workshop.ninja_would_run(kernel) == ""
    assert outputs(kernel) == ["page.so", "page_0.o", "page_1.o", "page_2.o", "page_3.o", "page_4.o"]
    header, *lines = (kernel.build_dir / ninjas.LOG).read_text().splitlines()
    assert header.startswith("# ninja log v")
    assert len(lines) == 6
    assert not (kernel.build_dir / ".fitasks-parts").exists()


def test_another_ninja_compiles_side_by_side_as_well(workshop: Workshop, old_ninja: Ninja) -> None:
    """1.11, whose logs are of another version."""
    workshop.ninja = old_ninja
    kernel = workshop.kernel(files=3)
    workshop.build(kernel)
    assert ninjas.explain(old_ninja, kernel.build_dir, kernel.ninja_file) == ()


def test_each_file_has_its_own_dependencies(workshop: Workshop) -> None:
    kernel = workshop.kernel(files=3)
    workshop.build(kernel)
    read = {Path(output).name: paths for output, paths in ninjas.read_deps(kernel.build_dir).items()}
    assert sorted(read) == ["page_0.o", "page_1.o", "page_2.o"]
    for index in range(3):
        own = [path for path in read[f"page_{index}.o"] if Path(path).name == f"page_{index}.h"]
        assert own, read[f"page_{index}.o"]


def test_after_a_failure_what_is_finished_stays_and_is_not_compiled_again(workshop: Workshop) -> None:
    kernel = workshop.kernel(files=4)
    kept, bad = kernel.sources[0].read_text(), kernel.sources[2]
    text = bad.read_text()
    bad.write_text("int broken(\n")
    with pytest.raises(KernelFailure):
        workshop.build(kernel)
    finished = outputs(kernel)
    assert "page_2.o" not in finished
    assert "page.so" not in finished
    assert kernel.sources[0].read_text() == kept
    bad.write_text(text)
    assert workshop.build(kernel).outcome == "compiled"
    assert workshop.ninja_would_run(kernel) == ""


def test_only_what_ninja_would_compile_is_compiled(workshop: Workshop) -> None:
    kernel = workshop.kernel(files=3)
    workshop.build(kernel)
    times = {path.name: path.stat().st_mtime_ns for path in kernel.build_dir.glob("*.o")}
    (kernel.build_dir / "page_1.o").unlink()
    assert workshop.build(kernel).outcome == "compiled"
    changed = {path.name for path in kernel.build_dir.glob("*.o") if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"page_1.o"}
    assert workshop.ninja_would_run(kernel) == ""


def test_a_full_disk_ends_the_compile_at_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(kernel: Kernel, part: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(part))

    monkeypatch.setattr(parts, "add_logs", full)
    kernel = workshop.kernel(files=12)
    with pytest.raises(KernelFailure, match="No space left on device"):
        workshop.build(kernel)
    assert len(list(kernel.build_dir.glob("*.o"))) < 6


def test_names_as_long_as_a_file_system_takes_them(workshop: Workshop) -> None:
    kernel = workshop.kernel("p" * 248)
    assert workshop.build(kernel).outcome == "compiled"


def test_what_a_killed_build_left_is_removed(workshop: Workshop) -> None:
    kernel = workshop.kernel()
    left = kernel.build_dir / ".fitasks-parts" / "page_0.o-0"
    left.mkdir(parents=True)
    (left / ninjas.LOG).write_text("torn")
    workshop.build(kernel)
    assert not left.parent.exists()


def test_paths_with_blanks_dollars_and_colons(tmp_path: Path, workshop: Workshop) -> None:
    place = tmp_path / "a $b: c"
    place.mkdir()
    build_file = place / "build.ninja"
    build_file.write_text("rule touch\n  command = touch $out\nbuild one: touch\nbuild two: touch\n")
    kernel = Kernel("k", "k", "k", "9.0a", "", {}, build_dir=place, ninja_file=build_file)
    part = parts.begin(kernel) / "one"
    edge = ninjas.Edge("one", "", "touch one")
    subprocess.run(parts.command(workshop.ninja, kernel, edge, part), check=True, capture_output=True)
    assert (place / "one").exists()
    assert not (place / "two").exists()
    parts.add_logs(kernel, part)
    assert list(ninjas.read_log(place)) == ["one"]
