"""A cache whose path the locale has no letters for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doit_project import Project

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("flashinfer")
def test_a_path_that_the_locale_cannot_write_fails_each_kernel_with_what_to_do(tmp_path: Path) -> None:
    project = Project.make(tmp_path, 'targets: ["9.0a"]\nkernels:\n  page:\n')
    project.env["FLASHINFER_WORKSPACE_BASE"] = str(tmp_path / "größe")
    out = project.doit(status=2, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    assert "with letters that this locale can't write in one it can't build there" in out
    assert "remedy: set LC_ALL=C.UTF-8" in out
    assert "Traceback" not in out + project.stderr
    assert "1 compiled" in project.doit(LC_ALL="C.UTF-8")
