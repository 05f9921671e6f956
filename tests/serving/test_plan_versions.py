"""Planned modules against real FlashInfer versions: the exact names, and what the wrappers themselves load."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.wrapper_calls import configurations
from tests import warm
from tests.serving.planner_runs import PLAN, environment, request_of, run

BENCH = Path(__file__).resolve().parents[2] / "bench"
REGISTRY = BENCH / "registry.py"

pytestmark = pytest.mark.usefixtures("torch")  # planning needs it

VERSIONS = ["0.6.7.post3", "0.6.18.post1", "0.7.0.post1", "0.7.2.post1", "0.7.4"]
NEWEST = VERSIONS[-1]
FROM_0_7 = VERSIONS[2:]
BF16 = {"dtype_q": "bfloat16", "head_dim": 128}
MLA = {"dtype_q": "bfloat16", "head_dim_ckv": 512, "head_dim_kpe": 64}
PREFILL = (
    "batch_prefill_with_kv_cache_dtype_q_bf16_dtype_kv_bf16_dtype_o_bf16_dtype_idx_i32_head_dim_qk_128"
    "_head_dim_vo_128_posenc_0_use_swa_False_use_logits_cap_False_f16qk_False"
)
PREFILL_MIXED = (
    "batch_prefill_with_kv_cache_dtype_q_f16_dtype_kv_e4m3_dtype_o_f16_dtype_idx_i32_head_dim_qk_192"
    "_head_dim_vo_128_posenc_1_use_swa_False_use_logits_cap_True_f16qk_False"
)
PREFILL_FP8 = (
    "batch_prefill_with_kv_cache_dtype_q_e4m3_dtype_kv_e4m3_dtype_o_bf16_dtype_idx_i32_head_dim_qk_128"
    "_head_dim_vo_128_posenc_0_use_swa_False_use_logits_cap_False_f16qk_False_sm90"
)
DECODE = (
    "batch_decode_with_kv_cache_dtype_q_bf16_dtype_kv_bf16_dtype_o_bf16_dtype_idx_i32_head_dim_qk_128"
    "_head_dim_vo_128_posenc_0_use_swa_False_use_logits_cap_False"
)
DECODE_FP8 = (
    "batch_decode_with_kv_cache_dtype_q_f16_dtype_kv_e4m3_dtype_o_f16_dtype_idx_i64_head_dim_qk_64"
    "_head_dim_vo_64_posenc_0_use_swa_True_use_logits_cap_False"
)
ATTENTION = (
    "batch_attention_with_kv_cache_dtype_q_bf16_dtype_kv_bf16_dtype_o_bf16_dtype_idx_i32_head_dim_qk_128"
    "_head_dim_vo_128_posenc_0_use_logits_soft_cap_false_use_profiler_false"
)
MLA_NAME = (
    "batch_mla_attention_dtype_q_bf16_dtype_kv_bf16_dtype_o_bf16_dtype_idx_i32_head_dim_ckv_512"
    "_head_dim_kpe_64_profiler_False"
)
# op, parameters, name in the oldest version, and the name in versions that have another one
TABLE: list[tuple[str, dict[str, Any], str, dict[str, str]]] = [
    (
        "batch_prefill",
        {"backend": "fa2", **BF16},
        PREFILL,
        dict.fromkeys(FROM_0_7, f"{PREFILL}_kv_stride_equal"),
    ),
    ("batch_prefill", {"backend": "fa3", **BF16}, f"{PREFILL}_sm90", {}),
    (
        "batch_prefill",
        {
            "backend": "fa2",
            "dtype_q": "float16",
            "dtype_kv": "float8_e4m3fn",
            "head_dim_qk": 192,
            "head_dim_vo": 128,
            "pos_encoding_mode": "ROPE_LLAMA",
            "use_logits_soft_cap": True,
        },
        PREFILL_MIXED,
        dict.fromkeys(FROM_0_7, f"{PREFILL_MIXED}_kv_stride_equal"),
    ),
    (
        "batch_prefill",
        {"backend": "fa3", "dtype_q": "float8_e4m3fn", "dtype_o": "bfloat16", "head_dim": 128},
        PREFILL_FP8,
        {},
    ),
    ("batch_decode", BF16, DECODE, {}),
    (
        "batch_decode",
        {
            "dtype_q": "half",
            "dtype_kv": "float8_e4m3fn",
            "dtype_idx": "int64",
            "head_dim": 64,
            "use_sliding_window": True,
        },
        DECODE_FP8,
        {},
    ),
    ("batch_attention", BF16, ATTENTION, dict.fromkeys(VERSIONS[3:], f"{ATTENTION}_kv_stride_equal")),
    ("batch_mla", {"backend": "fa2", **MLA}, MLA_NAME, dict.fromkeys(FROM_0_7, f"{MLA_NAME}_planabi2")),
    (
        "batch_mla",
        {"backend": "fa3", **MLA},
        f"{MLA_NAME}_sm90",
        dict.fromkeys(FROM_0_7, f"{MLA_NAME}_planabi2_sm90"),
    ),
    ("act_and_mul", {"act_func_name": "silu"}, "silu_and_mul", {}),
    ("page", {}, "page", {}),
    ("norm", {}, "norm", {}),
    ("rope", {}, "rope", {}),
    ("sampling", {}, "sampling", {}),
    ("cascade", {}, "cascade", {}),
    ("quantization", {}, "quantization", {}),
    ("topk", {}, "topk", {}),
]
# A sample of what `python bench/names.py` compares, which is the same, for more configurations and versions.
SAMPLE = [
    one
    for one in configurations()
    if one.label
    in {
        "decode bf16 e5m2 256",
        "decode f16 f16 64 ALIBI window cap",
        "decode tensor cores f16 e4m3 128",
        "prefill paged fa2 f16 f16 128 mask",
        "prefill paged auto bf16 bf16 128",
        "prefill ragged fa2 bf16 bf16 192/128",
        "prefill ragged fa3 e4m3 e4m3 128 → bf16",
        "sinks fa2 bf16 64",
        "sinks fa3 bf16 64 window",
        "ranges bf16 128",
        "mla auto f16",
        "BatchAttention bf16 128 cap",
        "single prefill fa3 bf16 64 window",
        "gelu_tanh_and_mul",
        "page: append",
        "cascade: merge_state",
        "norm: rmsnorm",
        "rope: apply_rope_pos_ids",
        "sampling: sampling_from_probs",
        "topk: top_k",
        "quantization: packbits",
        "pod f16 128 window",
        "batch pod bf16 64",
    }
]
REQUEST = request_of(*((op, params) for op, params, _, _ in TABLE), *((one.op, one.params) for one in SAMPLE))
Planned = Callable[[str], tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """version → (workspace base, response): one planner process for each version, however many tests ask."""

    @functools.cache
    def plan(version: str) -> tuple[Path, dict[str, Any]]:
        base = tmp_path_factory.mktemp(version)
        process, response = run(PLAN, REQUEST, base / "plan", environment(base, version))
        assert (process.returncode, process.stdout) == (0, "")
        return base, response

    return plan


@pytest.mark.parametrize("version", VERSIONS)
def test_planned_names(planned: Planned, version: str) -> None:
    base, response = planned(version)
    names = [kernel.get("name") or kernel["error"] for kernel in response["kernels"][: len(TABLE)]]
    assert names == [other.get(version, name) for _, _, name, other in TABLE]
    workspace = base / ".cache" / "flashinfer" / version / "90a"
    assert (response["flashinfer"], response["arch"], response["workspace"]) == (
        version,
        "90a",
        str(workspace),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_planning_leaves_the_cache_alone(planned: Planned, version: str) -> None:
    """Sources are generated, but nothing that a running server might be building is touched or made."""
    base, response = planned(version)
    workspace = Path(response["workspace"])
    before_flashinfer_wrote = {"flashinfer_jit.log", "generated"}
    if not (base / "asked").exists():  # the wrappers' test writes build.ninja as the server does
        assert {entry.name for entry in workspace.iterdir()} == before_flashinfer_wrote
    for kernel in response["kernels"][: len(TABLE)]:
        assert all(Path(source).is_file() for source in kernel["sources"])
        generated = [path for path in kernel["sources"] if path.startswith(response["workspace"] + "/generated/")]
        assert kernel["generated"] == generated
        assert kernel["aot"] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_wrappers_load_what_is_planned(planned: Planned, version: str) -> None:
    """FlashInfer's wrappers, called on the CPU, ask for these modules, with these very build.ninja texts and locks."""
    base, response = planned(version)
    env = environment(base, version, FLASHINFER_USE_CUDA_NORM="1")
    (base / "asked").mkdir()
    words = [BENCH / "wrapper_calls.py", base / "asked" / "answer.json", *(one.label for one in SAMPLE)]
    process = warm.run(warm.TORCH, [*map(str, words)], base, env)
    assert process.returncode == 0, process.stderr
    answers = json.loads((base / "asked" / "answer.json").read_text())
    missing = {label for label, answer in answers.items() if "missing" in answer}
    assert missing == ({"ranges bf16 128"} if version < "0.7.2" else set())
    wanted = zip(SAMPLE, response["kernels"][len(TABLE) :], strict=True)
    planned_so = {
        one.label: {key: kernel[key] for key in ("name", "ninja", "lock")}
        for one, kernel in wanted
        if one.label not in missing
    }
    assert {label: answer for label, answer in answers.items() if label not in missing} == planned_so


