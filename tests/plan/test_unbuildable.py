"""Which directories FlashInfer can't build in, against the real ninja with build files of FlashInfer's shape."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.plan.plan import Plan
from fitasks.plan.server import Package
from fitasks.plan.unbuildable import refuse_temporary, unbuildable
from tests.workshop import TARGET, Workshop

TEXT = """\
ninja_required_version = 1.3
rule compile
  command = c++ -isystem {include} -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
build {root}/cached_ops/a.o: compile {root}/generated/a.cc
"""
FAIL = [" ", "$", ":", "|", "\n"]
AGAIN = ["\x07", "\t", ";", "*", "<", "`"]  # and #, where nvcc writes the list of headers
NOT_IN_COMMANDS = ["&", "'", "("]
FINE = ["-", "+", "%", "~", "@", "é"]


def planned(workshop: Workshop, workspace: str = "/cache", flashinfer: str = "/site/flashinfer") -> Plan:
    plan = workshop.plan()
    server = replace(plan.server, packages=(Package("flashinfer-python", "0.7.4", "", flashinfer),))
    chosen = replace(plan.toolkit, home=Path("/cuda"))
    return replace(
        plan, server=server, toolkit=chosen, targets={TARGET: replace(plan.first, workspace=Path(workspace))}
    )


def ninjas_verdict(workshop: Workshop, root: Path, include: Path) -> str:
    """What comes of compiling a file in `root` that includes a header of `include`, and asking again."""
    for directory in (root / "generated", root / "cached_ops", include):
        directory.mkdir(parents=True, exist_ok=True)
    (root / "generated" / "a.cc").write_text('#include <own.h>\n#include "beside.h"\n')
    (root / "generated" / "beside.h").touch()
    (include / "own.h").touch()
    (root / "build.ninja").write_text(TEXT.format(root=root, include=include))
    command = [str(workshop.ninja.executable), "-C", str(root), "-f", str(root / "build.ninja")]
    if subprocess.run(command, capture_output=True, check=False).returncode or not (root / "cached_ops/a.o").exists():
        return "fails"
    asked = subprocess.run([*command, "-n"], capture_output=True, check=True)
    return "fine" if b"no work to do" in asked.stdout else "again"


@pytest.mark.parametrize("character", [*FAIL, *AGAIN, *NOT_IN_COMMANDS, *FINE])
def test_the_cache(workshop: Workshop, character: str) -> None:
    root = workshop.root / f"x{character}y"
    problem = unbuildable(planned(workshop, str(root)))
    said = "fine" if problem is None else "again" if problem.again else "fails"
    assert said == ninjas_verdict(workshop, root, workshop.root / "include")


@pytest.mark.parametrize("character", [*NOT_IN_COMMANDS, ";", '"', "`", *FINE])
def test_where_flashinfer_is_installed(workshop: Workshop, character: str) -> None:
    include = workshop.root / f"x{character}y"
    problem = unbuildable(planned(workshop, flashinfer=str(include)))
    said = "fine" if problem is None else "fails"
    assert said == ninjas_verdict(workshop, workshop.root / "cache", include)


def test_a_pattern_that_another_directory_fits(workshop: Workshop) -> None:
    include = workshop.root / "x[ab]y"
    assert unbuildable(planned(workshop, flashinfer=str(include))) is None
    assert ninjas_verdict(workshop, workshop.root / "cache", include) == "fine"
    (workshop.root / "xay").mkdir()
    assert unbuildable(planned(workshop, flashinfer=str(include)))
    assert ninjas_verdict(workshop, workshop.root / "other", include) == "fails"


def test_what_is_said(workshop: Workshop) -> None:
    assert unbuildable(workshop.plan()) is None
    problem = unbuildable(planned(workshop, "/my cache/90a"))
    assert problem
    assert problem.message == (
        "FlashInfer's cache is in '/my cache/90a': FlashInfer writes paths into build.ninja as they are, and with a blank "
        "in one it can't build there"
    )
    assert problem.remedy.startswith(
        "set FLASHINFER_WORKSPACE_BASE, for doit and the server, to a directory whose path"
    )
    again = unbuildable(planned(workshop, "/c;d"))
    assert again
    assert again.message.endswith("with `;` in one it would compile there again at each start of a server")
    package = unbuildable(planned(workshop, flashinfer="/opt/(new)/flashinfer"))
    assert package
    assert package.message.startswith("FlashInfer is in /opt/(new)/flashinfer: ")
    lost = unbuildable(planned(workshop, "/c\udcff"))
    assert lost
    assert "with bytes that are no UTF-8 in one" in lost.message
    assert str(lost).isascii()


def test_a_toolkit_of_ours_lies_in_the_cache_of_this_user(workshop: Workshop) -> None:
    plan = planned(workshop)
    for origin, remedy in (("pip", "set XDG_CACHE_HOME to"), ("CUDA_HOME", "set CUDA_HOME to a link to it")):
        toolkit = replace(plan.toolkit, home=Path("/a b/cuda"), origin=origin)
        problem = unbuildable(replace(plan, toolkit=toolkit))
        assert problem
        assert problem.message.startswith("the CUDA toolkit is in '/a b/cuda': ")
        assert problem.remedy.startswith(remedy)


def test_a_link_counts_for_where_it_leads(workshop: Workshop) -> None:
    (workshop.root / "a b").mkdir()
    (workshop.root / "link").symlink_to("a b")
    assert unbuildable(planned(workshop, str(workshop.root / "link")))
    (workshop.root / "plain").mkdir()
    (workshop.root / "c d").symlink_to("plain")
    assert unbuildable(planned(workshop, str(workshop.root / "c d"))) is None


def test_temporary_files() -> None:
    for place in ("/tmp", "/tmp/a b", "/tmp/a;b", "/tmp/it's (new)"):
        refuse_temporary(place)
    for place in ("/tmp/$x", "/tmp/a`b", "/tmp/a,b"):
        with pytest.raises(EnvironmentProblem, match="set TMPDIR to a directory whose path has none"):
            refuse_temporary(place)
