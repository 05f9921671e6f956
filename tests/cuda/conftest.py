"""Toolkits made of small files, and the machine that they are put on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fitasks.cuda import toolkit as toolkit_module
from fitasks.cuda.survey import Linker
from tests.cuda.toolkit_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(toolkit_module, "DEFAULT_HOME", tmp_path / "default")
    monkeypatch.setattr(Linker, "_defaults", lambda self: [])
    return World(tmp_path)
