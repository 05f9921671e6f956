"""What the planner says about entries it cannot plan, and about environments in which it can plan nothing."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.serving.planner_runs import PLAN, environment, request_of, run

PREFILL_TAKES = (
    "backend, dtype_q, dtype_kv, dtype_o, dtype_idx, head_dim, head_dim_qk, head_dim_vo, pos_encoding_mode, "
    "use_sliding_window, use_logits_soft_cap, use_fp16_qk_reduction, use_token_head_sf"
)
NO_GENERATOR = (
    "{} is no generator: only gen_… functions that FlashInfer or odd_generators defines are called; for a package of "
    "your own, name it as `generators:` in kernels.yaml"
)
# What is called in none of these ways: other packages' functions, what FlashInfer's modules only imported, what is no
# function of the module's own, and what makes any module of any sources.
NO_GENERATORS = [
    "os:system",
    "subprocess:getoutput",
    "builtins:min",
    "shadow:gen_thing",
    "flashinfer:os",
    "flashinfer.jit.core:os.system",
    "flashinfer.jit.core:gen_jit_spec",
    "flashinfer.jit.core:JitSpec",
    "flashinfer.jit.core:build_jit_specs",
    "flashinfer.__init__:__builtins__",
    "flashinferior:gen_page_module",
    "odd_generators:gen_aliased",
    "odd_generators:gen_partial",
    "odd_generators:gen_class",
    "odd_generators:gen_page_module.__globals__",
]
GOOD = {"backend": "fa2", "dtype_q": "bfloat16", "head_dim": 128}
NO_VALUE = "is no value for"
NEEDS_NETWORK = (
    "needs the network for files that FlashInfer's cubin directory lacks, and planning stays off it; fetch them once "
    f"with `{sys.executable} -m flashinfer download-cubin` or `{sys.executable} -m flashinfer install-cubin-wheel`"
)
NOT_NVCC = (
    "kernel, which the server compiles itself, for its own GPU and shapes; only nvcc modules can be compiled "
    "beforehand: leave this entry out"
)
DSL = f"mm_fp4 is a CuTe-DSL {NOT_NVCC}"
SINKS = "BatchAttentionWithAttentionSinkWrapper"
# op, params, and every mistake as (kind, parameter, message, suggestion)
TABLE: list[tuple[str, dict[str, Any], Any]] = [
    (
        "batch_prefil",
        {},
        [
            (
                "unknown_op",
                None,
                "unknown op; FlashInfer 0.7.4 has no gen_batch_prefil_module (did you mean batch_prefill?)",
                "batch_prefill",
            )
        ],
    ),
    (
        "activation",
        {},
        [
            (
                "unknown_op",
                None,
                "unknown op; FlashInfer 0.7.4 has no gen_activation_module (did you mean act_and_mul?)",
                "act_and_mul",
            )
        ],
    ),
    ("comm_alltoall", {}, [("unknown_op", None, "unknown op; FlashInfer 0.7.4 has no gen_comm_alltoall_module (did you mean nvlink_two_sided_alltoall?)", "nvlink_two_sided_alltoall")]),
    ("moe_alltoall", {}, [("unknown_op", None, "unknown op; FlashInfer 0.7.4 has no gen_moe_alltoall_module (did you mean nvlink_one_sided_alltoall or cake_alltoall?)", "nvlink_one_sided_alltoall")]),
    ("gen_gemm_sm120_module_cute_mxfp8", {}, [("unknown_op", None, "unknown op; FlashInfer 0.7.4 has no gen_gemm_sm120_module_cute_mxfp8 (did you mean gen_gemm_sm120_module_cute?)", "gen_gemm_sm120_module_cute")]),
    (
        "zzz",
        {},
        [("unknown_op", None, "unknown op; FlashInfer 0.7.4 has no gen_zzz_module", None)],
    ),
    (
        "flashinfer.jit.page:gen_pag_module",
        {},
        [
            (
                "unknown_op",
                None,
                "unknown op; flashinfer.jit.page has no function gen_pag_module (did you mean gen_page_module?)",
                "flashinfer.jit.page:gen_page_module",
            )
        ],
    ),
    (
        "flashinfer.no.such:gen_thing",
        {},
        [("unknown_op", None, "unknown op; flashinfer.no.such cannot be imported: No module named 'flashinfer.no'", None)],
    ),
    (
        "batch_prefill",
        {"bakend": "fa2", "dtype_q": "bf16", "head_dim": 128},
        [
            (
                "unknown_parameter",
                "bakend",
                f"unknown parameter; batch_prefill takes {PREFILL_TAKES} (did you mean backend?)",
                "backend",
            ),
            (
                "bad_value",
                "dtype_q",
                f"'bf16' {NO_VALUE} dtype_q; it takes a dtype (did you mean bfloat16?)",
                "bfloat16",
            ),
        ],
    ),
    (
        "quantization",
        {"head_dim": 128},
        [("unknown_parameter", "head_dim", "unknown parameter; quantization takes no parameters", None)],
    ),
    (
        "batch_prefill",
        {},
        [("missing_parameter", "backend", "missing parameter; batch_prefill needs backend, dtype_q, dtype_kv, dtype_o, head_dim", None)],
    ),
    (
        "batch_prefill",
        {**GOOD, "head_dim": "big", "use_sliding_window": "yes", "pos_encoding_mode": "ROPE"},
        [
            ("bad_value", "head_dim", f"'big' {NO_VALUE} head_dim; it takes an integer", None),
            ("bad_value", "use_sliding_window", f"'yes' {NO_VALUE} use_sliding_window; it takes true or false", None),
            (
                "bad_value",
                "pos_encoding_mode",
                f"'ROPE' {NO_VALUE} pos_encoding_mode; it takes one of NONE, ROPE_LLAMA, ALIBI, 0, 1, 2",
                None,
            ),
        ],
    ),
    (
        "odd_generators:gen_picky",
        {"layout": "NDH", "kind": "c", "size": True, "names": "x"},
        [
            ("bad_value", "layout", f"'NDH' {NO_VALUE} layout; it takes one of NHD, HND (did you mean NHD?)", "NHD"),
            ("bad_value", "kind", f"'c' {NO_VALUE} kind; it takes one of a, b", None),
            ("bad_value", "size", f"True {NO_VALUE} size; it takes an integer", None),
            ("bad_value", "names", "names takes typing.List[str], which kernels.yaml cannot say", None),
        ],
    ),
    (
        "odd_generators:gen_called_back",
        {"callback": "f"},
        [("bad_value", "callback", "callback takes typing.Callable[[int], int], which kernels.yaml cannot say", None)],
    ),
    (
        "batch_prefill",
        {**GOOD, "backend": "fa4"},
        [
            (
                "generator",
                None,
                "gen_batch_prefill_module raised AssertionError: backend must be fa2 or fa3 in gen_batch_prefill_module(), got: fa4",
                None,
            )
        ],
    ),
    ("act_and_mul", {"act_func_name": "silo"}, [("generator", None, "gen_act_and_mul_module raised KeyError: 'silo'", None)]),
    ("odd_generators:gen_leaves", {}, [("generator", None, "gen_leaves raised SystemExit: 5", None)]),
    ("odd_generators:gen_asserts", {}, [("generator", None, "gen_asserts raised AssertionError: two lines", None)]),
    ("odd_generators:gen_downloads", {}, [("generator", None, f"gen_downloads {NEEDS_NETWORK}", None)]),
    ("odd_generators:gen_resolves", {}, [("generator", None, f"gen_resolves {NEEDS_NETWORK}", None)]),
    ("trtllm_gen_fmha", {}, [("generator", None, f"gen_trtllm_gen_fmha_module {NEEDS_NETWORK}", None)]),
    ("odd_generators:gen_builds", {}, [("generator", None, "this function builds page at once; name its generator", None)]),
    ("odd_generators:gen_two", {}, [("generator", None, "this function makes several modules; name their generators", None)]),
    ("odd_generators:gen_nothing", {}, [("generator", None, "this function returns NoneType, not a JitSpec", None)]),
    ("odd_generators:gen_dsl", {}, [("not_nvcc", None, DSL, None)]),
    ("odd_generators:gen_tirx", {}, [("not_nvcc", None, f"kda_tirx_1 is a TIRx {NOT_NVCC}", None)]),
    ("odd_generators:gen_newer", {}, [("not_nvcc", None, f"thing is a _SpecOfTomorrow {NOT_NVCC}", None)]),
    *((op, {"command": "touch ran"}, [("unknown_op", None, NO_GENERATOR.format(op), None)]) for op in NO_GENERATORS),
    ("pod", {"dtype_q": "float16", "head_dim": 64, "pos_encoding_mode_p": "ROPE"}, [("bad_value", "pos_encoding_mode_p", f"'ROPE' {NO_VALUE} pos_encoding_mode_p; it takes one of NONE, ROPE_LLAMA, ALIBI, 0, 1, 2", None)]),
    ("batch_prefill_attention_sink", {**GOOD, "dtype_o": "float16"}, [("bad_value", "dtype_o", f"{SINKS}, which loads this module, takes bfloat16 for dtype_o and nothing else", None)]),
    ("batch_prefill_attention_sink", {**GOOD, "dtype_idx": "int64"}, [("bad_value", "dtype_idx", f"{SINKS}, which loads this module, takes int32 for dtype_idx and nothing else", None)]),
]  # fmt: skip
ATTENTION = "flashinfer.jit.attention.modules"
PLANNED: list[tuple[str, dict[str, Any] | None]] = [
    ("odd_generators:gen_noisy", {}),
    ("odd_generators:gen_picky", {"layout": "HND", "kind": "a", "size": None}),
    ("flashinfer.jit:gen_batch_prefill_module", {**GOOD, "pos_encoding_mode": 2}),
    ("gen_page_module", None),
    ("pod", {"dtype_q": "float16", "head_dim": 64, "pos_encoding_mode_p": "rope_llama", "pos_encoding_mode_d": "NONE"}),
    ("qsa_nvfp4", {}),
    ("sm90_push_a2a", {}),
    ("batch_prefill_attention_sink", GOOD),
    (f"{ATTENTION}:gen_batch_prefill_attention_sink_module", GOOD),
    ("pcie_ipc_comm_debug", {"stall_ns": 1, "stall_island": 1}),
]

needs_torch = pytest.mark.usefixtures("torch")  # planning does
Answered = tuple[subprocess.CompletedProcess[str], dict[str, Any]]


def mistakes(kernel: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (error["kind"], error["parameter"], error["message"], error["suggestion"]) for error in kernel.get("errors", [])
    ]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, torch: Path) -> Answered:
    """Every mistake and some good entries in one request: one process."""
    base = tmp_path_factory.mktemp("errors")
    (base / "shadow.py").write_text("open('ran', 'w')\n\ndef gen_thing():\n    pass\n")  # where the planner is run
    kernels = [*((op, params) for op, params, _ in TABLE), *PLANNED]
    return run(PLAN, request_of(*kernels, generators=["odd_generators"]), base, environment(base))


@needs_torch
def test_every_mistake_is_said(answered: Answered) -> None:
    _, response = answered
    told = [(kernel["id"], mistakes(kernel)) for kernel in response["kernels"][: len(TABLE)]]
    assert told == [(index, expected) for index, (_, _, expected) in enumerate(TABLE)]
    assert all(kernel["error"] == kernel["errors"][0] for kernel in response["kernels"][: len(TABLE)])


@needs_torch
def test_nothing_else_was_called(answered: Answered) -> None:
    base = Path(answered[1]["workspace"]).parents[3]
    assert not list(base.rglob("ran"))
    assert not {"shadow", "pwned"} & {name for _, names in answered[1]["reads"]["looked"] for name in names}


@needs_torch
def test_accepted_names_come_along(answered: Answered) -> None:
    _, response = answered
    by_op = [kernel["error"]["accepted"] for kernel in response["kernels"][: len(TABLE)]]
    assert by_op[[op for op, _, _ in TABLE].index("batch_prefill")] == PREFILL_TAKES.split(", ")
    assert {"page", "batch_prefill", "act_and_mul"} <= set(by_op[0])


@needs_torch
def test_good_entries_are_planned_beside_bad_ones(answered: Answered) -> None:
    process, response = answered
    noisy, picky, public, whole_name, *_ = response["kernels"][len(TABLE) :]
    assert [kernel.get("name") for kernel in (noisy, picky, whole_name)] == ["page", "page", "page"]
    assert picky["params"] == {"layout": "HND", "kind": "a", "size": None, "flag": True, "names": []}
    assert public["generator"] == "flashinfer.jit.attention.modules:gen_batch_prefill_module"
    assert public["params"]["pos_encoding_mode"] == 2
    assert (process.returncode, process.stdout) == (0, "")
    assert "noise\n" in process.stderr
    assert not Path(response["workspace"], "cached_ops").exists()


@needs_torch
def test_names_of_positions_of_both_halves(answered: Answered) -> None:
    pod = answered[1]["kernels"][len(TABLE) + 4]
    assert (pod["params"]["pos_encoding_mode_p"], pod["params"]["pos_encoding_mode_d"]) == (1, 0)


@needs_torch
def test_generators_that_flashinfer_imports_later(answered: Answered) -> None:
    found = [kernel["generator"] for kernel in answered[1]["kernels"][len(TABLE) + 5 :][:2]]
    assert found == [
        "flashinfer.experimental.qsa_nvfp4.jit:gen_qsa_nvfp4_module",
        "flashinfer.moe_ep.kernel_src.sm90.push_style_megamoe.shim.jit:gen_sm90_push_a2a_module",
    ]


@needs_torch
def test_what_a_wrapper_names_itself(answered: Answered) -> None:
    """The op is what the wrapper loads; the public generator's module is planned where it is named, with a note."""
    sinks, public, debug = answered[1]["kernels"][len(TABLE) + 7 :]
    assert sinks["name"] == "batch_prefill_attention_sink_bf16_bf16_128_128_posenc_0_f16qk_False_swa_False_fa2"
    assert (sinks["generator"], sinks.get("note")) == (f"flashinfer.attention._core:{SINKS}", None)
    assert public["name"].startswith("batch_prefill_with_attention_sink_kv_cache_")
    loaded = f"they load what `op: batch_prefill_attention_sink` plans (flashinfer.attention._core:{SINKS})"
    assert public["note"] == f"no wrapper loads this module, {loaded}"
    nothing = "nothing in this FlashInfer calls gen_pcie_ipc_comm_debug_module"
    assert debug["note"] == f"{nothing}, so a server may never load this module"


