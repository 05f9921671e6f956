"""What Dask calls in a worker that is started with `--preload fitasks.worker`."""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.graph import worker as projects

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def preload() -> Any:
    pytest.importorskip("dask")
    return importlib.import_module("fitasks.worker")


def test_a_worker_looks_what_it_is_while_dask_goes_on(preload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def prepare() -> None:
        begun.set()
        ended.wait(5)

    monkeypatch.setattr(preload, "prepare", prepare)
    preload.dask_setup(None)
    assert begun.wait(5)
    ended.set()


def test_a_worker_that_can_t_compile_says_so_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(projects, "_WORKERS", {})
    projects.prepare()
    assert "this worker can't compile: kernels.yaml" in capsys.readouterr().err
    assert projects._WORKERS[""]._described, "for whoever asks"


def test_a_worker_that_ends_ends_its_compilers(preload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr("fitasks.processes.sessions.stop_all", lambda: ended.append(True))
    asyncio.run(preload.dask_teardown(None))
    assert ended == [True]


def test_dask_doesn_t_look_all_the_while_where_threads_wait(preload: Any) -> None:
    assert preload.dask.config.get("distributed.worker.profile.enabled") is False
