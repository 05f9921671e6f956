"""FlashInfer's own log, as its versions write it; the last test has the installed one write it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fitasks.plan.kernel import Kernel
from fitasks.runtime.jitlog import NAME, Covered, Logged, coverage, find_logs, read_log
from fitasks.ui.jitlog_table import lines
from tests.doit_project import Project

OLD = """\
2025-06-01 10:00:00,001 - INFO - flashinfer.jit: Loading JIT ops: page
2025-06-01 10:00:20,001 - INFO - flashinfer.jit: Finished loading JIT ops: page
2025-06-01 11:00:00,001 - INFO - flashinfer.jit: Loading JIT ops: page
2025-06-01 11:00:01,001 - INFO - flashinfer.jit: Loading JIT ops: norm
2025-06-01 11:00:02,001 - INFO - flashinfer.jit: Finished loading JIT ops: norm
"""
PREFIX = "2026-11-23 14:43:10,539 - INFO - core.py:594 - flashinfer.jit: "
NEW = f"{PREFIX}Building JIT module sampling; this can take several minutes on first use.\n"


def log(directory: Path, text: str | bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / NAME
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_loads_without_an_end(tmp_path: Path) -> None:
    path = log(tmp_path, OLD)
    assert read_log(path) == (
        Logged(path, "page", "loaded", "2025-06-01 10:00:00", "2025-06-01 11:00:00", times=2, unended=1),
        Logged(path, "norm", "loaded", "2025-06-01 11:00:01", "2025-06-01 11:00:01"),
    )


def test_builds_and_whether_they_left_a_library(tmp_path: Path) -> None:
    path = log(tmp_path, NEW + NEW.replace("sampling", "page"))
    library = tmp_path / "cached_ops" / "page" / "page.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert [(one.name, one.kind, one.unended) for one in read_log(path)] == [
        ("sampling", "built", 1),
        ("page", "built", 0),
    ]


def test_garbage_is_passed_over(tmp_path: Path) -> None:
    noise = b"\0\xff" * 300_000 + b"\nflashinfer.jit: Building JIT module \n" + b"x" * 100_000 + b"\n"
    generated = f"{PREFIX}Generated BGMV MoE JIT spec: bgmv_moe\n".encode()
    path = log(tmp_path, noise + generated + NEW.encode() + NEW.encode()[:60])
    assert [one.name for one in read_log(path)] == ["sampling"]


def test_every_layout_and_no_empty_ones(tmp_path: Path) -> None:
    expected = [log(tmp_path / "90", OLD), log(tmp_path / "0.7.2" / "90a", NEW)]
    log(tmp_path / "0.7.1" / "90a", "")
    assert find_logs([tmp_path, tmp_path, tmp_path / "nowhere"]) == tuple(expected)


def test_covered_by_name_by_another_or_not() -> None:
    def kernel(name: str) -> Kernel:
        return Kernel(f"{name}-label", "x", "x", "9.0a", "", {}, name=name)

    names = ("page", "batch_prefill_x", "batch_prefill_y_kv_stride_equal", "norm")
    logged = [Logged(Path(), name, "built", "", "") for name in names]
    planned = [kernel("page"), kernel("batch_prefill_x_kv_stride_equal"), kernel("batch_prefill_y_sm90")]
    assert [(one.state, one.label) for one in coverage(logged, planned)] == [
        ("covered", "page-label"),
        ("another name", "batch_prefill_x_kv_stride_equal-label"),
        ("another name", "batch_prefill_y_sm90-label"),
        ("not covered", ""),
    ]


def test_what_is_said(tmp_path: Path) -> None:
    path = log(tmp_path, OLD)
    page, norm = read_log(path)
    found = [Covered(page, "covered", "page"), Covered(norm, "not covered")]
    assert list(lines(found, [path])) == [
        f"{path}:",
        "  page: loaded 2 times by a server, last 2025-06-01 11:00:00, 1 of them without an end; covered by kernel:page",
        "  norm: loaded by a server, last 2025-06-01 11:00:01; not covered by kernels.yaml",
        "1 covered, 1 not covered",
        "`doit import_trace` of such a log adds what its names tell; a recorded trace tells everything",
    ]
    assert list(lines([], [path])) == ["1 logs; none names a module"]


def test_as_a_task(tmp_path: Path) -> None:
    project = Project.make(tmp_path, 'targets: ["9.0a"]\nkernels:\n  page:\n')
    project.doit()
    workspace = project.cached_ops.parent
    assert project.doit("jitlog").endswith("none names a module\n"), "what fitasks builds is no server's work"
    log(workspace, NEW.replace("sampling", "page"))
    assert project.doit("jitlog").endswith("covered by kernel:page\n1 covered\n")
    log(workspace, NEW)
    assert "sampling: built by a server, last 2026-11-23 14:43:10, and left no library" in project.doit(
        "jitlog", status=1
    )
    assert "no.log: No such file" in project.doit("jitlog", "no.log", status=2)


def test_the_installed_flashinfer_writes_what_is_read_here(tmp_path: Path) -> None:
    pytest.importorskip("flashinfer", exc_type=Exception)
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
    assert (logged.name, logged.kind, logged.times, logged.unended) == ("page", "built", 1, 1)
