"""The wheel as a file: its format, its contents, and what never gets into one."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import resource
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.metadata import Metadata
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from fitasks.base import temporary
from fitasks.base.errors import KernelFailure, Silent
from fitasks.compile import scratch
from fitasks.cuda.elf import exported, inspect_library, machine_code_architectures
from fitasks.delivery.bundle.bundle import bundle
from fitasks.delivery.bundle.here import Here
from fitasks.delivery.collect import collect
from fitasks.delivery.deliver import deliver as lay_out
from fitasks.delivery.wheel import archive as zipped
from fitasks.delivery.wheel.sizes import report
from fitasks.delivery.wheel.tag import platform_tag
from fitasks.delivery.wheel.wheel import build_wheel
from fitasks.graph.actions import deliver
from fitasks.store.local import Store
from fitasks.ui.size_table import show_sizes, write_sizes
from tests.delivery.wheelwright import Shop, module
from tests.workshop import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.delivery.wheel.wheel import Wheel
    from tests.workshop import Workshop


def shop(workshop: Workshop) -> Shop:
    return Shop().add(workshop, module(workshop, "page", ("sm_90a",)), module(workshop, "rope", ("sm_90a",)))


def refused(made: Shop, directory: Path) -> str:
    with pytest.raises(KernelFailure) as caught:
        made.wheel(directory)
    assert not list(directory.glob("*")) if directory.exists() else True
    return str(caught.value)


def test_an_installer_takes_it(workshop: Workshop, tmp_path: Path) -> None:
    wheel = shop(workshop).wheel(tmp_path / "dist")
    name, version, _, tags = parse_wheel_filename(wheel.path.name)
    assert name == "fitasks-kernels"
    assert version.public == "0.7.2.post1"
    assert tags & set(sys_tags())
    assert {tag.interpreter + tag.abi for tag in tags} == {"py3none"}
    with zipfile.ZipFile(wheel.path) as archive:
        assert archive.testzip() is None
        info = f"fitasks_kernels-{wheel.version}.dist-info"
        metadata = Metadata.from_email(archive.read(f"{info}/METADATA"))
        said = archive.read(f"{info}/WHEEL").decode()
    assert (metadata.name, metadata.version) == (name, version)
    assert metadata.summary == "2 kernels of FlashInfer 0.7.2.post1, compiled ahead of time for sm90a"
    assert said == (
        f"Wheel-Version: 1.0\nGenerator: fitasks\nRoot-Is-Purelib: false\nTag: {'-'.join(wheel.path.stem.split('-')[2:])}\n"
    )


def test_record_is_right_for_every_file(workshop: Workshop, tmp_path: Path) -> None:
    wheel = shop(workshop).wheel(tmp_path / "dist")
    with zipfile.ZipFile(wheel.path) as archive:
        record = f"fitasks_kernels-{wheel.version}.dist-info/RECORD"
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert [row[0] for row in rows] == archive.namelist()
        assert rows[-1] == [record, "", ""]
        for name, digest, size in rows[:-1]:
            data = archive.read(name)
            assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert int(size) == len(data)


def test_the_same_kernels_give_the_same_bytes(workshop: Workshop, tmp_path: Path) -> None:
    made = shop(workshop)
    first = made.wheel(tmp_path / "first")
    for file in workshop.workspace.rglob("*"):
        os.utime(file, (time.time() - 99999,) * 2)
    made.kernels.reverse()
    again = made.wheel(tmp_path / "second")
    assert again.path.name == first.path.name
    assert again.path.read_bytes() == first.path.read_bytes()


def test_two_compiles_of_the_same_kernel_give_the_same_bytes(workshop: Workshop, tmp_path: Path) -> None:
    """nvcc names local symbols after temporary files, and those after its process; so does this compiler."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nexec c++ -DLOCAL=tmpxft_$$ "$@"\n')
    compiler.chmod(0o755)
    workshop.cxx = str(compiler)
    source = workshop.kernel("page", 1).sources[0]
    source.write_text(f"{source.read_text()}static int LOCAL() {{ return 7; }}\nint (*hook)() = LOCAL;\n")
    kernel = module(workshop, "page", ("sm_90a",))

    def compiled(directory: str) -> tuple[bytes, Wheel]:
        workshop.build(kernel, force=True)
        return kernel.library.read_bytes(), Shop(parts=[(workshop, TARGET, "90a")], kernels=[kernel]).wheel(
            tmp_path / directory
        )

    (first, one), (second, other) = compiled("first"), compiled("second")
    assert first != second
    assert one.path.name == other.path.name
    assert one.path.read_bytes() == other.path.read_bytes()


