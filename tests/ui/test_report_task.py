"""`doit report` as its users meet it: after a run with a failure, and after none."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from fitasks.ui.report import RecordedRun, write_report
from tests.doit_project import Planned, Project


@pytest.fixture
def project(planned: Planned) -> Project:
    return planned.project()


@pytest.mark.parametrize("name", ["report.html", "report.trace.json"])
def test_both_files_or_none(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory in the way, then a full disk, at the first file that comes to it and at the other."""
    page, trace = tmp_path / "report.html", tmp_path / "report.trace.json"
    run = RecordedRun(1e9, 2, "2 cores", 0.0, 0.0, 1.0, ())
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_report(run, (), page, trace)
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / name), None)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    (tmp_path / name).rmdir()

    def full(descriptor: int) -> None:
        if f".{name}." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as failed:
        write_report(run, (), page, trace)
    assert failed.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_report(project: Project) -> None:
    said = project.doit("report", status=2)
    assert "remedy: run doit first" in said
    assert "Traceback" not in said + project.stderr
    (project.tools / "fail").write_text("page.cu")
    project.doit(status=1)
    page, trace = project.root / ".fitasks" / "report.html", project.root / ".fitasks" / "report.trace.json"
    assert project.doit("report") == f"{page}\n{trace}\n"
    html = page.read_text()
    assert "<h1>3 kernels: 2 compiled, 1 failed</h1>" in html
    assert "page.cu(12): error: identifier &quot;nonsense&quot; is undefined" in html
    outputs = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"}
    assert {"cascade.so", "quantization.so"} <= outputs
    (project.tools / "fail").unlink()
    project.doit()
    project.doit("report")
    assert "<h1>3 kernels: 1 compiled, 2 fresh</h1>" in page.read_text()
    (project.library("page").parent / ".ninja_log").unlink()  # put right, not compiled
    project.doit()
    project.doit("report")
    assert "<h1>3 kernels: 1 compiled, 2 fresh</h1>" in page.read_text()
