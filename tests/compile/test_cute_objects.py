"""Judging CuTe-DSL objects by meta.json and our receipt, and what a server does with each: no CuTe-DSL is needed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.files import sha256_file
from fitasks.compile.judge import engine_receipt
from fitasks.compile.judge.contents import Contents
from fitasks.compile.judge.cute import judge
from fitasks.compile.judge.engine_receipt import EngineReceipt
from fitasks.graph.session import Session
from fitasks.plan.kernel import Kernel, as_record, from_record, impossible
from fitasks.server.check import check, predict
from fitasks.server.place import Place
from fitasks.server.user import User
from tests.sessions import session_of
from tests.workshop import TARGET

if TYPE_CHECKING:
    from tests.workshop import Workshop

EXPECTED = {"arch": "sm90a", "cute_dsl_version": "nvidia-cutlass-dsl=4.8.1;torch=2.13.0", "source_sha256": "aa"}


@pytest.fixture
def gate(shop: Workshop) -> Kernel:
    """One that is there, as a build leaves it."""
    made = shop.cute_object(json.dumps(EXPECTED))
    made.build_dir.mkdir(parents=True)
    made.library.write_bytes(b"an object")
    made.ninja_file.write_text(json.dumps(EXPECTED, indent=2))
    size = made.library.stat().st_size
    engine_receipt.write(made, EngineReceipt(made.name, sha256_file(made.library), size, made.meta, 1.5, "2026-11-29"))
    return made


def why(kernel: Kernel, tmp_path: Path) -> str:
    judged = judge(kernel, Contents.load(tmp_path / "contents.json"))
    return f"{judged.verdict}: {'; '.join(map(str, judged.reasons))}"


def session(shop: Workshop, kernel: Kernel, **env: str) -> Session:
    plan = shop.plan()
    server = replace(plan.server, env=plan.server.env | env)
    return session_of(replace(plan, server=server, kernels=(kernel,)), ninja=shop.ninja, judges={TARGET: shop.judge()})


def said(shop: Workshop, kernel: Kernel, **env: str) -> str:
    (verdict,) = check(session(shop, kernel, **env))
    return f"{verdict.state}: {verdict.reason}"


def test_a_fresh_one(shop: Workshop, gate: Kernel, tmp_path: Path) -> None:
    assert why(gate, tmp_path) == "fresh: "
    assert said(shop, gate) == "cached: "
    assert said(shop, gate, FLASHINFER_DISABLE_JIT="1") == "cached: ", "a hit needs no compiler"


def test_one_that_is_not_there(shop: Workshop, gate: Kernel, tmp_path: Path) -> None:
    gate.library.unlink()
    assert why(gate, tmp_path) == "stale: h8.o is missing"
    engine_receipt.path_of(gate).unlink()
    assert said(shop, gate) == "would compile: new: never built"
    assert said(shop, gate, FLASHINFER_DISABLE_JIT="1").startswith("refused: ")


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (
            EXPECTED | {"cute_dsl_version": "nvidia-cutlass-dsl=4.8.0;torch=2.13.0"},
            "cute_dsl_version in meta.json changed (nvidia-cutlass-dsl=4.8.0 → nvidia-cutlass-dsl=4.8.1)",
        ),
        (EXPECTED | {"source_sha256": "bb"}, "source_sha256 in meta.json changed (bb → aa)"),
        (EXPECTED | {"tvm_ffi": False}, "tvm_ffi in meta.json changed (False → None)"),
        ({}, "arch in meta.json changed (None → sm90a)"),
        ([1], "meta.json changed"),
    ],
)
def test_of_another_key(shop: Workshop, gate: Kernel, tmp_path: Path, meta: Any, reason: str) -> None:
    """FlashInfer wipes the family, whatever is in the object."""
    gate.ninja_file.write_text(json.dumps(meta))
    assert why(gate, tmp_path).startswith(f"stale: {reason}")
    assert said(shop, gate).startswith(f"would compile: {reason}")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_torn_key(shop: Workshop, gate: Kernel, tmp_path: Path, text: str) -> None:
    gate.ninja_file.write_text(text)
    assert why(gate, tmp_path) == "stale: meta.json is missing"
    assert said(shop, gate) == "would compile: meta.json is missing"


def test_altered_contents(shop: Workshop, gate: Kernel, tmp_path: Path) -> None:
    gate.library.write_bytes(b"an Object")
    assert "h8.o is not what was built" in why(gate, tmp_path)
    assert "FlashInfer loads it unless it is torn" in said(shop, gate)
    assert said(shop, gate).startswith("unknown: ")


@pytest.mark.parametrize("text", ["", "{}", "{", "[]", '{"version": 1}'])
def test_a_receipt_that_cannot_be_believed(shop: Workshop, gate: Kernel, tmp_path: Path, text: str) -> None:
    engine_receipt.path_of(gate).write_text(text)
    assert why(gate, tmp_path) == "stale: incomplete: h8.o has no receipt"
    assert said(shop, gate).startswith("unknown: ")


def test_the_receipt_of_another(gate: Kernel, tmp_path: Path) -> None:
    assert why(replace(gate, name="gate_sm90a_cute_dsl/h4"), tmp_path).endswith("has no receipt")


def test_a_receipt_of_another_key(shop: Workshop, gate: Kernel, tmp_path: Path) -> None:
    """FlashInfer's rmtree passes over what it may not delete: the object is of before, meta.json of now."""
    receipt = engine_receipt.read(gate)
    assert receipt
    engine_receipt.write(gate, replace(receipt, meta=json.dumps(EXPECTED | {"arch": "sm80"})))
    assert why(gate, tmp_path) == "stale: the key in its receipt changed"
    assert said(shop, gate).startswith("unknown: ")
    engine_receipt.write(gate, replace(receipt, meta="no JSON"))
    assert why(gate, tmp_path) == "stale: incomplete: h8.o has no receipt"


@pytest.mark.parametrize("denied", ["h8.o", "meta.json"])
def test_one_that_the_servers_user_may_not_read(shop: Workshop, gate: Kernel, denied: str) -> None:
    """FlashInfer takes it for missing."""
    place = Place(User("server", 1000, 1000, frozenset({1000})), lambda path, mode: Path(path).name != denied)
    made = session(shop, gate)
    verdict = predict(made, gate, place)
    assert verdict.state == "would compile"
    assert f"may not read {gate.build_dir / denied}" in verdict.reason


def test_no_lock_no_compile(shop: Workshop, gate: Kernel) -> None:
    gate.library.unlink()
    place = Place(
        User("server", 1000, 1000, frozenset({1000})),
        lambda path, mode: "cached_ops" not in str(path) or mode == os.R_OK,
    )
    assert predict(session(shop, gate), gate, place).state == "would fail"


def test_its_record_survives_json(gate: Kernel) -> None:
    record = json.loads(json.dumps(as_record(gate)))
    assert from_record(record) == gate
    assert impossible([record], [TARGET]) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other/h8"},
        {"name": "gate_sm90a_cute_dsl"},
        {"name": "gate_sm90a_cute_dsl/../x", "library": "/cache/gate_sm90a_cute_dsl/../x.o"},
        {"library": "/etc/passwd"},
        {"ninja_file": "/elsewhere/meta.json"},
        {"meta": ""},
        {"lock": "lock"},
    ],
)
def test_a_damaged_plan_names_no_file_elsewhere(gate: Kernel, change: dict[str, str]) -> None:
    assert "with files that don't lie in" in impossible([as_record(gate) | change], [TARGET])
