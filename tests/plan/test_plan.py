"""When a plan still holds, with the real planner and a copy of FlashInfer that may be edited."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fitasks.config.schema import SCHEMA_FILE
from fitasks.plan.overruled import overruled
from fitasks.plan.remembered import holding
from tests.doit_project import Project

KERNELS = """\
targets: ["9.0a"]
kernels:
  page:
  decode: {op: batch_decode, dtype_q: bfloat16, head_dim: 64}
"""


def copied(installed: Path, site: Path) -> Path:
    """FlashInfer, its Python and templates as files of our own, the rest as links."""

    def ours(source: str, target: str) -> None:
        if source.endswith((".py", ".jinja")):
            shutil.copy2(source, target)
        else:
            Path(target).symlink_to(source)

    package = site / "flashinfer"
    third_party = {"cutlass", "spdlog", "cccl"}

    def skipped(directory: str, names: list[str]) -> set[str]:
        return (third_party if Path(directory) == installed / "data" else set()) & set(names)

    shutil.copytree(installed, package, copy_function=ours, ignore=skipped)
    for name in third_party & {entry.name for entry in (installed / "data").iterdir()}:
        (package / "data" / name).symlink_to(installed / "data" / name)
    return package


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Project:
    """Planned once, with the copy in front of the installed package."""
    root = tmp_path_factory.mktemp("planned")
    project = Project.make(root, KERNELS)
    package = copied(flashinfer, root / "checkout")
    (package / "_build_meta.py").unlink()  # as in a checkout
    project.env["PYTHONPATH"] += f":{package.parent}"
    project.doit("list")
    assert f"planning 2 kernels with FlashInfer 0.0.0+unknown in {package} of " in project.stderr
    return project


def package_of(project: Project) -> Path:
    return project.root.parent / "checkout" / "flashinfer"


def plan_of(project: Project) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((project.root / ".fitasks" / "plan.json").read_text())
    return plan


def kernels_of(project: Project) -> dict[str, dict[str, Any]]:
    return {kernel["entry"]: kernel for kernel in plan_of(project)["kernels"]}


def test_versions_are_those_of_what_is_imported(project: Project) -> None:
    stamp = json.loads((project.root / ".fitasks" / "cudart.stamp").read_text())
    assert stamp["flashinfer"] == "0.0.0+unknown"
    assert plan_of(project)["targets"]["9.0a"]["root"] == str(package_of(project))
    schema = project.root / ".fitasks" / SCHEMA_FILE.name
    assert schema.read_text() == SCHEMA_FILE.read_text(), "which a kernels.yaml of init's names"


def test_it_rests_on_what_planning_read(project: Project) -> None:
    reads = plan_of(project)["reads"]
    names = {f"{directory}/{name}" for directory, found in reads["files"].items() for name in found}
    package = package_of(project)
    for name in ("jit/core.py", "jit/page.py", "data/csrc/batch_decode_customize_config.jinja"):
        assert str(package / name) in names
    for name in ("torch/utils/cpp_extension.py", "torch/version.py", "tvm_ffi/libinfo.py", "/RECORD"):
        assert [one for one in names if one.endswith(name)], name
    base = str(project.root.parent / "base")
    assert not [name for name in names if name.startswith((base, "/proc", str(project.root)))], "what planning wrote"
    assert str(package.parent) in reads["directories"]


def test_touched_files_are_no_other_plan(project: Project) -> None:
    for path in (package_of(project) / "jit").glob("*.py"):
        path.touch()
    project.doit("list")
    assert "planning" not in project.stderr


def test_what_a_killed_server_left_of_a_source_is_written_again(project: Project) -> None:
    """FlashInfer's generators don't write in one go, and whoever asks them next mends it: here before anything else."""
    sources = [Path(name) for name in kernels_of(project)["decode"]["sources"]]
    whole = {path: path.read_text() for path in (sources[0], *sources[0].parent.glob("*.inc"))}
    assert len(whole) > 1
    for path in whole:
        path.write_text("")
    project.doit("list")
    assert "planning" in project.stderr
    assert {path: path.read_text() for path in whole} == whole
    sources[0].touch()
    sources[1].unlink()
    project.doit("list")
    assert "planning" not in project.stderr, "doit has what is gone written again"


SERVER = "import flashinfer.jit.page as page; page.gen_page_module().build(verbose=False)"


def test_an_edit_is_planned_with_and_what_a_server_then_compiles_is_cached(project: Project) -> None:
    core, decode = (package_of(project) / "jit" / name for name in ("core.py", "attention/modules.py"))
    before = {path: path.read_text() for path in (core, decode)}
    project.doit("kernel:page")
    assert "--compress-mode=size" in kernels_of(project)["page"]["ninja"]
    core.write_text(before[core].replace('"--compress-mode=size",', ""))
    decode.write_text(
        before[decode].replace("def gen_batch_decode_module(", "def gen_batch_decode_module(nobody_gives, ")
    )
    assert "page" in verdict(project, "would compile")
    assert "planning" in project.stderr
    assert "--compress-mode=size" not in kernels_of(project)["page"]["ninja"]
    assert "nobody_gives" in kernels_of(project)["decode"]["problem"]
    serve(project, SERVER)
    assert "compiled by a server since" in verdict(project, "cached")
    assert "planning" not in project.stderr, "a problem is remembered, too"
    for path, text in before.items():
        path.write_text(text)
    assert "page" in verdict(project, "would compile")
    assert "planning" in project.stderr
    assert not kernels_of(project)["decode"]["problem"], "its cause is mended"


def verdict(project: Project, state: str) -> str:
    """Check's line about page, which must say `state`, with the one below: a long reason stands there."""
    lines = project.doit("check", status=1).splitlines()
    found = next(number for number, line in enumerate(lines) if "page" in line and state in line)
    return " ".join(lines[found : found + 2])


def serve(project: Project, script: str) -> None:
    environment = project.env | {"FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
    environment |= {"CUDA_HOME": plan_of(project)["targets"]["9.0a"]["cuda_home"]}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=project.root, check=True)


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    names = ("page", "norm", "twin", "broken")
    common = {"problem": "", "twin": ""}
    records = [common | {"ninja_file": str(tmp_path / f"{name}.ninja"), "ninja": f"{name} -O3"} for name in names]
    records[2]["twin"], records[3]["problem"] = "page", "no such parameter"
    return records


def test_another_command_in_the_cache_overrules_the_memory(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    assert overruled(records) == {}, "nothing is built yet"
    for record in records:
        Path(record["ninja_file"]).write_text(record["ninja"])
    assert overruled(records) == {}
    page = tmp_path / "page.ninja"
    page.write_text("page -O2")
    first = overruled(records)
    assert list(first) == [str(page)]
    page.write_text("page -O1")
    assert overruled(records) != first, "a third command is news again"
    for name in ("twin", "broken"):
        (tmp_path / f"{name}.ninja").write_text("other")
    assert list(overruled(records)) == [str(page)]


def test_a_servers_command_is_planned_for_once(project: Project) -> None:
    """By a server with another environment than ours: what is planned here stays so."""
    plan, kernel = plan_of(project), kernels_of(project)["page"]
    file = Path(kernel["ninja_file"])
    assert holding(plan, plan["key"])
    file.write_text(kernel["ninja"].replace("-O3", "-O2"))
    assert not holding(plan, plan["key"])
    plan["overruled"] = overruled(plan["kernels"])
    assert holding(plan, plan["key"])
    file.write_text(kernel["ninja"])
    assert holding(plan, plan["key"])
