"""A bundle's kernels as a package, where nothing can be planned: no toolkit, no compiler, other paths."""

from __future__ import annotations

import importlib.metadata
import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.cuda.elf import exported
from fitasks.delivery.bundle.bundle import bundle
from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.collect import collect
from fitasks.delivery.wheel.from_bundle import Repacked, repack
from fitasks.delivery.wheel.wheel import build_wheel
from fitasks.graph.session import Session
from fitasks.plan.plan import configuration
from fitasks.plan.server import Server, find_server
from fitasks.ui.bundles import repacked_lines
from tests.delivery.conftest import Place, snapshot
from tests.delivery.test_bundle_refused import with_manifest
from tests.delivery.wheelwright import looked_up, module, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop

pytestmark = pytest.mark.usefixtures("flashinfer")  # its version and its licences

# In an order of its own; what a variant of attention is declared with has several lines.
PARAMS: dict[str, object] = {"use_x": True, "dtype_q": "bfloat16", "dims": [64, None], "decl": "struct X {\n};"}


def version() -> str:
    return importlib.metadata.version("flashinfer-python")


class Coded(Place):
    """Kernels with machine code."""

    code: tuple[str, ...] = ("sm_90a",)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        made = (module(self.workshop, name, self.code) for name in self.names)
        return tuple(replace(one, op=f"{one.name}s", params=PARAMS) for one in made)


@pytest.fixture
def here(workshop: Workshop) -> Coded:
    workshop.version = version()
    place = Coded(workshop)
    assert place.build() == ["compiled", "compiled"]
    return place


@pytest.fixture
def packed(here: Coded, tmp_path: Path) -> Path:
    bundle(here.machine, tmp_path / "kernels.tar.gz")
    return tmp_path / "kernels.tar.gz"


def repacked(unplanned: Session, bundle: Path, directory: Path) -> Repacked:
    return repack(unplanned.server, bundle, directory, unplanned.root / ".fitasks")


@pytest.fixture
def unplanned(tmp_path: Path) -> Session:
    """A project on a machine without a toolkit."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "kernels.yaml").write_text('targets: ["8.0"]\nkernels:\n  norm:\n')
    return Session(root, problem=EnvironmentProblem("no toolkit"))


def test_flashinfer_finds_the_modules_of_a_repacked_bundle(
    here: Coded, packed: Path, unplanned: Session, tmp_path: Path
) -> None:
    made = repacked(unplanned, packed, tmp_path / "dist")
    site = unpacked(made.wheel.path, tmp_path / "site")
    for kernel in here.kernels:
        inside = site / "fitasks_kernels" / "sm90a" / kernel.name / kernel.library.name
        assert exported(inside) == exported(kernel.library), "stripped of nothing that a loader reads"
    assert looked_up(version(), [site], ["page", "norm"], tmp_path / "base") == {
        "page": "site/fitasks_kernels/sm90a/page/page.so",
        "norm": "",
    }
    lines = list(repacked_lines(made))
    assert lines[-1] == f"to install it: {made.python} -m pip install {made.wheel.path}"
    left = [path.relative_to(unplanned.root) for path in unplanned.root.rglob("*") if path.is_file()]
    assert sorted(map(str, left)) == [".fitasks/interpreter.json", "kernels.yaml"], "but what is remembered"


def test_its_receipts_are_those_of_the_bundle(here: Coded, packed: Path, unplanned: Session, tmp_path: Path) -> None:
    made = repacked(unplanned, packed, tmp_path / "dist")
    with zipfile.ZipFile(made.wheel.path) as archive:
        said = json.loads(archive.read("fitasks_kernels/receipts.json"))
        manifest = json.loads(archive.read("fitasks_kernels/manifest.json"))
    assert [one["generator"] for one in said["kernels"]] == [kernel.generator for kernel in here.kernels]
    assert [(one["op"], one["architectures"]) for one in manifest["kernels"]] == [
        ("pages", ["sm90a"]),
        ("ropes", ["sm90a"]),
    ]
    assert [one["params"] for one in said["kernels"]] == [PARAMS, PARAMS]
    assert made.wheel.version.startswith(f"{version()}+k")


def test_it_has_the_bytes_of_the_wheel_of_the_machine_that_built_them(
    here: Coded, unplanned: Session, tmp_path: Path
) -> None:
    machine, packed = here.machine, tmp_path / "kernels.tar.gz"
    server = find_server(configuration(unplanned.root), unplanned.probe)  # whose FlashInfer has licences
    machine = replace(machine, plan=replace(machine.plan, server=server))
    bundle(machine, packed)
    kernels = collect(machine.plan, machine.judges)
    ours = build_wheel(kernels, server, tmp_path / "ours").path
    theirs = repacked(unplanned, packed, tmp_path / "theirs").wheel.path
    assert theirs.name == ours.name
    assert theirs.read_bytes() == ours.read_bytes()


def test_an_older_bundle_does_not_say_what_its_kernels_are_called(
    packed: Path, unplanned: Session, tmp_path: Path
) -> None:
    """The generator's name has to do."""
    old = with_manifest(packed, tmp_path / "old", lambda said: said.pop("kernels"))
    made = repacked(unplanned, old, tmp_path / "dist")
    assert [(one.kernel.op, one.kernel.params) for one in made.wheel.kernels] == [("page", {}), ("rope", {})]


def test_another_flashinfer_gets_none(here: Coded, unplanned: Session, tmp_path: Path) -> None:
    here.workshop.version = "0.7.1"
    here.build()
    bundle(here.machine, tmp_path / "other")
    find_server(configuration(unplanned.root), unplanned.probe)  # its answer is remembered
    before = snapshot(tmp_path)
    with pytest.raises(BundleRefused) as caught:
        repacked(unplanned, tmp_path / "other", tmp_path / "dist")
    assert f"it is for FlashInfer 0.7.1, the server here has {version()}; nothing was changed" in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_serving_environment_without_flashinfer_is_said(
    packed: Path, unplanned: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "version", lambda self, name: "")
    with pytest.raises(EnvironmentProblem) as caught:
        repacked(unplanned, packed, tmp_path / "dist")
    python = find_server(configuration(unplanned.root), unplanned.probe).python
    assert str(caught.value) == (
        f"the serving environment of {python} has no flashinfer-python, for which the package would be; "
        "nothing was changed\n"
        f"  remedy: install flashinfer-python {version()} there, or name the server's interpreter in kernels.yaml: "
        "serving.python"
    )
    assert not (tmp_path / "dist").exists()


def test_machine_code_is_audited_as_in_any_wheel(here: Coded, unplanned: Session, tmp_path: Path) -> None:
    here.code, here.names = ("ptx_90",), ("norm",)
    here.build()
    bundle(here.machine, tmp_path / "other")
    with pytest.raises(KernelFailure) as caught:
        repacked(unplanned, tmp_path / "other", tmp_path / "dist")
    assert "kernel:norm@90a: it holds PTX (ptx_90)" in str(caught.value)
    assert not (tmp_path / "dist").exists()