def test_arch_without_suffix_is_the_same_target(planned: Planned) -> None:
    """FlashInfer normalises 9.0 to 90a: the same directories, names and commands."""
    base, response = planned(NEWEST)
    env = environment(base, FLASHINFER_CUDA_ARCH_LIST="9.0")
    _, again = run(PLAN, {**REQUEST, "kernels": REQUEST["kernels"][: len(TABLE)]}, base / "again", env)
    assert again["kernels"] == response["kernels"][: len(TABLE)]
    some: dict[str, object] = {"kernels": [], "reads": {}}  # of fewer kernels fewer files are read
    assert {**again, **some} == {**response, **some}


def test_paths_of_a_kernel(planned: Planned) -> None:
    _, response = planned(NEWEST)
    page = response["kernels"][10]
    jit = response["workspace"] + "/cached_ops"
    assert {key: value for key, value in page.items() if key not in ("ninja", "sources")} == {
        "id": 10,
        "kind": "flashinfer",
        "name": "page",
        "generator": "flashinfer.jit.page:gen_page_module",
        "build_dir": f"{jit}/page",
        "library": f"{jit}/page/page.so",
        "ninja_file": f"{jit}/page/build.ninja",
        "lock": f"{jit}/tmp/page.lock",
        "generated": [],
        "aot": [],
        "params": {"nvfp4_4over6": False},  # from 0.7.4 on
    }
    assert [Path(source).name for source in page["sources"]] == ["page.cu", "flashinfer_page_binding.cu"]
    assert page["ninja"].startswith(f"ninja_required_version = 1.3\nname = page\ncuda_home = {response['cuda_home']}")


