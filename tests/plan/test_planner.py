"""Asking the serving interpreter, which may take its time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.plan.planner import asked
from fitasks.plan.server import Server

if TYPE_CHECKING:
    from collections.abc import Collection

SLOW = 'import pathlib, sys, time; time.sleep({seconds}); pathlib.Path(sys.argv[1]).write_text(\'{{"message": ""}}\')'


@pytest.mark.parametrize(("heartbeat", "counts"), [("0.3", range(2, 6)), ("0", [0]), ("nonsense", [0]), ("", [0])])
def test_planning_is_not_silent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    heartbeat: str,
    counts: Collection[int],
) -> None:
    monkeypatch.setenv("FITASKS_HEARTBEAT", heartbeat)
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(seconds=1.2))
    server = Server(Path(sys.executable), "none", Path(sys.prefix), (), {}, ())
    assert asked(server, [script, tmp_path / "answer.json"], {}, "an answer", shape="Fatal") == {"message": ""}
    said = capsys.readouterr().err
    assert said.count(f" s), waiting for {sys.executable}\n") in counts
    assert said.startswith("fitasks: still planning (0 s)") or not said