def test_what_is_stripped_is_loaded_like_what_was_built(workshop: Workshop, tmp_path: Path) -> None:
    import ctypes

    wheel, built = shop(workshop).wheel(tmp_path / "dist"), workshop.kernel("page", 1).library
    with zipfile.ZipFile(wheel.path) as archive:
        library = Path(archive.extract("fitasks_kernels/sm90a/page/page.so", tmp_path))
    assert library.stat().st_size < built.stat().st_size
    assert exported(library) == exported(built)
    assert inspect_library(library).undefined == inspect_library(built).undefined
    assert machine_code_architectures(library) == ("sm_90a",)
    assert ctypes.CDLL(str(library))._Z6page_0v() == 1


def test_without_a_strip_it_is_packed_as_it_was_built(workshop: Workshop, tmp_path: Path) -> None:
    stocked = shop(workshop).stocked()
    stocked.plan.server.env["PATH"] = str(tmp_path)
    wheel = stocked.wheel(tmp_path / "dist")
    assert not wheel.stripped
    with zipfile.ZipFile(wheel.path) as archive:
        library = archive.read("fitasks_kernels/sm90a/page/page.so")
    assert library == workshop.kernel("page", 1).library.read_bytes()


def test_an_earlier_wheel_of_ours_is_replaced_and_nothing_else(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "torch-2.13.0-py3-none-any.whl").touch()
    first = shop(workshop).wheel(tmp_path / "dist")
    second = shop(workshop).add(workshop, module(workshop, "norm", ("sm_90a",))).wheel(tmp_path / "dist")
    assert first.version != second.version
    assert {path.name for path in (tmp_path / "dist").iterdir()} == {second.path.name, "torch-2.13.0-py3-none-any.whl"}


@pytest.mark.parametrize(
    ("flashinfer", "expected"), [("0.7.2.post1", "0.7.2.post1+k"), ("0.0.0+unknown", "0.0.0+unknown.k")]
)
def test_its_version_is_flashinfers_and_the_contents(
    flashinfer: str, expected: str, workshop: Workshop, tmp_path: Path
) -> None:
    made = shop(workshop)
    made.version = flashinfer
    version = made.wheel(tmp_path / "dist").version
    assert version.startswith(expected)
    assert str(Version(version)) == version


def test_receipts_say_all_but_where_and_when(workshop: Workshop, tmp_path: Path) -> None:
    wheel = shop(workshop).wheel(tmp_path / "dist")
    with zipfile.ZipFile(wheel.path) as archive:
        text = archive.read("fitasks_kernels/receipts.json").decode()
        library = archive.read("fitasks_kernels/sm90a/page/page.so")
        manifest = json.loads(archive.read("fitasks_kernels/manifest.json"))
    assert str(tmp_path) not in text
    receipts = json.loads(text)
    page = receipts["kernels"][0]
    inputs = {receipts["inputs"][number].partition(" ")[2] for number in page["inputs"]}
    assert inputs >= {"{FLASHINFER}/include/common.h", "{CACHE}/generated/page/page_0.cpp"}
    assert page["sha256"] == hashlib.sha256(library).hexdigest() == manifest["kernels"][0]["sha256"]
    assert page["toolchain"] == {"nvcc": "V13.0.88", "c++": "g++ 12"}
    assert "-isystem {FLASHINFER}/include" in page["commands"]
    assert not {"mtime_ns", "built", "seconds", "sealed_ns", "stamp"} & set(page)


def test_paths_outside_all_roots_are_cut_down() -> None:
    from fitasks.delivery.provenance import placeless

    assert placeless("-isystem /home/me/py/include/python3.11 $\n") == "-isystem {ELSEWHERE}/python3.11 $\n"
    assert placeless("-I/opt/x/include -L/opt/y/lib64") == "-I{ELSEWHERE}/include -L{ELSEWHERE}/lib64"
    assert placeless('cxx = "/usr/bin/c++"') == 'cxx = "{ELSEWHERE}/c++"'
    assert placeless("aa /usr/include/math.h") == "aa {ELSEWHERE}/math.h"
    kept = "{CUDA}/include $cuda_home/bin/nvcc a/b.cu -DX=1/2 --threads=4"
    assert placeless(kept) == kept


