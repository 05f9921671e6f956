"""Kernels that can't be one plan's, wherever they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.plan.kernel import as_record, impossible
from tests.workshop import TARGET

if TYPE_CHECKING:
    from tests.workshop import Workshop


def test_kernels_of_a_plan(workshop: Workshop) -> None:
    page, rope = workshop.kernel(), workshop.kernel("rope")
    again, unknown = replace(page, label="again", twin="page"), replace(page, name="", problem="unknown op")
    assert impossible(map(as_record, [page, rope, again]), [TARGET]) == ""
    assert impossible([as_record(unknown)], [TARGET]) == ""


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": ""}, "rope: a kernel named ''"),
        ({"name": "../rope"}, "rope: a kernel named '../rope'"),
        ({"library": Path("/etc/rope.so")}, "rope: a kernel named 'rope', with files that don't lie in"),
        ({"sources": ()}, "rope: a kernel named 'rope'"),
        ({"label": "page"}, "two kernels with the label 'page'"),
        ({"label": ""}, "two kernels with the label ''"),
        ({"target": "8.0"}, "rope: a kernel for '8.0'"),
        ({"twin": "rope"}, "rope: the same as 'rope', which is none"),
    ],
    ids=str,
)
def test_one_that_cannot_be(workshop: Workshop, fields: dict[str, Any], why: str) -> None:
    page, rope = workshop.kernel(), replace(workshop.kernel("rope"), **fields)
    assert impossible(map(as_record, [page, rope]), [TARGET]).startswith(why)