# Its .pth file has put its packages on the path by then.
WITHOUT_DSL = 'import sys\nsys.path[:] = [entry for entry in sys.path if "cutlass" not in entry]\n'


@needs_torch
@pytest.mark.parametrize(
    ("version", "settings", "planned"),  # the newest with and without CuTe-DSL's norm: tests/models/test_models.py
    [
        ("0.6.18.post1", {}, False),
        ("0.6.18.post1", {"FLASHINFER_USE_CUDA_NORM": "1"}, True),
        ("0.6.18.post1", {"NO_DSL": "1"}, True),
        ("0.7.4", {"NO_DSL": "1"}, True),
    ],
)
def test_what_models_need_is_planned_where_flashinfer_loads_it(
    tmp_path: Path, version: str, settings: dict[str, str], planned: bool
) -> None:
    """FlashInfer itself says, in the serving environment, whether norm is its module or CuTe-DSL's kernels."""
    env = environment(tmp_path, version, **settings)
    request = request_of(("norm", {}), ("page", {}), ("norm", {}))
    request["kernels"][0]["if_loaded"] = request["kernels"][1]["if_loaded"] = True
    if env.pop("NO_DSL", ""):
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_DSL)
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    _, response = run(PLAN, request, tmp_path, env)
    derived, page, written = response["kernels"]
    assert (page["name"], written["name"]) == ("page", "norm"), "what somebody wrote is planned in any case"
    if planned:
        assert derived["name"] == "norm"
        assert derived["note"].startswith("the server loads this module")
    else:
        assert mistakes(derived) == [("skipped", None, "norm: CuTe-DSL, compiled in memory by each process", None)]
        assert written["note"].startswith("the server prefers CuTe-DSL kernels")