def test_params_are_said_in_full(planned: Planned) -> None:
    _, response = planned(NEWEST)
    prefill = response["kernels"][0]
    assert prefill["generator"] == "flashinfer.jit.attention.modules:_gen_batch_prefill_primary_module"
    assert prefill["params"] == {
        "backend": "fa2",
        "dtype_q": "bfloat16",
        "dtype_kv": "bfloat16",
        "dtype_o": "bfloat16",
        "dtype_idx": "int32",
        "head_dim_qk": 128,
        "head_dim_vo": 128,
        "pos_encoding_mode": 0,
        "use_sliding_window": False,
        "use_logits_soft_cap": False,
        "use_fp16_qk_reduction": False,
        "use_token_head_sf": False,  # from 0.7.4 on
    }


PROVIDER = """
from pathlib import Path
from types import SimpleNamespace
__version__ = {version!r}
HERE = Path(__file__).parent
def get_jit_cache_dir(): return str(HERE)
def get_jit_cache_providers():
    return [SimpleNamespace(provider_id="test", distribution="flashinfer-jit-cache", version=__version__,
                            jit_cache_dir=HERE, cuda_architectures=("sm90a",), modules=frozenset(["page"]))]
"""


@pytest.mark.parametrize(("version", "served"), [("0.6.18.post1", ["sm80", "sm90a"]), (NEWEST, ["sm90a"])])
def test_ahead_of_time_modules_are_named_with_the_gpus_that_load_them(
    tmp_path: Path, version: str, served: list[str]
) -> None:
    """A provider's page.so is what this server would load, before it looks at its cache.

    On a mixed host: up to 0.6 without asking, from 0.7 on where its provider's architectures fit.
    """
    package = tmp_path / "site" / "flashinfer_jit_cache"
    (package / "page").mkdir(parents=True)
    (package / "__init__.py").write_text(PROVIDER.format(version=version))
    (package / "page" / "page.so").touch()
    env = environment(tmp_path, version, FLASHINFER_CUDA_ARCH_LIST="8.0 9.0a")
    env["PYTHONPATH"] += f":{tmp_path / 'site'}"
    _, response = run(PLAN, request_of(("page", {}), ("rope", {})), tmp_path, env)
    found = {"path": str(package / "page" / "page.so"), "architectures": served}
    assert [kernel["aot"] for kernel in response["kernels"]] == [[found], []]


def test_registry(tmp_path: Path) -> None:
    """FlashInfer's own default set for sm90a, planned from an installed wheel in seconds."""
    process, response = run(REGISTRY, None, tmp_path, environment(tmp_path))
    assert (process.returncode, process.stdout) == (0, "")
    kernels = response["kernels"]
    failed = [kernel["label"] for kernel in kernels if "error" in kernel]
    assert failed == ["gen_moe_utils_module"]  # wants headers from the network
    assert len({kernel["label"] for kernel in kernels}) == len(kernels) == 683
    planned = [kernel for kernel in kernels if "error" not in kernel]
    assert f"{PREFILL}_kv_stride_equal" in {kernel["label"] for kernel in planned}
    assert all(kernel["ninja"] and kernel["name"] == kernel["label"] for kernel in planned)
    assert all(kernel["generator"] and isinstance(kernel["params"], dict) for kernel in planned)


def test_registry_goes_on_after_a_failure(tmp_path: Path) -> None:
    """0.6.7's registry wants nvidia-nvshmem, which is not installed here; without guards it ends there."""
    if importlib.util.find_spec("nvidia.nvshmem") is not None:
        pytest.skip("nvidia-nvshmem is installed")
    _, response = run(REGISTRY, None, tmp_path, environment(tmp_path, "0.6.7.post3"))
    failed = [kernel["error"]["message"] for kernel in response["kernels"] if "error" in kernel]
    assert failed == ["gen_nvshmem_module raised ModuleNotFoundError: No module named 'nvidia.nvshmem'"]
    assert len(response["kernels"]) == 791
