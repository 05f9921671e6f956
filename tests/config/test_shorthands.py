"""What goes without saying: for whoever leaves it out, and for the planner, which fills it in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fitasks.config.labels import label
from fitasks.config.shorthands import FOLLOWERS, FOLLOWS, HEAD_DIM, HEAD_DIMS, goes_without_saying, meant, shortened

SERVING = Path(__file__).parents[2] / "fitasks" / "serving" / "plan"
FILL_IN = """
import inspect, json, sys
sys.path.insert(0, sys.argv[1])
import ops, plan_parameters as planner
def generator(backend, dtype_q, dtype_kv, dtype_o, dtype_idx, head_dim_qk, head_dim_vo): ...
named = inspect.signature(generator).parameters
said = json.loads(sys.argv[2])
filled = planner._defaults(said, named, {}) | planner._shorthand(said, named)
print(json.dumps([ops.FOLLOWS, {name: planner._plain(value) for name, value in filled.items()}]))
"""


def filled_in(said: dict[str, Any]) -> Any:
    command = [sys.executable, "-c", FILL_IN, str(SERVING), json.dumps(said)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.mark.usefixtures("torch")
def test_the_planner_fills_in_what_is_left_out() -> None:
    said = {"dtype_q": "float16", HEAD_DIM: 64}
    follows, filled = filled_in(said)
    assert follows == FOLLOWS
    left_out = {name: value for name, value in filled.items() if goes_without_saying(name, value, filled)}
    assert left_out.keys() == {*FOLLOWERS, "dtype_idx"}
    rest = {name: value for name, value in filled.items() if name not in left_out}
    assert rest == {"dtype_q": "float16", **dict.fromkeys(HEAD_DIMS, 64)}
    assert shortened(rest) == said


@pytest.mark.parametrize(
    ("params", "short"),
    [
        ({"head_dim_qk": 64, "x": 1, "head_dim_vo": 64}, {"head_dim": 64, "x": 1}),
        ({"head_dim_qk": 192, "head_dim_vo": 128}, None),
        ({"head_dim_vo": 64}, None),
        ({"head_dim": 64, "head_dim_qk": 64, "head_dim_vo": 64}, None),
    ],
)
def test_one_head_dimension_for_two_that_are_one(params: dict[str, int], short: dict[str, int] | None) -> None:
    assert list(shortened(params).items()) == list((short or params).items())
    assert label("x", shortened({"head_dim_qk": 64, "head_dim_vo": 64})) == "x-d64"


@pytest.mark.parametrize(
    ("name", "value", "silent"),
    [
        ("dtype_kv", "float16", True),
        ("dtype_o", "int8", False),
        ("dtype_q", "float16", False),
        ("dtype_idx", "int32", True),
    ],
)
def test_a_data_type_that_goes_without_saying(name: str, value: str, silent: bool) -> None:
    params = {"dtype_q": "float16", name: value}
    assert goes_without_saying(name, value, params) is silent
    assert (label("x", {"dtype_q": "float16", name: value}) == "x-f16") is (silent or name == "dtype_q")
    assert not goes_without_saying("dtype_kv", "int32", {})


def test_a_default_that_follows() -> None:
    assert meant(FOLLOWS, {"dtype_q": "int8"}) == "int8"
    assert meant(FOLLOWS, {}) is None
    assert meant(False, {"dtype_q": "int8"}) is False
