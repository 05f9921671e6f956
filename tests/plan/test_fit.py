"""Machine code for another GPU than a target's: known when it is planned, and a problem of that kernel alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import pytest

from fitasks.config.model import Config, KernelConfig, Position, Serving
from fitasks.plan.expand import kernels_of
from tests.cuda.test_architecture import ninja
from tests.doit_project import Project

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel

BARE = {"params": {}, "generator": "m:f", "sources": [], "aot": []}
TWO = """\
targets: ["8.9"]
kernels:
  page:
  cake_megamoe_topk_reduce: {arch: sm_100a}
"""


def planned(arch: str, *codes: str) -> dict[str, Any]:
    """FlashInfer's answer for one architecture set: a module with code for the set, and one with these codes."""
    own = [f"sm_{one}" for one in arch.split("_")]
    modules = {"page": ninja(*own), "special": ninja(*codes)}
    paths = {name: dict.fromkeys(("build_dir", "library", "ninja_file", "lock"), f"/{arch}/{name}") for name in modules}
    kernels = [
        {"id": index, "name": name, "ninja": text, **paths[name], **BARE}
        for index, (name, text) in enumerate(modules.items())
    ]
    return {"arch": arch, "kernels": kernels}


def plan(answers: dict[str, dict[str, Any]]) -> dict[str, Kernel]:
    entries = tuple(
        KernelConfig(name, name, name, {}, Position("kernels.yaml", 3, 3), {}) for name in ("page", "special")
    )
    config = Config("kernels.yaml", Serving(), tuple(answers), sm90=True, cudart="patch", kernels=entries)
    return {kernel.label: kernel for kernel in kernels_of(config, answers)}


@pytest.mark.parametrize(
    ("target", "arch", "code", "told"),
    [
        ("8.9", "89", "sm_100a", 'for sm_100a alone, whatever the target, and that code doesn\'t run on sm_89; leave the entry out, or add "10.0a" to targets'),
        ("12.0f", "120f", "sm_90a", 'for sm_90a alone, whatever the target, and that code doesn\'t run on sm_120f; leave the entry out, or add "9.0a" to targets'),
        ("8.0 8.6", "80_86", "sm_90a", "doesn't run on sm_80 or sm_86; leave"),
    ],
)  # fmt: skip
def test_code_for_another_gpu_is_a_problem_of_that_kernel(target: str, arch: str, code: str, told: str) -> None:
    kernels = plan({target: planned(arch, code)})
    assert not kernels["page"].problem
    assert kernels["special"].problem.startswith("kernels.yaml:3:3: kernels.special: FlashInfer compiles it for ")
    assert told in kernels["special"].problem
    assert kernels["special"].unfit


@pytest.mark.parametrize("codes", [("sm_90a",), ("compute_80",), ("sm_80", "sm_90a"), ()])
def test_a_mixed_host_needs_it_for_one_of_its_gpus(codes: tuple[str, ...]) -> None:
    kernels = plan({"8.0 9.0a": planned("80_90a", *codes)})
    assert not kernels["special"].problem


def test_of_two_targets_it_is_for_the_one_that_runs_it() -> None:
    kernels = plan({"8.0": planned("80", "sm_90a"), "9.0a": planned("90a", "sm_90a")})
    assert set(kernels) == {"page@80", "page@90a", "special@90a"}
    assert not any(kernel.problem for kernel in kernels.values())


@pytest.mark.usefixtures("flashinfer")
def test_it_is_said_before_anything_is_compiled_and_the_others_are_delivered(tmp_path: Path) -> None:
    """The real planner: cake_megamoe_topk_reduce is for sm_100a alone."""
    project = Project.make(tmp_path, TWO)
    told = "FlashInfer compiles it for sm_100a alone, whatever the target, and that code doesn't run on sm_89"
    checked = " ".join(project.doit("check", status=1, COLUMNS="2000").split())
    assert (
        f"cake_megamoe_topk_reduce-sm_100a would fail kernels.yaml:4:3: kernels.cake_megamoe_topk_reduce: {told}"
        in checked
    )
    assert told in project.doit("why", "cake_megamoe_topk_reduce-sm_100a")
    project.doit(status=1)
    assert project.calls() == 2, "page's files alone"
    assert not list(Path(project.cached_ops).glob("cake*"))
    # The stand-in for nvcc makes no machine code, so that page counts as a launcher.
    wheel = project.doit("wheel", status=1)
    assert (
        f"left out: kernel:cake_megamoe_topk_reduce-sm_100a: kernels.yaml:4:3: kernels.cake_megamoe_topk_reduce: {told}"
        in wheel
    )
    (file,) = (project.root / "dist").glob("*.whl")
    assert [name for name in ZipFile(file).namelist() if name.endswith(".so")] == ["fitasks_kernels/sm89/page/page.so"]
