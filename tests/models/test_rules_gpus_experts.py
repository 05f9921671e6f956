"""Rules for several GPUs and for experts: what they were read from is still there; then what they give, and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.models import communication, experts, rules
from fitasks.models.derive import derive
from fitasks.models.facts import Routing, read_facts
from tests.models.rule_places import Place, places, source, unsaid
from tests.models.test_models import CONFIGS, answer, request
from tests.serving.flashinfer_wheels import sources_of, wheel_of

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.models.derive import Answer

Quotes = dict[Place, tuple[str, ...]]

_DEVICES = "sglang/srt/distributed/device_communicators"
_OVERRIDES, _FUSION = "sglang/srt/arg_groups/overrides.py", "sglang/srt/layers/flashinfer_comm_fusion.py"
_GPT_OSS, _MOE_LAYERS = "sglang/srt/models/gpt_oss.py", "sglang/srt/layers/moe"
_TOPK, _DEEPSEEK = "sglang/srt/layers/moe/topk.py", "sglang/srt/models/deepseek_v2.py"
_REDUCE, _KEYED = "sglang/jit_kernel/all_reduce.py", "sglang/kernels/ops/communication/all_reduce.py"
# Of both versions of SGLang; the platform is asked for in other words.
SGLANG: Quotes = {
    (_OVERRIDES, "_FLASHINFER_ALLREDUCE_FUSION_ARCHS"): (
        '"Qwen3MoeForCausalLM"',
        '"GptOssForCausalLM"',
        '"DeepseekV3ForCausalLM"',
    ),
    (_OVERRIDES, "_flashinfer_allreduce_fusion_auto_enable"): (
        "view.flashinfer_allreduce_fusion_backend is None",
        "and view.tp_size > 1",
        'and view.moe_a2a_backend == "none"',
    ),
    (_FUSION, "_resolve_backend"): ('return "mnnvl" return "trtllm"',),
    (_TOPK, "biased_grouped_topk_gpu"): (
        "envs.SGLANG_OPT_USE_JIT_KERNEL_GROUPED_TOPK.get()",
        "and fused_topk_deepseek is not None",
        "and is_power_of_two(num_experts) and topk_routed <= 8 and topk_group <= num_expert_group",
        "and topk_group * num_expert_group >= topk_routed",
        "(experts_per_group <= 32 and experts_per_group * topk_group <= 128)",
        "if num_expert_group > 1 else num_experts <= 384",
        "fused_topk_deepseek( gating_output.to(dtype=torch.float32),",
    ),
    (_GPT_OSS, "TinyGemmLinear.__init__"): (
        "_is_tinygemm_supported",
        "and self.weight.shape[0] % 16 == 0 and self.weight.shape[1] % 64 == 0 and self.weight.dtype == torch.bfloat16",
    ),
    (_GPT_OSS, "TinyGemmLinear.forward"): (
        "and x.shape[0] <= 128",
        "tinygemm_bf16(x, self.weight, out, self.bias, use_pdl=is_arch_support_pdl())",
    ),
    (_GPT_OSS, "GptOssSparseMoeBlock.__init__"): (
        "self.router = TinyGemmLinear( config.hidden_size, config.num_local_experts, bias=True,",
    ),
    (_TOPK, "select_experts"): ("topk_weights, topk_ids = biased_grouped_topk(",),
    (_DEEPSEEK, "DeepseekV2MoE"): (
        "renormalize=config.norm_topk_prob, use_grouped_topk=True, num_expert_group=config.n_group,",
        "correction_bias=self.gate.e_score_correction_bias,",
    ),
}
# Its own all-reduce, of both versions; then what each says in its own words.
_OWN: Quotes = {
    (f"{_DEVICES}/custom_all_reduce.py", "dispatch_custom_allreduce"): (
        "if _is_cuda and envs.SGLANG_OPT_USE_CUSTOM_ALL_REDUCE_V2.get():",
        "return CustomAllReduceV2",
    ),
    (f"{_DEVICES}/custom_all_reduce_v2.py", "can_use_custom_all_reduce_v2"): ("return full_nvlink is True",),
}
_CLASS: Place = (f"{_DEVICES}/custom_all_reduce_v2.py", "CustomAllReduceV2")


def _own(file: str, prefix: str) -> Quotes:
    return _OWN | {
        (file, "custom_all_reduce"): ("module = get_all_reduce_module(input.dtype, comm.world_size)",),
        (file, "get_all_reduce_module"): ("(dtype: torch.dtype, world_size: int)", "return load_jit("),
        (file, "Communicator"): (f'lazy_register_class("{prefix}.Communicator", _init_communicator)',),
        (file, "IPCManager"): ('lazy_register_class("sgl.IPCManager", _init_ipc_manager)',),
    }


OWN: dict[str, Quotes] = {
    "0.5.16": _own(_REDUCE, "sgl")
    | {
        _CLASS: ("self.obj = Communicator(", "self._ipc_manager = IPCManager()", "custom_all_reduce(self.obj, input,"),
        (f"{_DEVICES}/custom_all_reduce_v2.py", "can_use_custom_all_reduce_v2"): (
            "supported_world_size=list(range(2, 9)),",
            "return full_nvlink is True",
        ),
    },
    "0.5.23": _own(_KEYED, "sgl.distributed")
    | {
        _CLASS: ("push_plane = PushPlane(", "self._ipc_manager = IPCManager()", "return custom_all_reduce( self.obj,"),
        (_KEYED, "PushPlane"): ('lazy_register_class("sgl.distributed.PushPlane", _init_communicator)',),
        (f"{_DEVICES}/configs/custom_all_reduce_v2.py", "_sm90_configs"): tuple(
            f"{gpus}: config(" for gpus in range(2, 9)
        ),
    },
}
_CONFIG, _PASS = "vllm/config/vllm.py", "vllm/compilation/passes/fusion/allreduce_rms_fusion.py"
_ALL_REDUCE = "vllm/distributed/device_communicators/flashinfer_all_reduce.py"
_COMMUNICATOR = "vllm/distributed/device_communicators/cuda_communicator.py"
_MOE, _QUANTIZATION = "vllm/model_executor/layers/fused_moe", "vllm/model_executor/layers/quantization/fp8.py"
VLLM: Quotes = {
    (_CONFIG, "enable_allreduce_rms_fusion"): (
        "cfg.parallel_config.tensor_parallel_size > 1 and current_platform.is_cuda() and has_flashinfer() and (",
        "current_platform.is_device_capability(90)",
    ),
    (_PASS, "AllReduceFusionPass"): ("if get_fi_ar_workspace(**workspace_kwargs) is None:",),
    (_ALL_REDUCE, "_resolve_fi_ar_backend"): ('backend = "mnnvl"', "allow_trtllm_fallback = "),
    (_ALL_REDUCE, "get_fi_ar_workspace"): ('backend = "trtllm" _fi_ar_workspace = _get_or_create(backend)',),
    (_COMMUNICATOR, "CudaCommunicator"): ("self.fi_ar_comm = FlashInferAllReduce(",),
    (f"{_MOE}/oracle/fp8.py", "_get_priority_backends"): (
        "Fp8MoeBackend.AITER, Fp8MoeBackend.FLASHINFER_TRTLLM, Fp8MoeBackend.FLASHINFER_CUTLASS,",
        "_move_to_front(_AVAILABLE_BACKENDS, Fp8MoeBackend.TRITON)",
    ),
    (f"{_MOE}/oracle/fp8.py", "select_fp8_moe_backend"): ("for backend in AVAILABLE_BACKENDS:",),
    (f"{_MOE}/experts/flashinfer_cutlass_moe.py", "FlashInferExperts"): (
        "p.is_device_capability(90)",
        "(kFp8StaticTensorSym, kFp8StaticTensorSym), ] and p.has_device_capability(90)",
    ),
    (_QUANTIZATION, "Fp8MoEMethod"): ('activation_scheme == "static"', "weight_key = kFp8StaticTensorSym"),
}
# Why nothing else is given: what no rule cites.
VLLM_NOTHING: Quotes = {
    (_PASS, "FI_ALLREDUCE_FUSION_MAX_SIZE_MB"): ("90: { 2: 64, 4: 2, 8: 0.5, }, 100: {",),
    ("vllm/config/compilation.py", "PassConfig.flashinfer_max_size"): ("FI_SUPPORTED_WORLD_SIZES = [2, 4, 8, 16]",),
    (_ALL_REDUCE, "FlashInferAllReduce.__init__"): ("PassConfig.default_fi_allreduce_fusion_max_size_mb().get(",),
    (f"{_MOE}/oracle/unquantized.py", "_get_priority_backends"): (
        "UnquantizedMoeBackend.FLASHINFER_CUTLASS, UnquantizedMoeBackend.TRITON,",
        "if current_platform.is_device_capability_family(90): _move_to_back(",
        "_move_to_back(_AVAILABLE_BACKENDS, UnquantizedMoeBackend.FLASHINFER_CUTLASS) if moe_config",
    ),
    (f"{_MOE}/experts/trtllm_fp8_moe.py", "_supports_current_device"): ("and p.is_device_capability_family(100)",),
}
SGLANG_NOTHING: Quotes = {
    ("sglang/srt/layers/quantization/unquant.py", "UnquantizedFusedMoEMethod.create_moe_runner"): (
        "else: backend = MoeRunnerBackend.TRITON",
    ),
    ("sglang/srt/layers/quantization/fp8.py", "Fp8MoEMethod.create_moe_runner"): (
        "moe_runner_backend = MoeRunnerBackend.DEEP_GEMM",
        "else: moe_runner_backend = MoeRunnerBackend.TRITON",
    ),
    # gpt-oss: what its layers take of SGLang's own JIT, and that its experts take none.
    (_GPT_OSS, "GptOssAttention"): (
        "rotary_dim=self.head_dim,",
        "if enable_fused_set_kv_buffer(forward_batch)",
        "save_kv_cache=not enable_fused_set_kv_buffer(forward_batch),",
    ),
    ("sglang/srt/models/utils.py", "enable_fused_set_kv_buffer"): ("and not isinstance(pool, SWAKVPool)",),
    ("sglang/srt/mem_cache/swa_memory_pool.py", "SWAKVPool.set_kv_buffer"): ("pool.set_kv_buffer(",),
    (f"{_MOE_LAYERS}/fused_moe_triton/triton_kernels_moe.py", "triton_kernel_fused_experts_with_bias"): (
        'FnSpecs("swiglu", swiglu_fn, ("alpha", "limit"), reduction_n=2)',
    ),
    ("sglang/srt/layers/quantization/mxfp4.py", "Mxfp4MoEMethod"): ("get_moe_runner_backend().is_flashinfer_mxfp4()",),
}
# What FlashInfer loads for it, in the versions that these engines want.
_COMM = "flashinfer/comm"
FLASHINFER: Quotes = {
    (f"{_COMM}/allreduce.py", "create_allreduce_fusion_workspace"): (
        'if actual_backend == "trtllm": return TRTLLMAllReduceFusionWorkspace(',
        "return MNNVLAllReduceFusionWorkspace(",
    ),
    (f"{_COMM}/allreduce.py", "TRTLLMAllReduceFusionWorkspace.__init__"): (
        "self._internal_workspace = trtllm_create_ipc_workspace_for_all_reduce_fusion(",
    ),
    (f"{_COMM}/trtllm_ar.py", "trtllm_create_ipc_workspace_for_all_reduce_fusion"): ("trtllm_lamport_initialize(",),
    (f"{_COMM}/trtllm_ar.py", "get_trtllm_comm_module"): ("gen_trtllm_comm_module().build_and_load()",),
    (f"{_COMM}/allreduce.py", "allreduce_fusion"): ("= trtllm_mnnvl_fused_allreduce_add_rmsnorm(",),
    (f"{_COMM}/trtllm_mnnvl_ar.py", "trtllm_mnnvl_fused_allreduce_add_rmsnorm"): (
        "module = get_trtllm_mnnvl_comm_module()",
    ),
    (f"{_COMM}/trtllm_mnnvl_ar.py", "get_trtllm_mnnvl_comm_module"): (
        "gen_trtllm_mnnvl_comm_module().build_and_load()",
    ),
    ("flashinfer/gemm/routergemm.py", "tinygemm_bf16"): ("get_tinygemm2_module().tinygemm2_op(",),
    ("flashinfer/gemm/routergemm.py", "get_tinygemm2_module"): ("gen_tinygemm2_module().build_and_load()",),
    ("flashinfer/fused_moe/fused_routing_dsv3.py", "get_dsv3_fused_routing_module"): (
        "gen_dsv3_fused_routing_module(",
    ),
    ("flashinfer/fused_moe/core.py", "get_cutlass_fused_moe_module"): (
        'elif backend == "90": module = gen_cutlass_fused_moe_sm90_module(use_fast_build).build_and_load()',
    ),
}


def test_every_place_that_a_rule_cites_is_quoted() -> None:
    cited = places((*communication.MODULES, *communication.UNKNOWN, *experts.MODULES, *experts.UNKNOWN))
    assert cited == {*SGLANG, *VLLM, *(place for quotes in OWN.values() for place in quotes)}


@pytest.mark.parametrize("version", rules.READ["sglang"])
def test_sglang_still_says_so(version: str) -> None:
    root = wheel_of("sglang", f"sglang=={version}")
    assert [*unsaid(root, SGLANG), *unsaid(root, SGLANG_NOTHING), *unsaid(root, OWN[version])] == []
    given = _OVERRIDES if version == "0.5.16" else "sglang/srt/arg_groups/model_overrides/gpt_oss.py"
    served = ('overrides["dtype"] = "bfloat16"', 'overrides["moe_runner_backend"] = "triton_kernel"')
    assert unsaid(root, {(given, "_gpt_oss_overrides"): served}) == []
    assert "kv_cache_quant_algo" not in source(root, ("sglang/srt/layers/quantization/mxfp4.py", "Mxfp4Config"))
    asked = source(root, (_OVERRIDES, "_flashinfer_allreduce_fusion_auto_enable"))
    assert ("is_sm90_supported()" in asked) == (version == "0.5.16") == ("get_platform().is_sm90" not in asked)


@pytest.mark.parametrize("version", rules.READ["vllm"])
def test_vllm_still_says_so(version: str) -> None:
    root = sources_of("vllm", f"vllm=={version}")
    assert [*unsaid(root, VLLM), *unsaid(root, VLLM_NOTHING)] == []
    default = source(root, ("vllm/envs.py", "VLLM_ALLREDUCE_USE_FLASHINFER"))
    assert default == f"VLLM_ALLREDUCE_USE_FLASHINFER: bool = {version == '0.33.0'}"


@pytest.mark.parametrize("version", ["0.6.14", "0.7.2.post1"])
def test_flashinfer_still_says_so(version: str) -> None:
    assert unsaid(sources_of("flashinfer", f"flashinfer-python=={version}"), FLASHINFER) == []


OPS = {
    "trtllm_comm",
    "trtllm_mnnvl_comm",
    "dsv3_fused_routing",
    "cutlass_fused_moe_sm90",
    "tinygemm2",
    "get_all_reduce_module",
    "_init_communicator",
    "_init_ipc_manager",
}


def given(told: Answer) -> list[str]:
    """What several GPUs and experts make it load."""
    return [name for entry in told.entries if (name := entry.op.rpartition(":")[2]) in OPS]


REDUCE = ["get_all_reduce_module", "_init_communicator", "_init_ipc_manager"]


@pytest.mark.parametrize(
    ("name", "gpus", "architecture", "expected"),
    [
        ("llama-3.1-8b", 1, "9.0", []),
        ("llama-3.1-8b", 4, "9.0", REDUCE),
        ("llama-3.1-8b", 4, "8.0", REDUCE),
        ("llama-3.1-8b", 4, "8.9", []),
        ("llama-3.1-8b", 16, "9.0", []),
        ("qwen3-30b-a3b", 1, "9.0", []),
        ("qwen3-30b-a3b", 4, "9.0", ["trtllm_comm", *REDUCE]),
        ("qwen3-30b-a3b", 4, "8.0", REDUCE),
        ("gpt-oss-20b", 2, "9.0", ["trtllm_comm", *REDUCE, "tinygemm2"]),
        ("gpt-oss-20b", 1, "9.0", ["tinygemm2"]),
        ("gpt-oss-20b", 2, "8.0", REDUCE),
        ("deepseek-v3", 8, "9.0", ["trtllm_comm", *REDUCE, "dsv3_fused_routing"]),
        ("deepseek-v3", 1, "8.9", ["dsv3_fused_routing"]),
        ("mixtral-8x7b", 2, "9.0", REDUCE),
    ],
)
def test_sglang(name: str, gpus: int, architecture: str, expected: list[str]) -> None:
    told = answer(name, architecture, version="0.5.16", tensor_parallel=gpus)
    dtype = read_facts(CONFIGS / f"{name}.json").dtype or name == "gpt-oss-20b"  # which SGLang serves in bfloat16
    assert given(told) == [one for one in expected if dtype or one not in REDUCE]
    said = [dict(entry.params) for entry in told.entries if "get_all_reduce" in entry.op]
    assert said == [{"dtype": "bfloat16", "world_size": gpus}] * len(said)


@pytest.mark.parametrize(("engine", "flag"), [("sglang", "--ep-size"), ("vllm", "--enable-expert-parallel")])
def test_spread_experts_are_not_known(engine: str, flag: str) -> None:
    said = [one for one in answer("mixtral-8x7b", "9.0", engine, tensor_parallel=2).unknown if "spread" in one]
    assert len(said) == 1
    assert flag in said[0]
    for name, gpus in (("mixtral-8x7b", 1), ("llama-3.1-8b", 2)):
        assert not any("spread" in one for one in answer(name, "9.0", engine, tensor_parallel=gpus).unknown)


def test_sglang_0_5_23_has_its_functions_elsewhere() -> None:
    told = answer("qwen3-30b-a3b", "9.0", version="0.5.23", tensor_parallel=4)
    assert given(told) == ["trtllm_comm", *REDUCE]
    own = [entry.op.partition(":")[0] for entry in told.entries if entry.rule in communication.MODULES]
    assert own == ["trtllm_comm", *["sglang.kernels.ops.communication.all_reduce"] * 3]


@pytest.mark.parametrize("version", ["0.26.0", "0.33.0"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gemma-2-9b"])
def test_vllm_on_hopper(name: str, version: str) -> None:
    sizes = {gpus: given(answer(name, "9.0", "vllm", version=version, tensor_parallel=gpus)) for gpus in (1, 2, 6, 8)}
    both = ["trtllm_mnnvl_comm", "trtllm_comm"]
    assert sizes == {1: [], 2: both, 6: [], 8: both}
    assert given(answer(name, "8.0", "vllm", version=version, tensor_parallel=2)) == []


@pytest.mark.parametrize(
    ("config", "quantization", "expected"),
    [
        ({}, "none", []),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", []),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8-static", ["cutlass_fused_moe_sm90"]),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-blocks", []),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "other", []),
        ({"quant_method": "mxfp4"}, "mxfp4", []),
        ({"quant_method": ["mxfp4"]}, "other", []),
        ([7], "other", []),
    ],
)
def test_experts_of_vllm(tmp_path: Path, config: Any, quantization: str, expected: list[str]) -> None:
    text = (CONFIGS / "mixtral-8x7b.json").read_text()
    whole = json.loads(text) | {"quantization_config": config}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    facts = read_facts(tmp_path)
    assert facts.quantization == quantization
    told = derive(facts, request("mixtral-8x7b", "vllm", version="0.26.0"), "9.0")
    assert given(told) == expected
    assert any("its experts' kernels" in one for one in told.unknown) == (quantization in {"mxfp4", "other"})


@pytest.mark.parametrize(
    ("change", "kernel"),
    [
        ({}, True),
        ({"experts": 384, "groups": 1, "chosen_groups": 1, "top_k": 1}, False),  # Kimi K2: no power of two
        ({"experts": 256, "groups": 1, "chosen_groups": 1, "top_k": 1}, True),
        ({"experts": 512, "groups": 8}, False),  # 64 in each group
        ({"chosen_groups": 8}, False),  # 256 experts in the chosen groups
        ({"top_k": 9}, False),
        ({"groups": 16, "chosen_groups": 17}, False),
        ({"biased": False}, False),
        ({"renormalized": False}, False),
    ],
)
def test_which_routing_is_flashinfers(change: dict[str, Any], kernel: bool) -> None:
    deepseek = Routing(experts=256, groups=8, chosen_groups=4, top_k=8, biased=True, renormalized=True)
    facts = read_facts(CONFIGS / "deepseek-v3.json")
    assert facts.routing == deepseek
    told = derive(replace(facts, routing=replace(deepseek, **change)), request("deepseek-v3"), "9.0")
    assert (given(told) == ["dsv3_fused_routing"]) == kernel
    assert any("which kernel chooses" in one for one in told.unknown) != kernel


@pytest.mark.parametrize(
    ("change", "kernel"),
    [
        ({}, True),
        ({"experts": 128}, True),  # gpt-oss-120b
        ({"experts": 20}, False),
        ({"hidden": 2896}, False),
        ({"experts": 0}, False),
        ({"quantization": "none", "quantized": False, "dtype": "float16"}, False),
        ({"quantization": "none", "quantized": False, "dtype": "bfloat16"}, True),
    ],
)
def test_which_router_is_flashinfers(change: dict[str, Any], kernel: bool) -> None:
    facts = replace(read_facts(CONFIGS / "gpt-oss-20b.json"), **change)
    assert (facts.fields["small_router"], facts.dtype) == ("num_local_experts", change.get("dtype", ""))
    for version in rules.READ["sglang"]:
        told = derive(facts, request("gpt-oss-20b", version=version), "9.0")
        assert (given(told) == ["tinygemm2"]) == kernel
