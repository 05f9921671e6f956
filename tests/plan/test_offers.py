"""What `doit ops` remembers holds as long as what the answer was read from."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.plan import offers as offered
from fitasks.plan.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def test_they_are_asked_for_again_when_a_generator_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def doing(what: str, **_: Any) -> Iterator[None]:
        told.append(what)
        yield

    monkeypatch.setattr(offered, "doing", doing)
    generators = tmp_path / "page.py"
    generators.write_text("def gen_page_module(): ...\n")
    asked = []

    def ask(*_: Any, **__: Any) -> dict[str, Any]:
        asked.append(generators.read_text())
        op = {
            "op": "page",
            "generator": "m:gen_page_module",
            "parameters": [],
            "doc": "",
            "note": "",
            "kind": "flashinfer",
        }
        return {"ops": [op], "reads": {"files": [str(generators)], "looked": [[[str(tmp_path)], ["page", "norm"]]]}}

    monkeypatch.setattr(offered, "asked", ask)
    server = Server(Path(sys.executable), "none", Path(sys.prefix), (), {}, ())

    def times() -> int:
        assert [op.name for op in offered.offers(server, tmp_path, "9.0a", tmp_path / "state")] == ["page"]
        return len(asked)

    assert [times(), times()] == [1, 1]
    assert [what.endswith(f" of {sys.executable} what it offers") for what in told] == [True], "it takes a while"
    generators.touch()
    assert times() == 1
    generators.write_text("def gen_page_module(layout): ...\n")
    assert [times(), times()] == [2, 2]
    (tmp_path / "norm.py").touch()
    assert [times(), times()] == [3, 3]
    (tmp_path / "state" / "ops.json").write_text('{"key": 1, "reads": [], "ops": 7}')
    assert [times(), times()] == [4, 4]
