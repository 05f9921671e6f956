"""Toolkits made of small files, and the machine that they are put on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_toolkit import Maker, build_library, build_talker
from toolkit_world import World

from fitasks.cuda import toolkit as toolkit_module
from fitasks.cuda.survey import Linker


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    directory = tmp_path_factory.mktemp("parts")
    return Maker(build_talker(directory), build_library(directory))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(toolkit_module, "DEFAULT_HOME", tmp_path / "default")
    monkeypatch.setattr(Linker, "_defaults", lambda self: [])
    return World(tmp_path)
