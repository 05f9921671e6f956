"""`doit report` as its users meet it: after a run with a failure, and after none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.doit_project import Project

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    pytest.importorskip("flashinfer", exc_type=Exception)
    return Project.make(tmp_path)


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
