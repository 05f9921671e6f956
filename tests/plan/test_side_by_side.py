"""What planning waits for is asked at once: nobody answers before everybody was asked."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.model import KernelConfig, Position
from fitasks.plan import anew, planner

if TYPE_CHECKING:
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server

SERVER = cast("Server", SimpleNamespace(python=Path("/python"), env={}, site_packages=()))
TOOLKIT = cast("Toolkit", SimpleNamespace(cudart=Path("/cuda/libcudart.so.13")))


def entry(op: str) -> KernelConfig:
    return KernelConfig(op, op, op, {}, Position("", 0, 0), {})


def test_targets_and_a_targets_modules_and_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=5)

    def modules(_server: Server, _home: Path, target: str, request: dict[str, Any]) -> dict[str, Any]:
        together.wait()
        return {"arch": target, "kernels": request["kernels"]}

    def objects(_python: Path, _env: object, _target: str, kernels: dict[int, Any], **_: object) -> Any:
        together.wait()
        return [{"id": index, "kind": "cute"} for index in kernels], [{"read": 1}]

    monkeypatch.setattr(planner, "_ask_one", modules)
    monkeypatch.setattr(planner, "ask_objects", objects)
    monkeypatch.setattr(planner, "may_make_object", lambda op: op == "rmsnorm")
    one = planner.ask(SERVER, Path("/cuda"), ["9.0a"], [entry("rmsnorm"), entry("page")], sm90=True)["9.0a"]
    assert [(record["id"], record.get("kind", "")) for record in one["kernels"]] == [(0, "cute"), (1, "")]
    assert one["more_reads"] == [{"read": 1}]
    two = planner.ask(SERVER, Path("/cuda"), ["8.0", "9.0a"], [entry("page")], sm90=True)
    assert list(two) == ["8.0", "9.0a"]
    assert all("more_reads" not in answer for answer in two.values())


def test_the_servers_libcudart_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, places = threading.Event(), []

    def discover(*words: object) -> None:
        places.append(words[-1])
        asked.set()

    monkeypatch.setattr(anew, "discover", discover)
    with anew._looking_at_cudart(SERVER, TOOLKIT, tmp_path / "cudart.json"):
        assert asked.wait(5)
    assert places == [tmp_path / "cudart.json"], "where it will be looked for"


@pytest.mark.parametrize("trouble", [EnvironmentProblem("no torch"), OSError("full")])
def test_trouble_with_it_is_told_by_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: Exception
) -> None:
    def discover(*_words: object) -> None:
        raise trouble

    monkeypatch.setattr(anew, "discover", discover)
    with anew._looking_at_cudart(SERVER, TOOLKIT, tmp_path):
        pass


def test_what_keeps_flashinfer_from_planning_is_told_when_nothing_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(anew, "discover", lambda *_: ended.set())
    with pytest.raises(EnvironmentProblem), anew._looking_at_cudart(SERVER, TOOLKIT, tmp_path):
        raise EnvironmentProblem("no FlashInfer")
    assert ended.is_set()
