"""Which tasks `doit list` shows below which title."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import receipt as receipts
from fitasks.graph import tasks
from fitasks.graph.listing import TITLE, overview
from fitasks.graph.session import Session
from fitasks.plan.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


@tasks.group
def ask() -> Iterator[dict[str, Any]]:
    """ask: what will be"""
    yield {"basename": "check", "doc": "says it", "meta": {"needs": max}}


def task(name: str, title: str = "", *, subtask: bool = False) -> SimpleNamespace:
    return SimpleNamespace(name=name, doc=f"does {name}", meta={TITLE: title} if title else None, subtask_of=subtask)


def test_a_group_keeps_what_its_tasks_say_already() -> None:
    assert list(ask()) == [{"basename": "check", "doc": "says it", "meta": {"needs": max, TITLE: "ask: what will be"}}]
    assert ask.__doc__ == "ask: what will be"


def listed(session: object, *given: SimpleNamespace) -> list[str]:
    return list(overview(cast("Session", session), given))


def test_kernels_come_where_their_task_is_and_private_ones_nowhere() -> None:
    broken = Kernel("page", "page", "page", "9.0a", "", {}, problem="kernels.yaml:3:3: no such op\nmore")
    session = SimpleNamespace(problem=None, kernels=(broken,))
    given = (task("kernel", "build"), task("kernel:page", "build", subtask=True), task("_cudart", "build"))
    assert listed(session, *given, task("mine"), task("check", "ask")) == [
        "build",
        "  page  can't be built           kernels.yaml:3:3: no such op",
        "  1 kernel: 1 can't be built",
        "",
        "others",
        "  mine  does mine",
        "",
        "ask",
        "  check  does check",
        "",
        "`doit help TASK`: its options. `doit list --all --status`: all by name.",
    ]


def test_what_keeps_all_from_being_built_is_said_in_their_place() -> None:
    session = Session(Path(), EnvironmentProblem("no CUDA\n  toolkit", remedy="pip install\none"))
    assert listed(session, task("kernel", "build"))[:3] == [
        "build",
        "  nothing can be built: no CUDA toolkit",
        "    remedy: pip install one",
    ]


def test_a_kernel_that_cannot_be_judged_is_unknown() -> None:
    def judge(_: Kernel) -> None:
        raise OSError("disk on fire")

    session = SimpleNamespace(problem=None, kernels=(Kernel("page", "page", "page", "9.0a", "", {}),), judge=judge)
    assert listed(session, task("kernel", "build"))[1] == "  page  unknown           disk on fire"


def test_of_hundreds_it_is_said_whether_they_are_built(tmp_path: Path) -> None:
    """To judge them all would take longer than a list may."""

    def kernel(index: int) -> Kernel:
        directory = tmp_path / str(index)
        return Kernel(f"x-{index}", "x", "x", "9.0a", "", {}, build_dir=directory, library=directory / "x.so")

    kernels = [kernel(index) for index in range(60)]
    for one in kernels[:2]:
        one.build_dir.mkdir()
        one.library.write_bytes(b"x" * 500)
    (kernels[0].build_dir / receipts.NAME).touch()
    session = SimpleNamespace(problem=None, kernels=tuple(kernels))  # which has no judge
    assert listed(session, task("kernel", "build"))[1] == "  x  60 kernels: 59 not built, 1 built, 1.0 kB"
