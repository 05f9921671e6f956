"""What `doit reset` does after an answer of no, and where nobody can answer."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem, Silent
from fitasks.compile import clear
from fitasks.graph.actions import repair, share

if TYPE_CHECKING:
    from pathlib import Path


class World:
    """A session that has no more than a plan, which nobody looks at."""

    plan = None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cached_ops" / "page").mkdir(parents=True)
    monkeypatch.setattr(repair, "current", World)
    monkeypatch.setattr(share, "current", World)
    monkeypatch.setattr(clear, "reset_targets", lambda _plan: [tmp_path / "cached_ops"])
    monkeypatch.setattr(clear, "left_by_reset", lambda _plan: [])
    return tmp_path / "cached_ops"


def answers(monkeypatch: pytest.MonkeyPatch, text: str, *, terminal: bool) -> None:
    stdin = io.StringIO(text)
    stdin.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stdin)


def test_no_is_no_failure(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, "n\n", terminal=True)
    with pytest.raises(Silent):
        repair.reset(yes=False)
    assert capsys.readouterr().out.endswith("nothing was removed\n")
    assert cache.exists()
    answers(monkeypatch, "y\n", terminal=True)
    repair.reset(yes=False)
    assert not cache.exists()


def test_where_nobody_can_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "y\n", terminal=False)
    with pytest.raises(EnvironmentProblem, match="nobody can be asked") as error:
        repair.reset(yes=False)
    assert error.value.remedy == "doit reset --yes"
    assert cache.exists()


@pytest.mark.parametrize(("limit", "days", "said"), [(-3, 30, "--limit -3 is less"), (20, -1, "--days -1 is less")])
def test_less_than_nothing_is_no_limit(limit: int, days: int, said: str) -> None:
    """It would empty the store."""
    for remote in (False, True):
        with pytest.raises(EnvironmentProblem, match=said):
            share.gc(limit, remote=remote, days=days)
