"""Toolkits that have every file and whose nvcc still can't do FlashInfer's commands; the real nvcc's --dryrun tells."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from fitasks.config.model import Config, Serving
from fitasks.cuda.capability import nvcc_flags, nvcc_of, of_targets, refusal
from fitasks.cuda.probe import ProbeMemo
from fitasks.plan import anew
from fitasks.plan.kernel import as_record
from fitasks.plan.server import Package, Server
from tests.cuda.fake_toolkit import SAYS, Maker, put
from tests.cuda.toolkit_world import NEEDS, World
from tests.workshop import Workshop

if TYPE_CHECKING:
    from fitasks.cuda.toolkit import Toolkit

NINJA = """\
nvcc = $cuda_home/bin/nvcc
common_cflags = -DPy_LIMITED_API=0x03090000 $
    -I/cccl
cuda_cflags = -ccbin $
    gcc-12 $
    $common_cflags $
    --compiler-options=-fPIC $
    -static-global-template-stub=false $
    -gencode=arch=compute_90a,code=sm_90a $
    -DFLASHINFER_ENABLE_BF16 $
    -std=c++17 $
    --threads=1 $
    --compress-mode=size
rule cuda_compile
  command = $nvcc $cuda_cflags -c $in -o $out
build a.o: cuda_compile a.cu
build b.o: cuda_compile b.cu
  cuda_cflags = $common_cflags $
    -gencode=arch=compute_120f,code=sm_120f
"""
FLAGS = {
    (
        "--compiler-options=-fPIC",
        "-static-global-template-stub=false",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-std=c++17",
        "--threads=1",
        "--compress-mode=size",
    ),
    ("-gencode=arch=compute_120f,code=sm_120f",),
}
FLASHINFER = (Package("flashinfer-python", "0.7.4", ""),)
ONLY_90A = [["-gencode=arch=compute_90a,code=sm_90a", "--compress-mode=size"]]

# The refusals of nvcc 12.4 and 12.8, as nvcc 13.0 words them for what it doesn't know.
_OLDER = """\
#!/bin/sh
case "$*" in *--version*) cat {says}; exit;; esac
for word in "$@"; do case "$word" in
  {unknown}) echo "nvcc fatal   : Unknown option '$word'"; exit 1;;
  {unsupported}) echo "nvcc fatal   : Unsupported gpu architecture 'compute_120f'"; exit 1;;