# FlashInfer's answer of another architecture's GPUs: a DSL that can't serve them.
UNSUPPORTED = """
import gc; gc.disable()
import runpy, sys
import flashinfer.norm
flashinfer.norm._cute_dsl_supports_arch = lambda major, minor: (major, minor) != (9, 0)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@needs_torch
@pytest.mark.parametrize(("target", "planned"), [("9.0a", True), ("8.0", False), ("8.0 8.9", True)])
def test_an_architecture_that_cute_dsl_may_not_serve(tmp_path: Path, target: str, planned: bool) -> None:
    request = request_of(("norm", {}))
    request["kernels"][0]["if_loaded"] = True
    (tmp_path / "request.json").write_text(json.dumps(request))
    env = environment(tmp_path, FLASHINFER_CUDA_ARCH_LIST=target)
    words = ["-c", UNSUPPORTED, str(PLAN), "request.json", "response.json"]
    warm.run(warm.TORCH, words, tmp_path, env).check_returncode()
    (norm,) = json.loads((tmp_path / "response.json").read_text())["kernels"]
    assert ("name" in norm) == planned
    assert not planned or norm["note"].endswith("CuTe-DSL may not serve this target's GPUs")


@needs_torch
def test_without_sm90(tmp_path: Path) -> None:
    kernels: list[tuple[str, dict[str, Any] | None]] = [
        ("batch_prefill", {**GOOD, "backend": "fa3"}),
        ("fp8_blockscale_gemm_sm90", {}),
        ("odd_generators:gen_thing_sm90_module", {"size": 2}),
        ("norm", {}),
    ]
    env = environment(tmp_path, FLASHINFER_USE_CUDA_NORM="1")
    _, response = run(PLAN, request_of(*kernels, sm90=False, generators=["odd_generators"]), tmp_path, env)
    prefill, gemm, thing, norm = response["kernels"]
    assert prefill["params"]["backend"] == "fa2"
    assert prefill["name"].endswith("_f16qk_False_kv_stride_equal")
    assert prefill["note"] == "fa3 is for Hopper only; fa2 is planned instead (sm90: false)"
    reason = "fp8_blockscale_gemm_sm90 is for Hopper only, and sm90 is false"
    assert mistakes(gemm) == [("skipped", None, reason, None)]
    assert (thing["name"], thing["generator"]) == ("page", "odd_generators:gen_thing_module")
    expected = "odd_generators:gen_thing_sm90_module is for Hopper only; thing is planned instead (sm90: false)"
    assert thing["note"] == expected
    assert norm["note"] == "the server loads this module: the CuTe-DSL path is off in this environment"


@needs_torch
@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (
            {"FLASHINFER_CUDA_ARCH_LIST": "9.0a;10.0a"},
            "arch_list",
            "FLASHINFER_CUDA_ARCH_LIST is '9.0a;10.0a', which FlashInfer cannot read",
        ),
        (
            {"FLASHINFER_CUDA_ARCH_LIST": "7.0"},
            "arch_list",
            "RuntimeError: FlashInfer requires GPUs with sm75 or higher. Detected TARGET_CUDA_ARCHS=[(7, '0')].",
        ),
        (
            {"CUDA_HOME": "/nowhere"},
            "toolkit",
            "FlashInfer finds no CUDA toolkit: RuntimeError: nvcc not found and PyTorch is not built with CUDA support. Could not determine CUDA version.",
        ),
    ],
)
def test_unusable_environment(tmp_path: Path, settings: dict[str, str], kind: str, message: str) -> None:
    if kind == "toolkit" and importlib.import_module("torch.version").cuda is not None:
        pytest.skip("a CUDA torch knows its CUDA release without nvcc")
    env = environment(tmp_path, **settings)
    process, response = run(PLAN, request_of(("page", {})), tmp_path, env)
    assert process.returncode == 3
    assert set(response) == {"version", "fatal"}
    assert (response["fatal"]["kind"], response["fatal"]["message"]) == (kind, message)
    assert process.stderr.endswith(f"plan.py: {message}\n")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with nothing installed."""
    directory = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    return str(directory / "bin" / "python")