def test_flashinfers_licence_goes_along(workshop: Workshop, tmp_path: Path) -> None:
    licences = tmp_path / "site" / "flashinfer_python-0.7.2.post1.dist-info" / "licenses"
    licences.mkdir(parents=True)
    (licences / "LICENSE").write_text("Apache License\n")
    (licences / "LICENSE.kda.txt").write_text("MIT License\n")
    wheel = shop(workshop).stocked(tmp_path / "site").wheel(tmp_path / "dist")
    with zipfile.ZipFile(wheel.path) as archive:
        info = f"fitasks_kernels-{wheel.version}.dist-info"
        assert archive.read(f"{info}/licenses/LICENSE") == b"Apache License\n"
        metadata = archive.read(f"{info}/METADATA").decode()
    assert metadata.splitlines()[4:7] == [
        "License-Expression: Apache-2.0 AND MIT",
        "License-File: LICENSE",
        "License-File: LICENSE.kda.txt",
    ]


def test_no_licence_is_made_up(workshop: Workshop, tmp_path: Path) -> None:
    wheel = shop(workshop).wheel(tmp_path / "dist")
    with zipfile.ZipFile(wheel.path) as archive:
        assert b"License" not in archive.read(f"fitasks_kernels-{wheel.version}.dist-info/METADATA")


# What is not complete


def test_kernels_that_are_not_complete_are_all_named(workshop: Workshop, tmp_path: Path) -> None:
    made = shop(workshop)
    made.kernels.append(workshop.kernel("norm", 1))
    made.kernels.append(
        replace(workshop.kernel("bad", 1), name="", problem="kernels.yaml:9:3: kernels.bad: unknown op")
    )
    (workshop.kernel("rope", 1).build_dir / "fitasks-receipt.json").unlink()
    assert refused(made, tmp_path / "dist") == (
        "nothing is delivered, because of\n"
        "  kernel:rope: incomplete: rope.so has no receipt\n"
        "  kernel:norm: new: never built\n"
        "  kernel:bad: kernels.yaml:9:3: kernels.bad: unknown op\n"
        "  remedy: doit"
    )


def test_a_damaged_library_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    made = shop(workshop)
    library = workshop.kernel("page", 1).library
    data = bytearray(library.read_bytes())
    data[-1] ^= 1
    library.write_bytes(data)
    assert "kernel:page: page.so is not what was built" in refused(made, tmp_path / "dist")


def test_a_library_that_changes_while_it_is_read_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    """Judged, then overwritten by somebody else before it is in the archive."""
    stocked = shop(workshop).stocked()
    kernels = collect(stocked.plan, stocked.judges)
    library = workshop.kernel("page", 1).library
    library.write_bytes(b"something else")
    with pytest.raises(KernelFailure) as caught:
        build_wheel(kernels, stocked.plan.server, tmp_path / "dist")
    assert str(caught.value) == f"{library} changed while it was read, or isn't what was built\n  remedy: doit"
    assert not [*(tmp_path / "dist").glob("*.whl")]


def test_wrong_timestamps_do_not_matter(workshop: Workshop, tmp_path: Path) -> None:
    made = shop(workshop)
    os.utime(workshop.include / "common.h")
    assert workshop.verdict(made.kernels[0]).verdict == "heal"
    assert made.wheel(tmp_path / "dist").path.exists()


@pytest.mark.parametrize(
    ("code", "declared", "said"),
    [
        (("sm_90a", "ptx_90a"), ("sm_90a", "compute_90a"), "it holds PTX (ptx_90a), which the driver would compile"),
        (("sm_80", "sm_90a"), ("sm_90a",), "it holds machine code for sm_80, sm_90a, but its build says sm_90a"),
        (("sm_90",), ("sm_90a",), "it holds machine code for sm_90, but its build says sm_90a"),
        (("sm_90a",), (), "it holds machine code for sm_90a, but its build says nothing"),
        (("sm_80",), ("sm_80",), "it holds machine code for sm80, and is planned for sm90a"),
    ],
)
def test_machine_code_that_is_not_as_declared(
    code: tuple[str, ...], declared: tuple[str, ...], said: str, workshop: Workshop, tmp_path: Path
) -> None:
    made = shop(workshop).add(workshop, module(workshop, "norm", code, declared))
    assert f"nothing is delivered, because of\n  kernel:norm: {said}" in refused(made, tmp_path / "dist")


