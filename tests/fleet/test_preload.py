"""What Dask calls in a worker that is started with `--preload fitasks.worker`."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.graph import worker as projects

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def preload() -> Any:
    pytest.importorskip("dask")
    return importlib.import_module("fitasks.worker")


def test_a_worker_has_looked_what_it_is_before_it_is_asked(
    preload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And starts whatever is wrong with its project: who asks is told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(projects, "_WORKERS", {})
    asyncio.run(preload.dask_setup(None))
    (known,) = projects._WORKERS.values()
    assert known._described
    assert "kernels.yaml" in known._described.problem


def test_a_worker_that_ends_ends_its_compilers(preload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr("fitasks.processes.sessions.stop_all", lambda: ended.append(True))
    asyncio.run(preload.dask_teardown(None))
    assert ended == [True]


def test_dask_doesn_t_look_all_the_while_where_threads_wait(preload: Any) -> None:
    assert preload.dask.config.get("distributed.worker.profile.enabled") is False
