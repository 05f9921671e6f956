"""FlashInfer's own log, as its versions write it; the last test has the installed one write it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fitasks.plan.kernel import Kernel
from fitasks.server import buildlog
from fitasks.server.jitlog import NAME, Covered, Logged, coverage, find_logs, read_log
from fitasks.ui.jitlog_table import lines
from tests.doit_project import PAGE, Planned, Project

PREFIX = "2026-11-23 14:43:10,539 - INFO - core.py:594 - flashinfer.jit: "
NEW = f"{PREFIX}Building JIT module sampling; this can take several minutes on first use.\n"


def log(directory: Path, text: str | bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / NAME
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_builds_and_whether_they_left_a_library(tmp_path: Path) -> None:
    path = log(tmp_path, NEW + NEW.replace("sampling", "page"))
    library = tmp_path / "cached_ops" / "page" / "page.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert [(one.name, one.kind, one.without_library) for one in read_log(path)] == [
        ("sampling", "built", True),
        ("page", "built", False),
    ]


DSL = "gdn_qk_l2norm_sm90a_cute_dsl/l2norm_bf16_128"


def test_cute_dsl_kernels_which_kernels_yaml_cannot_say(tmp_path: Path) -> None:
    path = log(tmp_path, f"{PREFIX}Compiling CuTe-DSL kernel {DSL}\n")
    (tmp_path / "cached_ops" / DSL).parent.mkdir(parents=True)
    (left_none,) = read_log(path)
    (tmp_path / "cached_ops" / f"{DSL}.o").touch()
    (logged,) = read_log(path)
    assert (logged.name, logged.kind, logged.without_library, left_none.without_library) == (DSL, "built", False, True)
    (covered,) = coverage([logged], [])
    assert (covered.state, covered.accuses) == ("not nvcc's", False)
    assert list(lines([covered], [path]))[1:] == [
        f"  {DSL}: built by a server, last 2026-11-23 14:43:10; not covered by precompilation (cute-dsl)",
        "1 not nvcc's",
    ]


def entered(name: str) -> str:
    return f"ninja: Entering directory '/root/.cache/flashinfer/0.7.4/90a/cached_ops/{name}'\n"


def test_where_ninja_was_at_work(tmp_path: Path) -> None:
    idle = entered("idle") + "ninja: no work to do.\n"
    path = log(tmp_path, NEW + entered("sampling") + "[1/2] nvcc …\n" + idle + entered("rope") + entered("norm"))
    assert [(one.name, one.kind, one.times, one.last) for one in read_log(path)] == [
        ("sampling", "built", 1, "2026-11-23 14:43:10"),
        ("rope", "built", 1, ""),
        ("norm", "built", 1, ""),
    ]


def test_a_build_log_tells_seconds_and_what_had_no_work(tmp_path: Path) -> None:
    records = [
        {"toolchain": "nvcc", "name": "page", "seconds": 25.0, "pid": 7, "time": 1795901000.5},
        {"toolchain": "nvcc", "name": "page", "seconds": 16.1, "pid": 7, "time": 1795901100.5},
        {"toolchain": "nvcc", "name": "rope", "seconds": 0.03, "pid": 7, "time": 1e30},
        {"toolchain": "cute_dsl", "name": DSL, "seconds": 0.7, "pid": 7, "time": 1795901000.5},
        {"toolchain": "nvcc", "name": "prebuild[3 modules]", "seconds": 99.0, "pid": 7, "time": 1795901000.5},
    ]
    path = tmp_path / "flashinfer" / "0.7.4" / "90a" / buildlog.NAME
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records) + '{"toolchain": "nvcc", "name": "pag')
    assert find_logs([tmp_path / "flashinfer"]) == (path,)
    found = read_log(path)
    assert [(one.name, one.kind, one.times, round(one.seconds, 2)) for one in found] == [
        ("page", "built", 2, 41.1),
        ("rope", "loaded", 1, 0.03),
        (DSL, "built", 1, 0.7),
    ]
    accused = [Covered(one, "not covered").accuses for one in found]
    assert accused == [True, False, True]
    assert ", 41.1 s; not covered by kernels.yaml" in list(lines([Covered(found[0], "not covered")], [path]))[1]


def test_garbage_is_passed_over(tmp_path: Path) -> None:
    noise = b"\0\xff" * 300_000 + b"\nflashinfer.jit: Building JIT module \n" + b"x" * 100_000 + b"\n"
    generated = f"{PREFIX}Generated BGMV MoE JIT spec: bgmv_moe\n".encode()
    path = log(tmp_path, noise + generated + NEW.encode() + NEW.encode()[:60])
    assert [one.name for one in read_log(path)] == ["sampling"]


def test_a_torn_line_names_no_module(tmp_path: Path) -> None:
    torn = NEW[: NEW.index("sampling") + 4]
    later = NEW.replace("14:43:10", "15:00:00").replace("sampling", "page")
    path = log(tmp_path, torn + later + torn + later + torn)
    assert read_log(path) == (Logged(path, "page", "built", "2026-11-23 15:00:00", times=2),)


def test_a_line_behind_what_a_crash_left_is_whole(tmp_path: Path) -> None:
    for size in range(3900, 4200):
        assert [one.name for one in read_log(log(tmp_path, b"\0" * size + NEW.encode()))] == ["sampling"], size


def test_a_line_without_a_time_takes_none_away(tmp_path: Path) -> None:
    path = log(tmp_path, NEW + "flashinfer.jit: Building JIT module sampling; this can take\n")
    assert [(one.last, one.times) for one in read_log(path)] == [("2026-11-23 14:43:10", 2)]


def test_rotated_logs_but_no_compressed_ones(tmp_path: Path) -> None:
    directory = tmp_path / "0.7.2" / "90a"
    log(directory, NEW)
    for suffix in (".1", "-20261101", ".2.gz", ".lock"):
        (directory / f"{NAME}{suffix}").write_text(NEW)
    assert [path.name for path in find_logs([tmp_path])] == [NAME, f"{NAME}-20261101", f"{NAME}.1"]


def test_every_version_and_no_empty_ones(tmp_path: Path) -> None:
    expected = [log(tmp_path / version / "90a", NEW) for version in ("0.7.2", "0.7.4")]
    log(tmp_path / "0.7.1" / "90a", "")
    assert find_logs([tmp_path, tmp_path, tmp_path / "nowhere"]) == tuple(expected)


def test_covered_by_name_by_another_or_not() -> None:
    def kernel(name: str) -> Kernel:
        return Kernel(f"{name}-label", "x", "x", "9.0a", "", {}, name=name)

    names = ("page", "batch_prefill_x", "batch_prefill_y_kv_stride_equal", "norm")
    logged = [Logged(Path(), name, "built", "") for name in names]
    planned = [kernel("page"), kernel("batch_prefill_x_kv_stride_equal"), kernel("batch_prefill_y_sm90")]
    assert [(one.state, one.label) for one in coverage(logged, planned)] == [
        ("covered", "page-label"),
        ("another name", "batch_prefill_x_kv_stride_equal-label"),
        ("another name", "batch_prefill_y_sm90-label"),
        ("not covered", ""),
    ]


@pytest.mark.parametrize(
    ("place", "state"),
    [("0.7.2/90a", "covered"), ("0.7.2/80", "another target"), ("elsewhere", "covered")],
)
def test_a_cache_is_for_its_architecture_set(place: str, state: str) -> None:
    hopper = Kernel("page", "page", "page", "9.0a", "", {}, name="page", build_dir=Path("0.7.2/90a/cached_ops/page"))
    logged = Logged(Path(place, NAME), "page", "built", "")
    assert coverage([logged], [hopper]) == (Covered(logged, state, "page"),)  # type: ignore[arg-type]


def test_the_nearest_variant_and_only_a_variant() -> None:
    def nearest(name: str, *planned: str) -> str:
        kernels = [Kernel(one, "x", "x", "9.0a", "", {}, name=one) for one in planned]
        return coverage([Logged(Path(), name, "built", "")], kernels)[0].label

    assert nearest("uri", "uri_sm90", "uri_kv_stride_equal") == "uri_kv_stride_equal"
    assert nearest("uri_paged_kv_stride_independent", "uri_sm90", "uri") == "uri"
    assert nearest("uri_sm90", "uri_kv_stride_equal") == "uri_kv_stride_equal"
    assert nearest("gemm_sm90", "gemm_sm100") == "", "other generators, not variants"
    assert nearest("uri_head_dim_128", "uri_head_dim_64") == ""


LOADED = Logged(Path(), "norm", "loaded", "2026-11-23 14:43:10", times=2)


def test_only_what_was_compiled_accuses(tmp_path: Path) -> None:
    (sampling,) = read_log(log(tmp_path, NEW))
    assert [Covered(one, "not covered").accuses for one in (sampling, LOADED)] == [True, False]
    assert not any(Covered(one, "covered").accuses for one in (sampling, LOADED))


def test_what_is_said(tmp_path: Path) -> None:
    path = log(tmp_path, NEW)
    (sampling,) = read_log(path)
    norm = replace(LOADED, log=path)
    found = [Covered(sampling, "covered", "sampling"), Covered(norm, "not covered")]
    assert list(lines(found, [path])) == [
        f"{path}:",
        "  sampling: built by a server, last 2026-11-23 14:43:10; covered by kernel:sampling",
        "  norm: loaded 2 times by a server, last 2026-11-23 14:43:10; not covered by kernels.yaml",
        "1 covered, 1 not covered",
        "`doit import_trace` of such a log adds what its names tell; a recorded trace tells everything",
    ]
    silent = "1 log; none names a module (FlashInfer 0.6 never does, nor any at a logging level above info)"
    assert list(lines([], [path])) == [silent]


def test_as_a_task(planned: Planned, tmp_path: Path) -> None:
    project = planned.project(PAGE)
    project.doit()
    workspace = project.cached_ops.parent
    assert "; none names a module (" in project.doit("jitlog"), "what fitasks builds is no server's work"
    log(workspace, NEW.replace("sampling", "page"))
    assert project.doit("jitlog").endswith("covered by kernel:page\n1 covered\n")
    log(workspace, NEW)
    assert "sampling: built by a server, last 2026-11-23 14:43:10, and left no library" in project.doit(
        "jitlog", status=1
    )
    assert "no.log: No such file" in project.doit("jitlog", "no.log", status=2)
    copy = log(tmp_path, NEW)
    out = project.doit("jitlog", str(copy), f"{tmp_path}/../{tmp_path.name}/{NAME}", status=1)
    assert "left no library" not in out, "which a log that lies elsewhere doesn't tell"
    assert out.count("sampling: ") == 1
    (tmp_path / "log.2.gz").write_bytes(gzip.compress(NEW.encode()))
    assert "log.2.gz is compressed" in project.doit("jitlog", str(tmp_path / "log.2.gz"), status=2)


def test_without_a_plan_nobody_is_accused(tmp_path: Path) -> None:
    project = Project.make(tmp_path, "targets: auto\nkernels:\n  page:\n")
    copy = log(tmp_path, NEW)
    out = project.doit("jitlog", str(copy), status=2, CUDA_HOME="/no/such/toolkit", CUDA_VISIBLE_DEVICES="")
    assert "sampling: built by a server, last 2026-11-23 14:43:10; coverage unknown" in out
    assert "not covered" not in out
    assert "coverage unknown: " in out + project.stderr


@pytest.mark.usefixtures("flashinfer")
def test_the_installed_flashinfer_writes_what_is_read_here(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    ninja = tmp_path / "bin" / "ninja"
    ninja.write_text("#!/bin/sh\nexit 1\n")
    ninja.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLASHINFER")}
    env |= {
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
    }
    script = "from flashinfer.jit.page import gen_page_module; gen_page_module().build(need_lock=True)"
    subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
    (found,) = find_logs([tmp_path / ".cache" / "flashinfer"])
    (logged,) = read_log(found)
    assert (logged.name, logged.kind, logged.times, logged.without_library) == ("page", "built", 1, True)