def fake_package(directory: Path, name: str, text: str) -> None:
    (directory / name).mkdir(parents=True)
    (directory / name / "__init__.py").write_text(text)


def fatal(bare_python: str, tmp_path: Path, environment: dict[str, str] | None = None, **packages: str) -> Any:
    for name, text in packages.items():
        fake_package(tmp_path / "site", name, text)
    env = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", **(environment or {})}
    process, response = run(PLAN, request_of(("page", {})), tmp_path, env, python=bare_python)
    assert (process.returncode, process.stdout) == (3, "")
    return response["fatal"]


TORCH = "class version: cuda = None\nclass cuda: get_device_properties = None\n"


def test_no_torch(bare_python: str, tmp_path: Path) -> None:
    assert fatal(bare_python, tmp_path) == {
        "kind": "no_torch",
        "message": f"import torch fails in {bare_python}: No module named 'torch'",
        "remedy": "install torch there, or name the server's own interpreter as serving.python",
    }


def test_no_flashinfer(bare_python: str, tmp_path: Path) -> None:
    assert fatal(bare_python, tmp_path, torch=TORCH) == {
        "kind": "no_flashinfer",
        "message": f"import flashinfer fails in {bare_python}: No module named 'flashinfer'",
        "remedy": "install flashinfer-python there, or name the server's own interpreter as serving.python",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise SystemExit(7)", "SystemExit: 7"),
        ("print('x'); import os; os.write(1, b'{}'); assert False, 'no CUDA'", "AssertionError: no CUDA"),
        ("import tvm_ffi", "ModuleNotFoundError: No module named 'tvm_ffi'"),
    ],
)
def test_flashinfer_that_dies_on_import(bare_python: str, tmp_path: Path, text: str, says: str) -> None:
    assert fatal(bare_python, tmp_path, torch=TORCH, flashinfer=text) == {
        "kind": "import",
        "message": f"import flashinfer fails in {bare_python}: {says}",
        "remedy": f'make this work: {bare_python} -c "import flashinfer"',
    }


