"""What is the same wherever it is installed: commands and inputs with their directories named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.compile import receipt as receipts
from fitasks.compile.judge.roots import Roots, roots_of

if TYPE_CHECKING:
    from fitasks.plan.plan import Plan
    from tests.workshop import Workshop


def plan_with(workshop: Workshop, *includes: str) -> Plan:
    """Kernels whose commands name these directories."""
    kernel = workshop.kernel()
    kernels = tuple(workshop.with_flag(kernel, f"-isystem {include} $\n") for include in includes)
    return replace(workshop.plan(), kernels=kernels)


@pytest.mark.parametrize("include", ["/usr/include/python3.11", "/opt/conda/include/python3.13t"])
def test_pythons_headers_have_a_root(workshop: Workshop, include: str) -> None:
    plan = plan_with(workshop, "/usr/include/c++", include)
    roots = roots_of(plan, "9.0a")
    assert roots.directories["PYTHON"] == (include,)
    assert "-isystem {PYTHON} $" in roots.text(plan.kernels[1].ninja)
    assert roots.relative(f"{include}/Python.h") == "{PYTHON}/Python.h"
    assert roots.absolute("{PYTHON}/Python.h") == f"{include}/Python.h"


def test_commands_without_it_have_none(workshop: Workshop) -> None:
    assert "PYTHON" not in roots_of(plan_with(workshop, "/usr/include/c++"), "9.0a").directories


def test_a_kernel_of_another_python_prefix_is_no_other_kernel(workshop: Workshop) -> None:
    one, other = (
        roots_of(plan, "9.0a").text(plan.kernels[0].ninja)
        for plan in (plan_with(workshop, f"/{prefix}/include/python3.11") for prefix in ("usr", "opt/venv"))
    )
    assert one == other


def test_a_receipt_that_is_older_than_a_root_still_holds(workshop: Workshop) -> None:
    kernel = workshop.with_flag(workshop.kernel(), "-isystem /usr/include/python3.11")
    workshop.build(kernel)
    judge = workshop.judge()
    judge.roots = Roots(judge.roots.directories | {"PYTHON": ("/usr/include/python3.11",)})
    receipt = receipts.read(kernel)
    assert receipt
    assert judge.commands(kernel) != receipt.commands
    assert judge.judge(kernel).verdict == "fresh"


def test_a_root_that_is_not_known_here_leads_nowhere(workshop: Workshop) -> None:
    assert workshop.judge().roots.absolute("{ELSEWHERE}/x.h") == "{ELSEWHERE}/x.h"
