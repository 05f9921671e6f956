"""What ops.py says of real FlashInfer versions: the ops, their parameters, and values read from FlashInfer's code."""

import importlib.util
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from planner_runs import PLAN, environment, run

OPS = PLAN.with_name("ops.py")
VERSIONS = ["0.6.7.post3", "0.7.2.post1"]

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="FlashInfer needs torch")


@pytest.fixture(scope="module", params=VERSIONS)
def ops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    base = tmp_path_factory.mktemp("ops")
    _, answer = run_alone(base, environment(base, request.param))
    assert answer["flashinfer"] == request.param
    return {op["op"]: op for op in answer["ops"]}


def run_alone(directory: Path, env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """ops.py has one argument, the response."""
    starter = directory / "start.py"
    starter.write_text(
        f"import runpy, sys\nsys.argv = [{str(OPS)!r}, sys.argv[2]]\nrunpy.run_path({str(OPS)!r}, run_name='__main__')\n"
    )
    process, answer = run(starter, "--", directory, env)
    return process.returncode, answer


@needs_torch
def test_parameters_of_prefill(ops):
    found = ops["batch_prefill"]
    assert found["generator"] == "flashinfer.jit.attention.modules:gen_batch_prefill_module"
    by_name = {one.pop("name"): one for one in found["parameters"]}
    backend = {"required": True, "default": None, "type": "str", "accepted": ["fa2", "fa3"]}
    flag = {"required": False, "default": False, "type": "bool", "accepted": [False, True]}
    assert by_name["backend"] == backend
    assert by_name["use_sliding_window"] == flag
    assert by_name["head_dim_qk"] == {"required": True, "default": None, "type": "int", "accepted": []}
    assert by_name["pos_encoding_mode"]["accepted"] == [0, 1, 2]
    assert by_name["dtype_kv"]["default"] == "=dtype_q"
    assert by_name["dtype_idx"]["default"] == "int32"
    assert {"float16", "bfloat16", "float8_e4m3fn"} <= set(by_name["dtype_q"]["accepted"])
    assert "float8_e4m3fn" not in by_name["dtype_o"]["accepted"]  # asserted against in the generator


@needs_torch
def test_ops_without_parameters_and_with_a_table(ops):
    assert ops["page"]["parameters"] == []
    assert ops["act_and_mul"]["parameters"] == [
        {
            "name": "act_func_name",
            "required": True,
            "default": None,
            "type": "str",
            "accepted": ["silu", "gelu", "gelu_tanh"],
        }
    ]
    assert "customize_batch_decode" in ops
    lists = [one["name"] for one in ops["customize_batch_decode"]["parameters"] if one["type"] == "list"]
    assert "additional_tensor_names" in lists


@needs_torch
def test_without_architectures_it_says_why(tmp_path):
    status, answer = run_alone(tmp_path, environment(tmp_path, FLASHINFER_CUDA_ARCH_LIST="9.0;8.0"))
    assert status == 3
    assert answer["fatal"]["kind"] == "arch_list"


CODE = """
TABLE = {"left": 1, "right": 2}
def asserted(x):
    assert x in ("a", "b")
def refused(x):
    if x not in (16, 32):
        raise ValueError(x)
def excluded(x):
    if x == "left":
        raise ValueError(x)
    return TABLE[x]
def looked_up(x):
    return TABLE[x]
def handed_on(y, x):
    return looked_up(x=y)
def compared(x):
    if x == "a":
        return 1
    return 2 if x == "b" else 3
def once(x):
    return 1 if x == "a" else 2
def conditional(x, y):
    if y:
        assert x in ("a", "b")
def changed(x):
    x = x.lower()
    assert x in ("a", "b")
"""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("asserted", ["a", "b"]),
        ("refused", [16, 32]),
        ("excluded", ["right"]),
        ("looked_up", ["left", "right"]),
        ("handed_on", []),  # other packages' functions aren't read
        ("compared", ["a", "b"]),
        ("once", []),
        ("conditional", []),
        ("changed", []),
    ],
)
@needs_torch
def test_values_told_by_code(name, values, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(OPS.parent))
    for module in [known for known in sys.modules if known.startswith(("ops_values", "plan_"))]:
        monkeypatch.delitem(sys.modules, module)
    import ops_values

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_generators.py").write_text(textwrap.dedent(CODE))
    monkeypatch.delitem(sys.modules, "some_generators", raising=False)
    import some_generators

    function = getattr(some_generators, name)
    assert ops_values.accepted_values(function, next(iter(inspect.signature(function).parameters))) == values