READS = "import os, logging; logging.Logger('x').setLevel(os.environ.get('{name}').upper())"
OPENS = "import os; open(os.environ.get('{name}') + '/.cache/x')"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (READS, "FLASHINFER_LOGGING_LEVEL", "nonsense"),
        (OPENS, "FLASHINFER_WORKSPACE_BASE", "/nowhere/base"),
        (OPENS, "HOME", "/nowhere/home"),
        (READS, "OTHER_LEVEL", "nonsense"),
    ],
)
def test_the_variable_that_flashinfer_dies_of_is_named(
    bare_python: str, tmp_path: Path, text: str, name: str, value: str
) -> None:
    found = fatal(bare_python, tmp_path, {name: value}, torch=TORCH, flashinfer=text.format(name=name))
    assert found["remedy"] == f"correct {name} (it is {value!r}), or unset it"


def test_a_user_without_a_home(bare_python: str, tmp_path: Path) -> None:
    text = "raise RuntimeError('Could not determine home directory.')"
    found = fatal(bare_python, tmp_path, torch=TORCH, flashinfer=text)
    assert found["remedy"] == "set HOME to a directory that this user can write to, for doit and the server alike"


def test_cpu_only_assertion_is_turned_into_what_flashinfer_swallows(bare_python: str, tmp_path: Path) -> None:
    """0.6.8-0.6.11 and 0.6.14-0.7.0 ask for device 0 at import and swallow RuntimeError alone."""
    torch = (
        "def ask(*_): raise AssertionError('Torch not compiled with CUDA enabled')\n"
        "class version: cuda = None\nclass cuda: get_device_properties = staticmethod(ask)\n"
    )
    asks = (
        "import torch\n"
        "try: torch.cuda.get_device_properties(0)\n"
        "except RuntimeError as error: raise ImportError('swallowed ' + str(error)) from None\n"
    )
    message = fatal(bare_python, tmp_path, torch=torch, flashinfer=asks)["message"]
    assert message.endswith("ImportError: swallowed Torch not compiled with CUDA enabled")