def test_a_launcher_without_machine_code_is_for_all_its_targets(workshop: Workshop, tmp_path: Path) -> None:
    wheel = Shop().add(workshop, module(workshop, "launcher", (), ("sm_90a",))).wheel(tmp_path / "dist")
    assert wheel.kernels[0].architectures == ("sm90a",)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"GLIBC_2.2.5", "GLIBC_2.14", ""}, "manylinux_2_17"),
        ({"GLIBC_2.34"}, "manylinux_2_34"),
        ({"GLIBC_2.14", "GLIBCXX_3.4.26"}, "manylinux_2_31"),
        ({"GLIBCXX_3.4.29", "CXXABI_1.3.9", "GCC_3.0", "libcudart.so.13"}, "manylinux_2_34"),
        ({"GLIBCXX_3.4.99"}, "linux"),
    ],
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_platform_tag_is_what_the_libraries_ask_for(
    monkeypatch: pytest.MonkeyPatch, machine: str, versions: set[str], expected: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert platform_tag(versions) == f"{expected}_{machine}"


# Sizes


def test_sizes_by_kernel_family_and_architecture(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = shop(workshop)
    made.kernels = [replace(made.kernels[0], op="attention"), replace(made.kernels[1], op="attention")]
    wheel = made.add(workshop, module(workshop, "norm", ("sm_90a",))).wheel(tmp_path / "dist")
    sizes = report(wheel)
    with zipfile.ZipFile(wheel.path) as archive:
        libraries = {Path(one.filename).stem: one.file_size for one in archive.infolist() if one.filename[-3:] == ".so"}
    assert {one.name: one.bytes for one in sizes.kernels} == libraries
    assert [(one.name, one.kernels, one.bytes) for one in sizes.families] == [
        ("attention", 2, libraries["page"] + libraries["rope"]),
        ("norm", 1, libraries["norm"]),
    ]
    assert [(one.name, one.kernels, one.bytes) for one in sizes.architectures] == [
        ("sm90a", 3, sum(libraries.values()))
    ]
    assert sizes.wheel == wheel.path.stat().st_size > sum(one.compressed for one in sizes.kernels)
    show_sizes(sizes)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kernel", "installed", "in", "the", "wheel"]
    assert lines[5].split() == ["family", "kernels", "installed", "in", "the", "wheel"]
    assert lines[-2].split()[:2] == ["sm90a", "3"]
    write_sizes(tmp_path / "sizes.json", sizes)
    assert json.loads((tmp_path / "sizes.json").read_text())["wheel"] == sizes.wheel


# Around the file


def aged(path: Path) -> Path:
    os.utime(path, (time.time() - 999,) * 2)
    return path


def test_what_a_killed_run_left_goes(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what another run has locked, or what a link leads to."""
    made, dist, tmp = shop(workshop), tmp_path / "dist", tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    monkeypatch.setattr(temporary, "_SWEPT", set())
    dist.mkdir()
    for name in ("left", "used"):
        (tmp / f"fitasks-wheel-1234{name}-locked" / "sm90a").mkdir(parents=True)
        (dist / f".fitasks-bundle-{name}.tmp").write_bytes(b"half")
    aim = tmp / "aim"
    (aim / "sm90a").mkdir(parents=True)
    (tmp / "fitasks-wheel-1234link-locked").symlink_to(aged(aim))
    with scratch.claimed(tmp / "fitasks-wheel-1234used-locked"), (dist / ".fitasks-bundle-used.tmp").open() as stream:
        assert temporary.lock(stream.fileno())
        wheel = made.wheel(dist)
    assert {path.name for path in tmp.iterdir()} == {
        "fitasks-wheel-1234used-locked",
        "fitasks-wheel-1234link-locked",
        "aim",
    }
    assert (aim / "sm90a").is_dir()
    assert {path.name for path in dist.iterdir()} == {
        ".fitasks-bundle-used.tmp",
        wheel.path.name,
    }


def test_nobody_sweeps_a_wheel_while_it_is_made(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    made, dist = shop(workshop), tmp_path / "dist"

    def adding(archive: zipfile.ZipFile, file: zipped.File, add: Any = zipped._add) -> str:
        (writing,), (copies,) = dist.iterdir(), (tmp_path / "tmp").iterdir()
        aged(writing), aged(copies)
        scratch.remove_leftovers(dist)
        temporary.sweep()
        assert writing.exists()
        assert copies.exists()
        return str(add(archive, file))

    monkeypatch.setattr(zipped, "_add", adding)
    wheel = made.wheel(dist)
    assert list(dist.iterdir()) == [wheel.path]
    assert not list((tmp_path / "tmp").iterdir())


def test_another_run_removes_the_old_one_first(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, dist = shop(workshop), tmp_path / "dist"
    dist.mkdir()
    (dist / "fitasks_kernels-0.7.1+k1-py3-none-any.whl").touch()
    (dist / "fitasks_kernels-x.whl").mkdir()

    def raced(path: Path, missing_ok: bool = False, unlink: Any = Path.unlink) -> None:
        if path.suffix == ".whl":
            os.unlink(path)  # noqa: PTH108 - the other run
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", raced)
    wheel = made.wheel(dist)
    assert {path.name for path in dist.iterdir()} == {wheel.path.name, "fitasks_kernels-x.whl"}


def test_what_the_file_system_refuses_names_the_file_and_leaves_nothing(workshop: Workshop, tmp_path: Path) -> None:
    made = shop(workshop)
    plain, dangling, taken = tmp_path / "plain", tmp_path / "dangling", tmp_path / "taken"
    plain.touch()
    dangling.symlink_to("nowhere")
    name = made.wheel(tmp_path / "dist").path.name
    (taken / name).mkdir(parents=True)
    for directory, file in ((plain, plain), (dangling, dangling), (taken, taken / name)):
        with pytest.raises(OSError) as caught:
            made.wheel(directory)
        assert (caught.value.filename, caught.value.filename2) == (str(file), None)
    assert [path.name for path in taken.iterdir()] == [name]


def test_a_full_disk(tmp_path: Path) -> None:
    path, limits = tmp_path / "dist" / "x.whl", resource.getrlimit(resource.RLIMIT_FSIZE)
    files = [zipped.File("fitasks_kernels/page.so", os.urandom(100_000))]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            zipped.write_zip(path, files, record="RECORD")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert not list(path.parent.iterdir())


def test_a_library_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        zipped.write_zip(tmp_path / "x.whl", [zipped.File("page.so", tmp_path / "page.so")], record="RECORD")
    assert caught.value.filename == str(tmp_path / "page.so")


def test_modules_of_sglangs_own_are_named_and_are_no_failure(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are delivered in another way."""
    told: list[str] = []
    monkeypatch.setattr(deliver, "show_lines", told.extend)
    made = shop(workshop).add(workshop, sgl := workshop.sglangs())
    with zipfile.ZipFile(made.wheel(tmp_path / "dist").path) as archive:
        assert [Path(name).name for name in archive.namelist() if name.endswith(".so")] == ["page.so", "rope.so"]
    plan = replace(made.stocked().plan, kernels=(*made.kernels[:2], replace(sgl, label="sgl-rope")))
    deliver._end_with_what_is_left_out(plan, [])
    why = f"left out: kernel:sgl-rope: SGLang loads it from {sgl.build_dir.parent} alone; "
    assert told == [f"{why}doit bundle, or doit deliver for an image"]


def test_where_no_wheel_can_hold_any_there_is_none_and_that_is_no_failure(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image's build goes on to doit deliver; none of an earlier kernels.yaml is taken for it."""
    monkeypatch.chdir(tmp_path)
    made = shop(workshop)
    made.wheel(Path("dist"))
    stocked = Shop(made.version, made.parts, [replace(workshop.sglangs(), label="sgl-rope")]).stocked()
    monkeypatch.setattr(deliver, "current", lambda: stocked)
    for task in (partial(deliver.wheel, "sizes.json"), deliver.install, partial(deliver.wheel, "")):
        task([])
        assert capsys.readouterr().out.splitlines()[0] == "nothing for a wheel: doit deliver lays out 1 kernel"
        assert not list(Path("dist").iterdir())
    assert json.loads(Path("sizes.json").read_text())["kernels"] == []


def test_where_no_gpu_runs_any_there_is_no_wheel_and_that_is_a_failure(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    unfit = replace(workshop.kernel("page", 1), problem="9.0 has no such instruction")
    stocked = Shop(parts=[(workshop, "9.0a", "90a")], kernels=[unfit]).stocked()
    monkeypatch.setattr(deliver, "current", lambda: stocked)
    with pytest.raises(Silent):
        deliver.wheel("", [])
    assert capsys.readouterr().out.splitlines() == [
        "nothing for a wheel",
        "left out: kernel:page: 9.0 has no such instruction",
    ]


def test_where_nothing_is_planned_whoever_delivers_is_told(workshop: Workshop, tmp_path: Path) -> None:
    stocked = Shop(parts=[(workshop, "9.0a", "90a")]).stocked()
    here = Here(stocked.plan, stocked.judges, workshop.ninja, Store(tmp_path / "store"))
    ways: list[Callable[[], object]] = [
        lambda: collect(stocked.plan, stocked.judges),
        lambda: lay_out(stocked.plan, stocked.judges, [], tmp_path / "engines"),
        lambda: bundle(here, tmp_path / "kernels.tar.gz"),
    ]
    for way in ways:
        with pytest.raises(KernelFailure, match="there are no kernels to deliver") as told:
            way()
        assert told.value.remedy == "name some in kernels.yaml"
    assert not (tmp_path / "engines").exists()
