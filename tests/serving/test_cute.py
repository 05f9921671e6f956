"""FlashInfer's CuTe-DSL objects, planned and compiled without a GPU by the real FlashInfer and CuTe-DSL."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fitasks.record import variables
from tests.serving.cute_server import GATE, LOADED, served
from tests.serving.planner_runs import PLAN, environment, run

TOPK = "flashinfer.topk_varlen.topk_varlen"
GATED = {"x_token_stride": 1024, "gate_token_stride": 1024, "lanes": 16, "warps": 4, "cluster": 1}
RESIDUAL = "flashinfer.norm.kernels.gated_residual_rmsnorm:_get_compiled"
RESIDUALS = {"vec": 4, "s": 1, "mode": 0, "lowreg": False, "mbpm": 2, "cx": 1, "enable_pdl": False}
KERNELS: list[tuple[str, dict[str, Any]]] = [
    (f"{GATE}:_get_compiled", {"num_heads": 8, **GATED}),
    (f"{GATE}:_get_compiled", {"num_heads": 4, **GATED}),
    (RESIDUAL, {**RESIDUALS, "gain_center": 1.0, "eps": 1e-5}),  # CuTe-DSL asks the driver about shared memory
]
NAMES = [
    "rmsnorm_sigmoid_gate_sm90a_cute_dsl/h8_xs1024_gs1024_l16_w4_c1_pdl0",
    "rmsnorm_sigmoid_gate_sm90a_cute_dsl/h4_xs1024_gs1024_l16_w4_c1_pdl0",
    "gated_residual_rmsnorm_sm90a_cute_dsl/v4_s1_m0_lr0_gc3ff0000000000000_eps3ee4f8b588e368f1_mb2_cx1_pdl0",
]
NORM = {"dtype_str": "bfloat16", "H": 4096, "weight_bias": 0.0, "enable_pdl": True, "sm_version": 90}
IN_MEMORY = ("flashinfer.norm.kernels.rmsnorm:_get_compiled_rmsnorm_kernel", NORM)
BLACKWELL = ("flashinfer.quantization.kernels.nvfp4_kv_materialize:_get_compiled_kernel", {"head_dim": 128})
CONTENT = """
class Package:
    def __init__(self, record, url=None):
        self.read_text = {"RECORD": record, "direct_url.json": url}.get
records = [Package(record) for record in json.loads(sys.argv[1])]
for package in [*records, Package(None), Package("a,,", "{}")]:
    print(cute_content._files(package) or "unknown")