def test_neighbours_do_not_hide_packages(bare_python: str, tmp_path: Path) -> None:
    """The script's own directory is off sys.path before FlashInfer is imported."""
    text = f"import sys; raise ImportError({str(PLAN.parent)!r} in sys.path)"
    message = fatal(bare_python, tmp_path, torch=TORCH, flashinfer=text)["message"]
    assert message.endswith("ImportError: False")


def test_the_garbage_collector_rests_during_the_import(bare_python: str, tmp_path: Path) -> None:
    text = "import gc; raise ImportError(gc.isenabled())"
    message = fatal(bare_python, tmp_path, torch=TORCH, flashinfer=text)["message"]
    assert message.endswith("ImportError: False")


@pytest.mark.parametrize("request_text", ["", "[]", '{"version": 2, "kernels": []}', '{"version": 1}'])
def test_bad_request(bare_python: str, tmp_path: Path, request_text: str) -> None:
    (tmp_path / "wrong.json").write_text(request_text)
    process, response = run(PLAN, str(tmp_path / "wrong.json"), tmp_path, {}, python=bare_python)
    assert process.returncode == 3
    assert response["fatal"]["kind"] == "request"
    assert response["fatal"]["message"].startswith(f"{tmp_path / 'wrong.json'} is no request for this planner: ")


