"""What ops.py says of real FlashInfer versions: the ops, their parameters, and values read from FlashInfer's code."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import sysconfig
import textwrap
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.serving.flashinfer_wheels import directory_of
from tests.serving.planner_runs import PLAN, environment, run

OPS = PLAN.with_name("ops.py")
NEWEST = "0.7.4"
VERSIONS = ["0.6.7.post3", NEWEST]

needs_torch = pytest.mark.usefixtures("torch")  # FlashInfer does


@pytest.fixture(scope="module", params=VERSIONS)
def ops(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, torch: Path
) -> dict[str, dict[str, Any]]:
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
def test_parameters_of_prefill(ops: dict[str, dict[str, Any]]) -> None:
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
def test_ops_without_parameters_and_with_a_table(ops: dict[str, dict[str, Any]]) -> None:
    assert ops["quantization"]["parameters"] == []
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
def test_every_generator_is_offered(ops: dict[str, dict[str, Any]]) -> None:
    """Those of packages that FlashInfer imports when they are needed, too; and what nobody calls is said."""
    root = directory_of_flashinfer("page" in ops and "qsa_nvfp4" in ops)
    defined = {
        name
        for path in root.rglob("*.py")
        for name in re.findall(r"^def (gen_\w+_module(?:_\w+)?)\(", path.read_text(), re.MULTILINE)
    }
    offered = {op["generator"].partition(":")[2] for op in ops.values() if op["kind"] == "flashinfer"}
    assert offered - {"gen_all_modules"} == defined
    noted = {name for name, op in ops.items() if op["note"]}
    assert noted == ({"pcie_ipc_comm_debug"} if "qsa_nvfp4" in ops else set())
    objects = {name for name, op in ops.items() if op["kind"] == "cute"}
    assert bool(objects) == ("qsa_nvfp4" in ops), "0.6.7 keeps none"


def directory_of_flashinfer(newest: bool) -> Path:
    site = directory_of(VERSIONS[newest])
    return (site or Path(sysconfig.get_path("purelib"))) / "flashinfer"


@needs_torch
def test_without_architectures_it_says_why(tmp_path: Path) -> None:
    status, answer = run_alone(tmp_path, environment(tmp_path, FLASHINFER_CUDA_ARCH_LIST="9.0;8.0"))
    assert status == 3
    assert answer["fatal"]["kind"] == "arch_list"


SOURCES = {
    "jit/__init__": "from .a import gen_called_module as gen_called_module\n__all__ = ['gen_unused_module']",
    "jit/a": """
def gen_called_module(): return gen_jit_spec()
def gen_other_module(kind): return gen_jit_spec(kind)
def gen_alias_module(): return gen_other_module("a")
def gen_unused_module(): return gen_jit_spec()
def gen_recursive_module(): return gen_recursive_module()
def load_other(): return gen_other_module("b").build_and_load()
""",
    "b": "from .jit.a import gen_called_module\ndef f(): return gen_called_module()",
    "c": "from .jit.a import gen_renamed_module as make\ndef f(): return make()\ndef gen_twice_module(): pass",
    "d": "def gen_renamed_module(): pass\ndef gen_twice_module(): pass",
    "aot": "from .jit.a import gen_unused_module\ngen_unused_module()\ndef gen_all_modules(): pass",
}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """plan_sources, with a FlashInfer of a few lines as what is installed."""
    monkeypatch.syspath_prepend(str(OPS.parent))
    monkeypatch.delitem(sys.modules, "plan_sources", raising=False)
    import plan_sources

    root = tmp_path / "flashinfer"
    for name, text in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(text)
    monkeypatch.setitem(sys.modules, "flashinfer", types.SimpleNamespace(__file__=str(root / "__init__.py")))
    return plan_sources


def test_where_generators_are_defined(sources: ModuleType) -> None:
    found = sources.defining_modules()
    assert found["gen_unused_module"] == ("flashinfer.jit.a",)
    assert found["gen_twice_module"] == ("flashinfer.c", "flashinfer.d")
    assert "gen_all_modules" not in found


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("gen_called_module", False),
        ("gen_other_module", False),
        ("gen_alias_module", False),  # makes what load_other's may be
        ("gen_renamed_module", False),
        ("gen_unused_module", True),  # by the registry alone
        ("gen_recursive_module", True),
    ],
)
def test_what_nobody_calls(sources: ModuleType, name: str, unused: bool) -> None:
    assert sources.nobody_calls(name) is unused


def test_an_engine_that_calls_it(sources: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engines" / "sglang" / "layers").mkdir(parents=True)
    (tmp_path / "engines" / "sglang" / "__init__.py").touch()
    (tmp_path / "engines" / "sglang" / "layers" / "a.py").write_text("gen_unused_module()")
    monkeypatch.syspath_prepend(str(tmp_path / "engines"))
    assert not sources.nobody_calls("gen_unused_module")


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
def test_values_told_by_code(name: str, values: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OPS.parent))
    for module in [known for known in sys.modules if known.startswith(("ops_values", "plan_"))]:
        monkeypatch.delitem(sys.modules, module)
    import ops_values

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_generators.py").write_text(textwrap.dedent(CODE))
    monkeypatch.delitem(sys.modules, "some_generators", raising=False)
    function = getattr(importlib.import_module("some_generators"), name)
    assert ops_values.accepted_values(function, next(iter(inspect.signature(function).parameters))) == values