esac; done
echo called >> {calls}
"""


def older(maker: Maker, home: Path, release: str, unknown: str = "nothing", unsupported: str = "nothing") -> Path:
    """A complete toolkit of another release, whose nvcc refuses what the patterns match."""
    maker.installed(home, headers=NEEDS)
    says = put(home / "says", SAYS.format(release=release, version=f"{release}.99"))
    (home / "lib64" / "libcudart.so").unlink()
    (home / "lib64" / "libcudart.so").symlink_to(put(home / "lib64" / f"libcudart.so.{release}"))
    nvcc = home / "bin" / "nvcc"
    nvcc.unlink()
    script = _OLDER.format(says=says, unknown=unknown, unsupported=unsupported, calls=home / "calls")
    put(nvcc, script).chmod(0o755)
    return home


def test_flags_are_those_that_nvcc_may_not_know() -> None:
    assert nvcc_flags(NINJA) == FLAGS
    assert nvcc_flags("rule link\n") == set()


def test_of_targets_as_written() -> None:
    archs = [words[0].partition(",code=")[2] for words in of_targets(["8.0 9.0a", "12.0f", "9.0a"])]
    assert archs == ["sm_120f", "sm_80", "sm_90a"]


def test_what_the_real_nvcc_says(tmp_path: Path, pip_toolkit: Path) -> None:
    nvcc = pip_toolkit / "bin" / "nvcc"
    probe = ProbeMemo(tmp_path / "memo")
    assert refusal(nvcc, "b", FLAGS, probe) == ""
    assert refusal(nvcc, "b", [["--compress-more=size"]], probe) == "Unknown option '--compress-more=size'"
    newer = [["-gencode=arch=compute_990f,code=sm_990f"]]
    assert refusal(nvcc, "b", newer, probe) == "Unsupported gpu architecture 'compute_990f'"
    assert refusal(tmp_path / "none", "b", newer, probe) == "", "not known"


CASES = {
    "12.4": ({"unknown": "--compress-mode=*"}, ONLY_90A, "Unknown option '--compress-mode=size'"),
    "12.8": ({"unsupported": "*compute_120f*"}, of_targets(["12.0f"]), "Unsupported gpu architecture 'compute_120f'"),
    "12.1": ({"unknown": "-static-global*"}, [["-static-global-template-stub=false"]], "Unknown option '-static-"),
}


@pytest.mark.parametrize("release", CASES)
def test_the_next_toolkit_that_can_is_taken(world: World, maker: Maker, release: str) -> None:
    refuses, flags, said = CASES[release]
    old = older(maker, world.base / "old", release, **refuses)
    root = maker.pip(world.site)
    choice = world.choose(CUDA_HOME=old, commands={"": flags})
    assert choice.toolkit.root == root
    (note,) = choice.notes
    assert note.startswith(f"{old} (from CUDA_HOME) can't do FlashInfer's commands (nvcc {release}.99: {said}")
    assert note.endswith("; using the pip toolkit 13.0.88 instead")
    assert world.choose(CUDA_HOME=old).toolkit.home == old, "of which nothing is asked"


def test_each_nvcc_is_tried_with_the_flags_that_were_planned_with_it(world: World, maker: Maker) -> None:
    """FlashInfer asks less of an older nvcc: what was planned with a newer one says nothing of it."""
    old = older(maker, world.base / "old", "12.6", unknown="-static-global*")
    maker.pip(world.site)
    newer = [["-static-global-template-stub=false"]]
    assert world.choose(CUDA_HOME=old, commands={"V13.0.88 cuda_13.0.r13.0/compiler.1_0": newer}).toolkit.home == old
    build = "V12.6.99 cuda_12.6.r12.6/compiler.1_0"
    assert world.choose(CUDA_HOME=old, commands={build: newer}).toolkit.home != old


def test_where_none_can_the_first_complete_one_is_taken_and_that_is_said(world: World, maker: Maker) -> None:
    old = older(maker, world.base / "old", "12.4", unknown="--compress-mode=*")
    choice = world.choose(CUDA_HOME=old, commands={"": ONLY_90A})
    assert choice.toolkit.home == old
    (note,) = choice.notes
    assert note.endswith("Unknown option '--compress-mode=size'), nor can any other: some kernels would fail")


def test_a_refusal_is_remembered_of_a_script_too(world: World, maker: Maker) -> None:
    old = older(maker, world.base / "old", "12.4", unknown="--no-such")
    for _ in range(3):
        world.choose(CUDA_HOME=old, commands={"": ONLY_90A})
    assert (old / "calls").read_text().splitlines() == ["called"]
    put(old / "bin" / "nvcc", (old / "bin" / "nvcc").read_text().replace("--no-such", "--compress-mode=*"))
    assert "can't do" in world.choose(CUDA_HOME=old, commands={"": ONLY_90A}).notes[0]


def test_flashinfer_nvcc_is_the_one_that_is_asked(world: World, maker: Maker) -> None:
    old = older(maker, world.base / "old", "12.4", unknown="--compress-mode=*")
    maker.pip(world.site)
    nvcc = old / "bin" / "nvcc"
    (world.bin / "ccache").symlink_to(nvcc)
    assert nvcc_of(Path("/home"), {"FLASHINFER_NVCC": f"ccache {nvcc}", "PATH": str(world.bin)}) == nvcc
    assert nvcc_of(Path("/home"), {"FLASHINFER_NVCC": "/gone/nvcc"}) == Path("/home/bin/nvcc")
    assert "can't do" in world.choose(FLASHINFER_NVCC=nvcc, commands={"": ONLY_90A}).notes[0]


def test_the_real_nvcc_answers_before_it_compiles(tmp_path: Path, pip_toolkit: Path) -> None:
    done = subprocess.run(
        [str(pip_toolkit / "bin" / "nvcc"), "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", str(tmp_path / "x.o")],
        capture_output=True,
        check=True,
    )
    assert b"cicc" in done.stderr
    assert not (tmp_path / "x.o").exists()


def test_a_plan_is_made_again_with_the_toolkit_that_can_do_it(
    world: World, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What FlashInfer asks of an nvcc is known once it has planned with it; each is asked for its own flags."""
    old = older(maker, world.base / "old", "12.4", unknown="--compress-mode=*")
    maker.pip(world.site)
    server = Server(Path("python"), "none", tmp_path, (world.site,), world.env | {"CUDA_HOME": str(old)}, FLASHINFER)
    monkeypatch.setattr(Server, "toolkit_places", lambda self: self.site_packages)
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.base / "cache"))
    server.env["XDG_CACHE_HOME"] = str(world.base / "cache")
    asked: list[str] = []

    def ask(_config: object, _targets: object, _server: object, toolkit: Toolkit) -> dict[str, object]:
        asked.append(toolkit.release)
        kernel = Workshop(tmp_path, cast("Any", None), cast("Any", None)).kernel()
        text = kernel.ninja + f"cuda_cflags = --compress-mode=size -DRELEASE={toolkit.release}\n"
        return {"kernels": [as_record(replace(kernel, ninja=text))], "facts": {}}

    monkeypatch.setattr(anew, "_ask", ask)
    config = Config("kernels.yaml", Serving(), ("9.0a",), sm90=True, cudart="check", kernels=())
    planned, choice = anew.plan_anew(config, ("9.0a",), server, (), ProbeMemo(tmp_path / "memo"))
    assert asked == ["12.4", "13.0"]
    assert choice.toolkit.origin == "pip"
    assert "-DRELEASE=13.0" in planned["kernels"][0]["ninja"], "the commands are those of the toolkit that is taken"
    assert set(planned["commands"]) == {"", "V12.4.99 cuda_12.4.r12.4/compiler.1_0", choice.toolkit.build}
    world.site = tmp_path / "empty"
    alone = replace(server, site_packages=())
    planned, choice = anew.plan_anew(config, ("9.0a",), alone, (), ProbeMemo(tmp_path / "memo"))
    assert choice.toolkit.home == old, "where no other can, either"