def test_usage(bare_python: str) -> None:
    process = subprocess.run([bare_python, PLAN, "one"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "usage: plan.py REQUEST.json RESPONSE.json\n"


def test_an_old_response_does_not_survive(bare_python: str, tmp_path: Path) -> None:
    """A planner that is killed leaves no response, so an earlier one must be gone from the start."""
    fake_package(tmp_path / "site", "torch", "import os; os._exit(9)")
    (tmp_path / "request.json").write_text('{"version": 1, "kernels": []}')
    (tmp_path / "response.json").write_text("old")
    command = [bare_python, str(PLAN), str(tmp_path / "request.json"), str(tmp_path / "response.json")]
    env = {"PYTHONPATH": str(tmp_path / "site")}
    fake_package(tmp_path / "site", "flashinfer", "")
    assert subprocess.run(command, env=env, check=False).returncode == 9
    assert not (tmp_path / "response.json").exists()


@pytest.mark.parametrize("script", sorted(PLAN.parent.glob("*.py")), ids=lambda path: path.name)
def test_scripts_run_alone_in_an_older_python(script: Path) -> None:
    """Syntax of Python 3.9, and imports of the standard library, torch, FlashInfer, CuTe-DSL and neighbours alone."""
    tree = ast.parse(script.read_text(), feature_version=(3, 9))
    froms = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {name.split(".")[0] for name in froms}
    imported |= {
        name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    neighbours = {path.stem for path in script.parent.glob("*.py")}
    allowed = set(sys.stdlib_module_names) | neighbours | {"torch", "flashinfer", "tvm_ffi", "cutlass"}
    assert imported - allowed == set()
    assert not (script.parent / "__init__.py").exists()
