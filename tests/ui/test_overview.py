"""`doit list`, from rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fitasks.compile.judge.reasons import Judgement, Kind, Reason
from fitasks.plan.kernel import Kernel
from fitasks.ui.overview import MOST, Row, judged, kernel_lines, task_lines

PAGE = Kernel("page", "page", "page", "9.0a", "kernels.yaml:3:3", {}, library=Path("page.so"))


def test_each_kernel_has_a_line_with_state_and_size() -> None:
    rows = [
        Row("decode-bf16-d128", "decode", "fresh", 473_000),
        Row("page", "page", "stale", 2_100_000, "utils.cuh changed"),
        Row("sampling", "sampling", "not built"),
    ]
    assert list(kernel_lines(rows)) == [
        "  decode-bf16-d128  fresh       473 kB",
        "  page              stale       2.1 MB  utils.cuh changed",
        "  sampling          not built",
        "  3 kernels: 1 fresh, 1 stale, 1 not built, 2.6 MB",
    ]
    assert list(kernel_lines([])) == ["  0 kernels"]


def test_more_than_fifty_are_summed_up_by_entry() -> None:
    rows = [Row(f"prefill-{one}", "prefill", "built", 1_000_000) for one in range(MOST)]
    assert len(list(kernel_lines(rows))) == MOST + 1
    assert list(kernel_lines([*rows, Row("page", "page", "not built")])) == [
        "  page     1 kernel: 1 not built",
        f"  prefill  {MOST} kernels: {MOST} built, 50.0 MB",
        f"  {MOST + 1} kernels: {MOST} built, 1 not built, 50.0 MB",
    ]


@pytest.mark.parametrize(
    ("kind", "state"),
    [("new", "not built"), ("elsewhere", "not built"), ("incomplete", "half-built"), ("changed", "stale")],
)
def test_what_a_judgement_is_called(kind: Kind, state: str) -> None:
    row = judged(PAGE, Judgement("stale", (Reason(kind, "never built"),)), 0)
    assert row.state == state
    assert bool(row.why) == (kind != "new"), "`not built` says it all"


def test_what_the_planner_has_to_say_is_said_where_nothing_else_is() -> None:
    noted = replace(PAGE, note="fa2 is planned instead")
    assert judged(noted, Judgement("fresh"), 5).why == "fa2 is planned instead"
    assert judged(noted, Judgement("stale", (Reason("new", "never built"),)), 0).why == "fa2 is planned instead"
    assert judged(noted, Judgement("stale", (Reason("missing", "page.so"),)), 0).why == "page.so is missing"


def test_what_is_fresh_needs_no_reason() -> None:
    assert judged(PAGE, Judgement("fresh"), 5) == Row("page", "page", "fresh", 5)
    assert judged(PAGE, Judgement("look", (Reason("stamp", ""),)), 5).state == "fresh, to be looked at"


def test_tasks_stand_below_what_they_are_for() -> None:
    assert list(task_lines("ask: what a server will do", [("check", "says it"), ("why", "says why")])) == [
        "ask: what a server will do",
        "  check  says it",
        "  why    says why",
    ]