"""
MULTIPROCESSORS = "flashinfer.gemm.kernels.gemm_fp8_groupwise_sm107:_num_sms"
MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    (f"{GATE}:_get_compile", {}, "unknown_op", "has no function _get_compile (did you mean _get_compiled?)"),
    (f"{GATE}:Path", {}, "unknown_op", "has no function Path"),
    ("flashinfer.norm.kernels.rmsnorm_gate:_get_compiled", {}, "unknown_op", "isn't in this FlashInfer"),
    ("flashinfer.jit.core:clear_cache_dir", {}, "unknown_op", "is no function of FlashInfer that makes CuTe-DSL"),
    ("flashinfer.page:get_page_module", {}, "unknown_op", "flashinfer.page makes no CuTe-DSL kernels"),
    ("os:system", {"command": "true"}, "unknown_op", "is no function of FlashInfer that makes CuTe-DSL"),
    (f"{GATE}:_get_compiled", {"num_heads": 8}, "missing_parameter", "needs x_token_stride, gate_token_stride, lanes"),
    (f"{GATE}:_get_compiled", {"num_heads": "8", **GATED}, "bad_value", "'8' is no value for num_heads"),
    (f"{TOPK}:_compile_gvr", {"cute_dtype": "Float33"}, "bad_value", "CuTe-DSL (did you mean Float32?)"),
    (MULTIPROCESSORS, {"device_index": 0}, "device", "_num_sms: it depends on the GPU's multi_processor_count"),
]


@pytest.fixture(scope="module", autouse=True)
def cute_dsl(flashinfer: Path) -> None:
    if not importlib.util.find_spec("cutlass"):
        pytest.skip("nvidia-cutlass-dsl isn't installed")


class Built(NamedTuple):
    base: Path
    planned: dict[str, Any]
    made: dict[str, Any]


def ask(
    script: str,
    base: Path,
    *kernels: tuple[str, dict[str, Any]],
    path: str = "",
    version: str = "0.7.4",
    **more: Any,
) -> dict[str, Any]:
    """The answer of a script, in an environment without a toolkit."""
    wanted = [{"id": index, "op": op, "params": params} for index, (op, params) in enumerate(kernels)]
    request = {"version": 1, "architecture": "9.0a", "kernels": wanted, **more}
    env = environment(base, version, CUDA_HOME="/nowhere", FLASHINFER_DISABLE_JIT="1")
    env["PYTHONPATH"] = f"{path}:{env['PYTHONPATH']}"
    _, answer = run(PLAN.with_name(script), request, base / "asked", env)
    assert "fatal" not in answer, answer
    return answer


def objects(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of KERNELS, which come first."""
    return [one for kernel in answer["kernels"][: len(KERNELS)] for one in kernel["objects"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    base = tmp_path_factory.mktemp("cute")
    wrong = [(op, params) for op, params, _, _ in MISTAKES]
    planned = ask("cute_plan.py", base, *KERNELS, *wrong, recorded=True)
    assert not list(base.rglob("cached_ops")), "planning writes nothing there"
    return Built(base, planned, ask("cute_build.py", base, *KERNELS, IN_MEMORY, BLACKWELL))


@pytest.fixture
def cache(built: Built, tmp_path: Path) -> Path:
    """The cache, in another place."""
    return shutil.copytree(built.base, tmp_path / "elsewhere")


def object_in(base: Path, name: str) -> Path:
    return next(base.rglob(f"cached_ops/{name}.o"))


def test_a_plan_names_each_object_and_what_its_key_rests_on(built: Built) -> None:
    planned = objects(built.planned)
    assert [one["name"] for one in planned] == NAMES
    assert [(one["valid"], one["there"], one["differs"]) for one in planned] == [(False, False, {})] * 3
    first = planned[0]
    assert first["path"] == f"{built.planned['workspace']}/cached_ops/{NAMES[0]}.o"
    assert first["expected"]["arch"] == "sm90a"
    assert list(first["sources"]) == ["norm/kernels/rmsnorm_sigmoid_gate.py"]
    assert built.planned["kernels"][0]["params"] == {**KERNELS[0][1], "enable_pdl": False}
    read = built.planned["reads"]["files"]
    assert f"{built.planned['flashinfer_root']}/norm/kernels/rmsnorm_sigmoid_gate.py" in read
    assert any(path.endswith(".dist-info/RECORD") and "/torch-" in path for path in read)


def test_what_was_planned_is_compiled_without_a_gpu(built: Built) -> None:
    made = objects(built.made)
    assert [one["how"] for one in made] == ["compiled"] * 3
    same = ("name", "path", "meta", "lock", "expected", "sources")
    assert [[one[key] for key in same] for one in made] == [
        [one[key] for key in same] for one in objects(built.planned)
    ]
    for one in made:
        assert one["valid"]
        assert one["sha256"] == hashlib.sha256(Path(one["path"]).read_bytes()).hexdigest()
        assert json.loads(Path(one["meta"]).read_text()) == one["expected"]


def test_what_cannot_be_kept_or_compiled_says_so(built: Built) -> None:
    memory, blackwell = built.made["kernels"][3:]
    assert memory["error"]["kind"] == "in_memory"
    assert "each process of a server compiles it anew" in memory["error"]["message"]
    (failed,) = blackwell["objects"]
    assert (failed["how"], failed["valid"], failed["sha256"]) == ("failed", False, "")
    assert "ptxas rejected the PTX" in failed["message"]
    assert "\x1b" not in failed["message"]


def test_flashinfer_finds_them_in_another_process_and_place(cache: Path, tmp_path: Path) -> None:
    """And the recorder says of a server's objects what kernels.yaml has to."""
    trace = tmp_path / "trace.jsonl"
    env = environment(cache)
    env |= variables(trace, env)
    assert served(env, {}) == [LOADED]
    lines = [line for line in map(json.loads, trace.read_text().splitlines()) if line["how"] != "begun"]
    assert [(one["name"], one["kind"], one["how"], one["unsaid"]) for one in lines] == [
        (name, "cute-dsl", "cached", "") for name in NAMES[:2]
    ]
    said = [(one["generator"], one["arguments"]) for one in lines]
    assert said == [(op, {**params, "enable_pdl": False}) for op, params in KERNELS[:2]]


def test_the_version_that_engines_pin_makes_the_same_object(built: Built, tmp_path: Path) -> None:
    answer = ask("cute_build.py", tmp_path, KERNELS[0], version="0.7.2.post1")
    assert answer["flashinfer"] == "0.7.2.post1"
    (one,) = objects(answer)
    assert (one["how"], one["name"], one["sha256"]) == ("compiled", NAMES[0], objects(built.made)[0]["sha256"])


def test_a_torn_object_and_a_torn_key_are_made_again(built: Built, cache: Path) -> None:
    torn = object_in(cache, NAMES[0])
    torn.write_bytes(torn.read_bytes()[:-1])
    object_in(cache, NAMES[2]).with_name("meta.json").write_text('{"arch": "sm90a"')
    judged = objects(ask("cute_plan.py", cache, *KERNELS, load=True))
    assert [(one["valid"], one["loads"]) for one in judged] == [(True, False), (True, True), (False, False)]
    assert "Failed to load cached CuTe-DSL kernel" in judged[0]["why"]
    answer = ask("cute_build.py", cache, *KERNELS)
    assert [one["how"] for one in objects(answer)] == ["compiled", "cached", "compiled"]
    assert "Failed to load cached CuTe-DSL kernel" in objects(answer)[0]["message"]
    made = objects(built.made)
    assert [one["sha256"] for one in objects(answer)] == [one["sha256"] for one in made]


def test_another_compiler_makes_all_of_them_invalid(built: Built, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "site" / "nvidia_cutlass_dsl_libs_cu99-4.8.2.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cutlass-dsl-libs-cu99\nVersion: 4.8.2\n")
    answer = ask("cute_plan.py", cache, *KERNELS, path=str(other.parent))
    assert [(one["valid"], one["there"], list(one["differs"])) for one in objects(answer)] == [
        (False, True, ["cute_dsl_version"])
    ] * 3
    assert ["nvidia-cutlass-dsl-libs-cu99", "4.8.2", ""] in answer["packages"]
    assert [one for one in answer["packages"] if "cu99" not in one[0]] == built.planned["packages"]


def test_another_path_is_another_key_and_so_is_another_source(built: Built, cache: Path, tmp_path: Path) -> None:
    """The same FlashInfer elsewhere: its objects are the same, and are valid once meta.json has its key."""
    package = _linked(Path(built.planned["flashinfer_root"]), tmp_path / "site" / "flashinfer")
    moved = objects(ask("cute_plan.py", cache, *KERNELS, path=str(tmp_path / "site")))
    assert [list(one["differs"]) for one in moved] == [["source_sha256"]] * 3
    assert [one["sources"] for one in moved] == [one["sources"] for one in objects(built.planned)]
    for one in moved:
        Path(one["meta"]).write_text(json.dumps(one["expected"]))
    source = package / "norm" / "kernels" / "rmsnorm_sigmoid_gate.py"
    source.write_text(source.read_text() + "\ndef _write(path: str):\n    open(path, 'w')\n")
    write = (f"{GATE}:_write", {"path": str(tmp_path / "written")})
    answer = ask("cute_plan.py", cache, *KERNELS, write, path=str(tmp_path / "site"), recorded=True)
    changed = objects(answer)
    assert [(one["valid"], list(one["differs"])) for one in changed] == [(False, ["source_sha256"])] * 2 + [(True, [])]
    assert changed[0]["sources"] != moved[0]["sources"]
    assert f"would write {tmp_path}/written, which nothing may" in answer["kernels"][-1]["error"]["message"]


def _linked(package: Path, place: Path) -> Path:
    """A copy of FlashInfer whose norm/ is its own; the rest are links."""
    place.mkdir(parents=True)
    for one in package.iterdir():
        if one.name not in ("norm", "__pycache__"):
            (place / one.name).symlink_to(one)
    shutil.copytree(package / "norm", place / "norm")
    return place


def test_each_mistake_is_said(built: Built) -> None:
    said = [kernel["error"] for kernel in built.planned["kernels"][len(KERNELS) :]]
    assert [one["kind"] for one in said] == [kind for _, _, kind, _ in MISTAKES]
    for one, (_, _, _, expected) in zip(said, MISTAKES, strict=True):
        assert expected in one["message"]


def fatal(base: Path, architecture: str = "9.0a", path: str = "") -> dict[str, Any]:
    """Why nothing can be planned."""
    env = environment(base)
    env["PYTHONPATH"] = f"{path}:{env['PYTHONPATH']}"
    request = {"version": 1, "architecture": architecture, "kernels": []}
    process, answer = run(PLAN.with_name("cute_plan.py"), request, base / "asked", env)
    assert process.returncode == 3
    found: dict[str, Any] = answer["fatal"]
    return found


def test_without_cute_dsl_nothing_can_be_planned(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['cutlass'] = None\n")
    found = fatal(tmp_path, path=str(tmp_path))
    assert found["kind"] == "no_cute_dsl"
    assert found["message"].startswith("no CuTe-DSL kernels can be made here: ModuleNotFoundError: ")
    assert "install the nvidia-cutlass-dsl" in found["remedy"]


def test_an_architecture_is_one(tmp_path: Path) -> None:
    assert fatal(tmp_path, "8.0 9.0a")["message"] == "'8.0 9.0a' is no GPU architecture"


def test_the_architecture_is_named_unless_the_environment_names_one(tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(PLAN.parent)!r}); from cute_device import *"
    names = "for one in sys.argv[1:]: name_architecture(Device(one, {})); print(os.environ['CUTE_DSL_ARCH'])"
    for architecture, own, expected in (("9.0a", "", "sm_90a"), ("8.0", "", "sm_80"), ("10.0a", "sm_100f", "sm_100f")):
        env = {**environment(tmp_path), **({"CUTE_DSL_ARCH": own} if own else {})}
        command = [sys.executable, "-c", f"{script}\n{names}", architecture]
        assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip() == expected


def test_what_an_installer_makes_itself_is_no_content(tmp_path: Path) -> None:
    """Two installations of one wheel: another environment's script, with and without byte code, by pip and uv."""
    files = ["cutlass/cute.py,sha256=a,1", "../../bin/run-iket,sha256=b,2", "bin/run-iket,sha256=c,2"]
    made = ["cutlass/__pycache__/cute.cpython-311.pyc,,", "cutlass-4.dist-info/INSTALLER,sha256=d,4"]
    records = [files[:1], [files[0], files[1], *made], [files[2], files[0]], ["cutlass/cute.py,sha256=e,1"]]
    script = f"import json, sys; sys.path.insert(0, {str(PLAN.parent)!r}); import cute_content\n" + CONTENT
    command = [sys.executable, "-c", script, json.dumps(["\n".join(lines) for lines in records])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == said[1] == said[2] != said[3]
    assert said[4:] == ["unknown", "unknown"]


ORIGIN = """
import sys, types; sys.path.insert(0, sys.argv[1]); import fitasks_origin
made = types.ModuleType("flashinfer.ops")
exec(sys.argv[2], vars(made))
kind = type("Float32", (), {"__module__": "cutlass.base_dsl.typing"})
made.tensor = type("Tensor", (), {})()
made.look = lambda: fitasks_origin.of_kernel(sys._getframe())
print(made.warm(8, kind))
print(made.serve())
"""
OPS = """
import functools
@functools.cache
def make(heads, kind):
    return keep(lambda: look())
def warm(heads, kind):
    return make(heads, kind)
def keep(compile_fn):
    return compile_fn()
def use(tensor):
    return keep(lambda: look())
def serve():
    return use(tensor)
"""


def test_the_recorder_names_the_innermost_function_that_can_be_said() -> None:
    record = PLAN.parents[1] / "record"
    command = [sys.executable, "-c", ORIGIN, str(record), OPS]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "('flashinfer.ops:make', {'heads': 8, 'kind': 'Float32'}, '')"
    assert said[1] == "('flashinfer.ops:keep', {}, 'compile_fn is a function')"
