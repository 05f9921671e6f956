"""Stores elsewhere through the real doit: one machine compiles, another fetches, and nobody waits for what is down."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.doit_project import Planned, Project
from tests.store.servers import faulty

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("obstore")
pytest.importorskip("cryptography")


@pytest.fixture
def project(planned: Planned) -> Project:
    return planned.project()


def another_machine(project: Project) -> None:
    """Nothing is compiled there, and nothing stored."""
    shutil.rmtree(project.cached_ops)
    shutil.rmtree(project.place / "xdg" / "fitasks" / "store")


def test_one_compiles_and_others_fetch(project: Project, tmp_path: Path) -> None:
    share = tmp_path / "share"
    key = tmp_path / "signing.pem"
    trust = project.doit("keygen", str(key)).splitlines()[1].removeprefix("trust: ['").removesuffix("']")
    pushing = {"FITASKS_STORE": str(share), "FITASKS_STORE_PUSH": "1", "FITASKS_SIGNING_KEY": str(key)}
    reading = {"FITASKS_STORE": str(share), "FITASKS_STORE_TRUST": trust}
    project.doit("kernel:page", "kernel:cascade", given=pushing)
    assert project.calls()
    assert len(list(share.glob("v1/kernels/*/*"))) == 2

    another_machine(project)
    told = project.doit("check", "--json", "check.json", status=1, given=reading)
    assert told.count("in the store") == 2
    verdicts = json.loads((project.root / "check.json").read_text())["kernels"]
    assert {one["label"]: one["store"] for one in verdicts} == {
        "page": str(share),
        "cascade": str(share),
        "quantization": "",
    }
    assert f"in the store {share}: compiled for FlashInfer" in project.doit("why", "page", given=reading)
    told = project.doit("--fetch-only", status=1, given=reading)
    assert project.calls() == 0
    assert "3 kernels: 2 adopted, 1 failed" in told
    assert (
        "failed:\n  kernel:quantization: quantization: not to be had from a store, and --fetch-only forbids to compile it"
        in told
    )
    assert "fetching 2 kernels (" in told

    told = project.doit("push", "page", "quantization", status=1, given=pushing)
    assert f"{share}: 0 kernels put there (0 B), 1 there already\nnot fresh, so not put there: quantization" in told
    told = project.doit("store", given=reading)
    assert f"{share}: 2 kernels, 2 versions, " in told
    assert trust[:20] in told
    assert f"{share}: 0 kernels removed (0 B), 2 kept" in project.doit("gc", "--remote", given=reading)

    another_machine(project)
    strict = {**reading, "FITASKS_STORE_TRUST": f"ed25519:{'A' * 43}="}
    told = project.doit("kernel:page", given=strict)
    assert "page is not taken: it is signed by a key that kernels.yaml doesn't trust" in told
    assert project.calls() > 0


def test_a_store_that_is_down_costs_five_seconds_and_nothing_when_all_is_fresh(
    project: Project, tmp_path: Path
) -> None:
    with faulty(tmp_path) as server:
        server.fault = "hang"
        hanging = {"FITASKS_STORE": server.url}
        told = project.doit(given=hanging)
        assert told.count(f"store {server.url}: no answer in 4.5 s; it isn't asked again in this run") == 1
        assert "3 kernels: 3 compiled" in told
        begun = time.monotonic()
        assert project.doit(given=hanging) == "3 kernels: 3 fresh\n"
        project.doit("list", "--all", "--status", given=hanging)
        project.doit("check", given=hanging)
        assert server.connections == 3, "one for each question of the first run"
        assert time.monotonic() - begun < 60


def test_what_cannot_be_a_store_is_told_before_anything(project: Project) -> None:
    told = project.doit(given={"FITASKS_STORE": "https://me:geheim@host/fi"}, status=2) + project.stderr
    assert "credentials don't belong into a store's URL" in told
    assert "geheim" not in told
    told = project.doit("push", status=2)
    assert "no store elsewhere is named" in told + project.stderr
