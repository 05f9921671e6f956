"""The gate of an image build on kernels whose key their engine makes: it is asked by the planner's scripts, made up here.

With real engines: tests/test_real_cute.py, tests/test_real_sglang_keyed.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.server.check import check
from fitasks.ui.check_table import write_verdicts
from tests.delivery.test_bundle_whole import Whole, made, shared
from tests.serving.test_ahead_of_time import SCRIPT
from tests.serving.test_ahead_sglang import built, site
from tests.sessions import session_of
from tests.workshop import TARGET

if TYPE_CHECKING:
    from tests.workshop import Workshop

__all__ = ["shared", "site"]  # fixtures
# Says of each kernel what ANSWER has of it, for the architecture that the environment names.
ANSWERS = """
import json, os, sys
request = json.load(open(sys.argv[1]))
assert request["architecture"] == os.environ["FLASHINFER_CUDA_ARCH_LIST"] and request["load"]
said = json.loads(os.environ["ANSWER"])
if said is None: raise SystemExit("no engine\\nat all")
if "fatal" not in said:
    asked = {one["id"]: (one["op"], one["params"]) for one in request["kernels"]}
    said = {"kernels": [{"id": index, **said[op]} for index, (op, params) in asked.items() if params == {"x": 1}]}
json.dump(said, open(sys.argv[2], "w"))
"""
OBJECT: dict[str, Any] = {"there": True, "valid": True, "loads": True, "why": "", "differs": {}}
MODULE: dict[str, Any] = {
    "found": True,
    "forced": False,
    "whole": True,
    "changed": [],
    "other_keys": [],
    "directory": "d",
}


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """As an image has it: its files, and those of the planner beside them."""
    place = tmp_path / "opt" / "fitasks"
    (place / "plan").mkdir(parents=True)
    for file in SCRIPT.parent.glob("ahead_*.py"):
        shutil.copy(file, place)
    for name in ("cute_plan.py", "sglang_keyed_plan.py"):
        (place / "plan" / name).write_text(ANSWERS)
    return place / SCRIPT.name


def ask(gate: Path, site: Path, answer: object, *kernels: dict[str, Any]) -> tuple[int, list[str]]:
    file = gate.with_name("kernels.json")
    file.write_text(json.dumps({"version": 1, "kernels": kernels}))
    env = {"PYTHONPATH": str(site), "HOME": str(site.parent), "ANSWER": json.dumps(answer)}
    command = [sys.executable, str(gate), str(file)]
    done = subprocess.run(command, cwd="/", env=os.environ | env, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def kernel(kind: str, path: Path, **other: Any) -> dict[str, Any]:
    """What `doit check --json` says of one."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = {"kind": kind, "name": path.stem, "target": "9.0a", "op": kind, "params": {"x": 1}, "sha256": digest}
    return said | other


@pytest.fixture
def object_(tmp_path: Path) -> Path:
    (tmp_path / "h8.o").write_bytes(b"an object")
    return tmp_path / "h8.o"


def refused(gate: Path, site: Path, answer: dict[str, Any], one: dict[str, Any]) -> str:
    status, said = ask(gate, site, answer, one)
    assert (status, len(said)) == (1, 2), said
    who = "FlashInfer" if one["kind"] == "cute" else "SGLang"
    assert said[1] == f"{who} would not load 1 of 1 module(s)"
    return said[0]


def test_both_kinds_are_found_and_counted(gate: Path, site: Path, tmp_path: Path, object_: Path) -> None:
    module = built(tmp_path)
    answer = {"cute": {"objects": [OBJECT | {"path": str(object_)}]}, "sglang-keyed": MODULE | {"library": str(module)}}
    status, said = ask(gate, site, answer, kernel("cute", object_), kernel("sglang-keyed", module))
    assert (status, said[0].rpartition(",")[0]) == (0, "SGLang finds all 2 module(s) ahead of time"), said
    status, said = ask(gate, site, answer, kernel("cute", object_))
    assert (status, said) == (0, ["FlashInfer finds all 1 module(s) ahead of time, 0.0 MB"])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"there": False}, "{path} is missing"),
        (
            {"valid": False, "differs": {"source_sha256": ["aa", "bb"]}},
            "FlashInfer passes over {path}, which is of another key: source_sha256 is aa, not bb",
        ),
        ({"valid": False}, "FlashInfer passes over {path}, which is of another key: it has no meta.json"),
        ({"loads": False, "why": "torn"}, "{path} can't be loaded: torn"),
    ],
)
def test_an_object_that_flashinfer_would_not_load(
    gate: Path, site: Path, object_: Path, answer: dict[str, Any], why: str
) -> None:
    said = {"cute": {"objects": [OBJECT | answer | {"path": str(object_)}]}}
    assert refused(gate, site, said, kernel("cute", object_)) == f"h8: {why.format(path=object_)}"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            {"found": False, "other_keys": ["0123", "4567"]},
            "SGLang finds none in d; it is there for the key 0123, 4567",
        ),
        ({"found": False, "changed": ["kernels:a.cuh"]}, "SGLang finds none in d; changed since: kernels:a.cuh"),
        ({"whole": False}, "{path} is no whole library"),
        ({"forced": True}, "SGLANG_JIT_FORCE_RECOMPILE is set"),
        ({"error": {"kind": "generator", "message": "no such function"}}, "no such function"),
    ],
)
def test_a_module_that_sglang_would_not_load(
    gate: Path, site: Path, tmp_path: Path, answer: dict[str, Any], why: str
) -> None:
    module = built(tmp_path)
    said = {"sglang-keyed": MODULE | {"library": str(module)} | answer}
    assert refused(gate, site, said, kernel("sglang-keyed", module)) == f"{module.stem}: {why.format(path=module)}"


def test_another_file_than_was_built(gate: Path, site: Path, object_: Path) -> None:
    one = kernel("cute", object_)
    object_.write_bytes(b"an Object")
    said = refused(gate, site, {"cute": {"objects": [OBJECT | {"path": str(object_)}]}}, one)
    now = hashlib.sha256(b"an Object").hexdigest()
    assert said == f"{object_} is altered: {now[:12]}, {one['sha256'][:12]} as it was built"


def test_what_the_loader_refuses(gate: Path, site: Path, tmp_path: Path) -> None:
    path = built(tmp_path, source="void TVMFFINoSuchThing(void); void run(void) { TVMFFINoSuchThing(); }")
    said = refused(gate, site, {"sglang-keyed": MODULE | {"library": str(path)}}, kernel("sglang-keyed", path))
    assert said == f"{path} can't be loaded: {path}: undefined symbol: TVMFFINoSuchThing"


def test_what_was_not_finished_there(gate: Path, site: Path, object_: Path) -> None:
    said = refused(gate, site, {"cute": {"objects": []}}, kernel("cute", object_, sha256=""))
    assert said == "h8: was not finished where the list was made; run doit, then doit check --json there"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "at all"),
        ({"fatal": {"message": "no CuTe-DSL kernels can be made here"}}, "no CuTe-DSL kernels can be made here"),
    ],
)
def test_an_engine_that_cannot_be_asked(gate: Path, site: Path, object_: Path, answer: object, why: str) -> None:
    said = f"{sys.executable} can't say what a server finds for h8: {why}"
    assert ask(gate, site, answer, kernel("cute", object_)) == (2, [said])


@pytest.mark.parametrize(
    "other", [{"name": "a\x1b[2J"}, {"params": []}, {"op": "\n"}, {"sha256": None, "target": "\0"}]
)
def test_a_list_that_says_something_else(gate: Path, site: Path, object_: Path, other: dict[str, Any]) -> None:
    status, said = ask(gate, site, {}, kernel("cute", object_, **other))
    assert (status, "neither of `doit check --json` nor a wheel's manifest" in said[0]) == (2, True), said


def test_what_check_writes_is_what_the_gate_reads(gate: Path, site: Path, shop: Workshop, shared: bytes) -> None:
    whole: Whole = made(shop, shared)
    plan = whole.machine.plan
    session = session_of(plan, ninja=shop.ninja, judges={TARGET: shop.judge()})
    write_verdicts(shop.root / "check.json", check(session), [])
    said = json.loads((shop.root / "check.json").read_text())["kernels"]
    assert [(one["op"], one["params"]) for one in said] == [(one.op, {}) for one in whole.kernels]
    objects = [OBJECT | {"path": str(whole.gate.library)}]
    answer = {whole.gate.op: {"objects": objects}, whole.clamp.op: MODULE | {"library": str(whole.clamp.library)}}
    for file in gate.with_name("plan").iterdir():
        file.write_text(ANSWERS.replace('{"x": 1}', "{}"))
    assert ask(gate, site, answer, *said)[0] == 0
