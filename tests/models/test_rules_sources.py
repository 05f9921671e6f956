"""Rules rest on the engines' sources: what each was read from is still there, in the wheel of the version it names."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.models import communication, experts, rules, sglang_jit, sglang_norm, vllm_hopper
from fitasks.models.derive import derive
from fitasks.models.facts import read_facts
from tests.models.rule_places import Place, places, source, unsaid
from tests.models.test_models import CONFIGS, answer, request
from tests.serving.flashinfer_wheels import sources_of, wheel_of
from tests.serving.planner_runs import PLAN, environment, request_of, run
from tests.serving.sglang_stubs import stubbed

if TYPE_CHECKING:
    from pathlib import Path

# What was read at each place, without regard to how it is broken into lines.
SGLANG: dict[Place, tuple[str, ...]] = {
    ("sglang/srt/layers/rotary_embedding/base.py", "RotaryEmbedding.__init__"): (
        "(not (_is_cuda) or self.head_size not in [64, 128, 256, 512])",
        "from sglang.jit_kernel.rope import rotary_embedding",
        "self.use_fallback_kernel = True",
    ),
    ("sglang/srt/layers/rotary_embedding/base.py", "RotaryEmbedding.forward_cuda"): (
        "if not self.use_fallback_kernel:",
        "apply_rope_with_cos_sin_cache_inplace(",
        "is_neox=self.is_neox_style,",
    ),
    ("sglang/jit_kernel/rope.py", "apply_rope_inplace"): (
        "rope_dim = rope_dim or cos_sin_cache.size(-1)",
        "_jit_fused_rope_module(is_neox, rope_dim, q.dtype)",
    ),
    ("sglang/jit_kernel/rope.py", "_jit_fused_rope_module"): ("(is_neox: bool, rope_dim: int, dtype: torch.dtype)",),
    ("sglang/jit_kernel/rope.py", "_jit_rotary_embedding_module"): ("def _jit_rotary_embedding_module() -> Module:",),
    ("sglang/srt/mem_cache/memory_pool.py", "KVCache.__init__"): (
        "if dtype in (torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e4m3fnuz):",
        "self.store_dtype = torch.uint8",
        "else: self.store_dtype = dtype",
    ),
    ("sglang/srt/mem_cache/memory_pool.py", "MHATokenToKVPool.__init__"): (
        "self.row_dim = self.head_num * self.head_dim",
        "self.same_kv_dim = self.head_dim == self.v_head_dim",
    ),
    ("sglang/srt/mem_cache/memory_pool.py", "_set_kv_buffer_impl"): (
        "row_bytes = row_dim * store_dtype.itemsize",
        "same_kv_dim and can_use_store_cache(row_bytes)",
    ),
    ("sglang/srt/configs/model_config.py", "ModelConfig.get_num_kv_heads"): (
        "return max(1, total_num_kv_heads // tensor_parallel_size)",
    ),
    ("sglang/jit_kernel/kvcache.py", "can_use_store_cache"): ("if size % 4 != 0:", "_jit_kvcache_module(size)"),
    ("sglang/jit_kernel/kvcache.py", "_jit_kvcache_module"): ("(row_bytes: int)",),
    ("sglang/srt/model_executor/forward_batch_info.py", "ForwardBatch.init_new"): (
        "ret.positions = ret.spec_info.positions",
        "if ret.positions is None: ret.positions = clamp_position(batch.seq_lens)",
    ),
    ("sglang/srt/managers/schedule_batch.py", "ScheduleBatch.prepare_for_extend"): (
        "seq_lens_tensor = torch.tensor(seq_lens, dtype=torch.int64,",
        "self.seq_lens = seq_lens_tensor",
    ),
    ("sglang/jit_kernel/clamp_position.py", "clamp_position_cuda"): ("_jit_clamp_position_module(seq_lens.dtype)",),
    ("sglang/jit_kernel/clamp_position.py", "_jit_clamp_position_module"): ("(dtype: torch.dtype)",),
    ("sglang/srt/layers/activation.py", "SiluAndMul.forward_cuda"): ("silu_and_mul(x, out)",),
    ("sglang/srt/layers/activation.py", "GeluAndMul._forward_impl"): ("gelu_tanh_and_mul(x, out)",),
    ("sglang/jit_kernel/activation.py", "_run_activation_inplace"): ("_jit_activation_module(input.dtype)",),
    ("sglang/jit_kernel/activation.py", "_jit_activation_module"): ("(dtype: torch.dtype)",),
    ("sglang/srt/models/qwen3.py", "Qwen3Attention.forward_prepare_native"): ("q, k = apply_qk_norm(",),
    ("sglang/srt/models/utils.py", "apply_qk_norm"): (
        "and (q_eps == k_eps)",
        "and not envs.SGLANG_ENABLE_DETERMINISTIC_INFERENCE.get()",
        'cuda_graph_config.prefill.tc_compiler != "inductor"',
        "and can_use_fused_inplace_qknorm(head_dim, q.dtype)",
    ),
    ("sglang/jit_kernel/norm.py", "can_use_fused_inplace_qknorm"): (
        "if head_dim not in [64, 128, 256, 512, 1024]:",
        "_jit_qknorm_module(head_dim, dtype)",
    ),
    ("sglang/jit_kernel/norm.py", "_jit_qknorm_module"): ("(head_dim: int, dtype: torch.dtype)",),
    ("sglang/srt/mem_cache/kv_cache_dtype.py", "configure_kv_cache_dtype"): (
        'kv_cache_quant_algo = getattr(quant_config, "kv_cache_quant_algo", None)',
        "else: kv_cache_dtype = model_dtype",
    ),
    ("sglang/srt/models/utils.py", "enable_fused_set_kv_buffer"): ("_is_cuda and pool.dtype == torch.bfloat16",),
    ("sglang/srt/models/qwen3_moe.py", "Qwen3MoeAttention.apply_qk_norm_rope"): (
        "use_fused = self.use_fused_qk_norm_rope and qkv.dtype == torch.bfloat16",
        "q, k = apply_qk_norm(",
        "if enable_fused_set_kv_buffer(forward_batch)",
    ),
    ("sglang/srt/layers/quantization/unquant.py", "UnquantizedFusedMoEMethod.create_moe_runner"): (
        "else: backend = MoeRunnerBackend.TRITON",
    ),
    ("sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe.py", "_fused_moe_kernel_sequence"): (
        "silu_and_mul(intermediate_cache1.view(-1, N), intermediate_cache2)",
    ),
}
# What no rule cites, because rules say it by leaving others out: how the models call these layers.
MODELS: dict[Place, tuple[str, ...]] = {
    ("sglang/srt/models/llama.py", "LlamaMLP"): ('if hidden_act != "silu":', "self.act_fn = SiluAndMul()"),
    ("sglang/srt/models/llama.py", "LlamaAttention"): (
        'partial_rotary_factor = getattr(config, "partial_rotary_factor", 1)',
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/llama.py", "LlamaDecoderLayer"): ('getattr(config, "rope_is_neox_style", True)',),
    ("sglang/srt/models/gemma2.py", "Gemma2MLP"): ("self.act_fn = GeluAndMul()",),
    ("sglang/srt/models/gemma2.py", "Gemma2Attention"): (
        "rotary_dim=self.head_dim,",
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/mistral.py", "MistralForCausalLM"): ("class MistralForCausalLM(LlamaForCausalLM): pass",),
    ("sglang/srt/models/qwen2.py", "Qwen2MLP"): ("self.act_fn = SiluAndMul()",),
    ("sglang/srt/models/qwen2.py", "Qwen2Attention"): (
        "rotary_dim=self.head_dim,",
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/qwen3.py", "Qwen3Attention"): ("rotary_dim=self.head_dim,",),
    ("sglang/srt/models/qwen3_moe.py", "Qwen3MoeAttention"): (
        "rotary_dim=self.head_dim,",
        "get_server_args().enable_fused_qk_norm_rope",
        "save_kv_cache = must_save_kv or not ( enable_fused_set_kv_buffer(forward_batch)",
    ),
    ("sglang/srt/server_args.py", "ServerArgs"): (
        'enable_fused_qk_norm_rope: A[ bool, "Enable fused qk normalization and rope rotary embedding.", ] = False',
    ),
    ("sglang/srt/models/mixtral.py", "MixtralAttention"): (
        "rotary_dim=self.head_dim,",
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/mixtral.py", "MixtralMoE"): ("self.experts = FusedMoE(",),
    ("sglang/srt/layers/moe/fused_moe_triton/layer.py", "FusedMoE.__init__"): ('activation: str = "silu",',),
    ("sglang/srt/model_loader/utils.py", "get_model_architecture"): (
        'and "MixtralForCausalLM" in architectures ): architectures = ["QuantMixtralForCausalLM"]',
    ),
    ("sglang/jit_kernel/rope.py", "apply_rope_inplace_with_kvcache"): (
        "module = _jit_fused_rope_module(is_neox, rope_dim, q.dtype)",
    ),
    ("sglang/srt/models/mixtral.py", "MixtralDecoderLayer"): ("self.block_sparse_moe = MixtralMoE(",),
    ("sglang/srt/layers/rotary_embedding/factory.py", "get_rope"): (
        'if scaling_type == "llama3":',
        'if "mrope_section" in rope_scaling:',
        'elif rope_scaling.get("use_fope", False):',
        'elif scaling_type == "linear":',
        'elif scaling_type == "dynamic":',
        'elif scaling_type == "yarn":',
    ),
}
# The choice of an attention backend, and what FlashInfer's loads, of both versions; the first place has moved.
DEFAULT: dict[str, Place] = {
    "0.5.16": ("sglang/srt/server_args.py", "ServerArgs._get_default_attn_backend"),
    "0.5.23": ("sglang/srt/arg_groups/model_override_base.py", "get_default_attn_backend"),
}
CHOSEN = (
    "is_no_spec_infer_or_topk_one(",
    '): return "fa3"',
    'not model_config.has_attention_sinks: return "flashinfer" return "triton"',
)
_OVERRIDES = "sglang/srt/arg_groups/overrides.py"
_BACKEND, _CLASS = "sglang/srt/layers/attention/flashinfer_backend.py", "FlashInferAttnBackend"
ATTENTION: dict[Place, tuple[str, ...]] = {
    (_OVERRIDES, "_attention_backend_fa3_fp8_fallback"): (
        'view.attention_backend == "fa3" and view.kv_cache_dtype == "fp8_e5m2"',
        'return {"attention_backend": "triton"}',
    ),
    (_OVERRIDES, "_sampling_backend_default"): ('"sampling_backend": ( "flashinfer" if',),
    (_BACKEND, f"{_CLASS}.__init__"): (
        'self.prefill_backend = "fa2" self.decode_backend = "fa2"',
        'fmha_backend = "auto"',
        'BatchPrefillWithRaggedKVCacheWrapper( self.workspace_buffer, "NHD", backend=fmha_backend',
        "backend=self.prefill_backend,",
        "backend=self.decode_backend, use_tensor_cores=self.decode_use_tensor_cores,",
    ),
    (_BACKEND, "should_use_tensor_core"): (
        "if kv_cache_dtype in (torch.float8_e4m3fn, torch.float8_e5m2): return True",
        "return gqa_group_size >= 4",
    ),
    (_BACKEND, "_safe_merge_state"): ("return merge_state(v_a, s_a, v_b, s_b)",),
}
# Of both versions of SGLang, with the sgl_kernel that each wants; Gemma 3's norm of the newer one alone.
KERNEL = {"0.5.16": "0.4.5", "0.5.23": "0.4.10"}
_LAYERNORM, _ELEMENTWISE = "sglang/srt/layers/layernorm.py", "sgl_kernel/elementwise.py"
NORM: dict[Place, tuple[str, ...]] = {
    (_LAYERNORM, "RMSNorm.forward_cuda"): (
        "fused_add_rmsnorm(x, residual, self.weight.data, self.variance_epsilon)",
        "= rmsnorm(x, self.weight.data, self.variance_epsilon)",
    ),
    (_LAYERNORM, "GemmaRMSNorm._forward_impl"): (
        "gemma_fused_add_rmsnorm(",
        "= gemma_rmsnorm(x, self.weight.data, self.variance_epsilon)",
    ),
    (_ELEMENTWISE, "rmsnorm"): ("and not torch.compiler.is_dynamo_compiling()", "_flashinfer_norm.rmsnorm("),
    (_ELEMENTWISE, "fused_add_rmsnorm"): ("_flashinfer_norm.fused_add_rmsnorm(",),
    (_ELEMENTWISE, "gemma_rmsnorm"): ("_flashinfer_norm.gemma_rmsnorm(",),
    (_ELEMENTWISE, "gemma_fused_add_rmsnorm"): ("_flashinfer_norm.gemma_fused_add_rmsnorm(",),
}
GEMMA3: Place = (_LAYERNORM, "Gemma3RMSNorm.forward_cuda")
GEMMA3_NORM = {
    "0.5.16": ("return self.forward_native(x)",),
    "0.5.23": ("return gemma_rmsnorm(x, self.weight.data, self.eps)",),
}
# What both versions of vLLM say, and what one of them does.
_VLLM = "vllm/v1/attention/backends/flashinfer.py"
_BUILDER = "FlashInferMetadataBuilder"
VLLM: dict[Place, tuple[str, ...]] = {
    (_VLLM, f"{_BUILDER}.__init__"): (
        "self.use_trtllm_decode_attention = can_use_xqa_or_trtllm_gen_decode",
        "self.q_data_type_prefill = self.get_q_data_type(is_prefill=True)",
    ),
    (_VLLM, f"{_BUILDER}.build"): (
        "prefill_use_trtllm = causal and use_trtllm_attention(",
        "q_data_type=self.q_data_type_prefill, kv_data_type=self.kv_cache_dtype, o_data_type=o_dtype,",
        "q_data_type=self.q_data_type_decode, kv_data_type=self.kv_cache_dtype, o_data_type=o_dtype,",
    ),
    (_VLLM, f"{_BUILDER}._get_prefill_wrapper"): ('else "auto" ',),
    (_VLLM, f"{_BUILDER}._get_decode_wrapper"): ("use_tensor_cores=True, backend=backend,", 'else "auto" '),
    (_VLLM, f"{_BUILDER}.get_q_data_type"): (
        "and not is_prefill and force_use_trtllm_attention() is not False",
        'and cache_dtype.startswith("fp8") ): return self.model_config.dtype',
        "return FlashInferBackend.get_dtype_for_flashinfer(cache_dtype)",
        "return self.kv_cache_spec.dtype",
    ),
    (_VLLM, f"{_BUILDER}._get_flashinfer_trtllm_api_decode_kernel"): (
        "is_device_capability(",
        "90",
        "return FlashInferDecodeKernel.XQA",
    ),
    ("vllm/utils/flashinfer.py", "has_nvidia_artifactory"): (
        "if has_flashinfer_cubin(): return True",
        "response = requests.get(FLASHINFER_CUBINS_REPOSITORY, timeout=5)",
    ),
    ("vllm/utils/flashinfer.py", "supports_trtllm_attention"): (
        "if not has_nvidia_artifactory(): return False",
        "return not is_prefill",
    ),
    ("vllm/utils/flashinfer.py", "can_use_trtllm_attention"): ("num_qo_heads % num_kv_heads == 0",),
    ("vllm/config/cache.py", "CacheConfig"): ("DEFAULT_BLOCK_SIZE: ClassVar[int] = 16",),
}
# How it comes to FlashInfer at all.
_FLASH_ATTN = "vllm/v1/attention/backends/flash_attn.py"
CHOICE: dict[Place, tuple[str, ...]] = {
    ("vllm/platforms/cuda.py", "_get_backend_priorities"): (
        "AttentionBackendEnum.FLASH_ATTN, AttentionBackendEnum.FLASHINFER, AttentionBackendEnum.TRITON_ATTN,",
    ),
    (_FLASH_ATTN, "FlashAttentionBackend.supports_head_size"): (
        "if head_size <= 256: return True",
        "if is_fa_version_supported(4): return head_size <= 512",
    ),
    ("vllm/vllm_flash_attn/flash_attn_interface.py", "_is_fa4_supported"): ("is_device_capability_family(90)",),
    ("vllm/v1/sample/ops/topk_topp_sampler.py", "flashinfer_sample"): (
        "flashinfer.sampling.top_p_sampling_from_probs(",
    ),
}
ONLY: dict[str, dict[Place, tuple[str, ...]]] = {
    "0.26.0": {
        (_VLLM, f"{_BUILDER}.__init__"): (
            "if current_platform.is_device_capability(90) and any( params.window_left != -1",
            'raise NotImplementedError( "FlashInfer backend on SM90 currently crashes with "',
        ),
    },
    "0.33.0": {(_VLLM, "_is_xqa_head_dim_supported"): ("return 16 <= head_dim <= 256 and head_dim % 16 == 0",)},
}

# What FlashInfer, in the version that vLLM wants, makes of it.
WANTED = {"0.26.0": "0.6.14", "0.33.0": "0.7.2.post1"}
FLASHINFER: dict[Place, tuple[str, ...]] = {
    ("flashinfer/utils.py", "determine_attention_backend"): (
        "if is_sm90a_supported(device) and is_fa3_backend_supported(",
        'return "fa3"',
        'return "fa2"',
    ),
    ("flashinfer/utils.py", "is_fa3_backend_supported"): (
        "if dtype_kv in {torch.float8_e4m3fn, torch.float8_e5m2} and dtype_q not in {",
    ),
    ("flashinfer/prefill.py", "BatchPrefillWithPagedKVCacheWrapper"): (
        "self._backend = determine_attention_backend(",
        "window_left >= 0,",
        "logits_soft_cap > 0,",
    ),
    ("flashinfer/decode.py", "BatchDecodeWithPagedKVCacheWrapper"): (
        "} & {q_data_type, kv_data_type}: self._backend = determine_attention_backend(",
        'else: self._backend = "fa2"',
        "self._cached_module = get_batch_prefill_module( self._backend, q_data_type, kv_data_type, o_data_type,",
    ),
    ("flashinfer/xqa.py", "xqa"): (
        "q.dtype, k_cache.dtype, page_size, head_dim, head_group_ratio, use_sliding_window, output.dtype, q_seq_len,",
    ),
}


def test_every_place_that_a_rule_of_sglangs_jit_cites_is_quoted() -> None:
    assert places((*sglang_jit.MODULES, *sglang_jit.UNKNOWN)) == set(SGLANG)


@pytest.mark.parametrize("place", [*SGLANG, *MODELS], ids=lambda place: place[1])
def test_sglang_0_5_16_still_says_so(place: Place) -> None:
    assert unsaid(wheel_of("sglang", "sglang==0.5.16"), {place: (SGLANG | MODELS)[place]}) == []


@pytest.mark.parametrize("version", rules.READ["sglang"])
def test_sglang_still_chooses_attention_so(version: str) -> None:
    root = wheel_of("sglang", f"sglang=={version}")
    assert [*unsaid(root, {DEFAULT[version]: CHOSEN}), *unsaid(root, ATTENTION)] == []


def test_every_place_that_a_rule_of_norm_cites_is_quoted() -> None:
    assert places(sglang_norm.MODULES) == {*NORM, GEMMA3}


@pytest.mark.parametrize("version", rules.READ["sglang"])
def test_sglang_still_normalizes_with_flashinfer(version: str) -> None:
    engine = wheel_of("sglang", f"sglang=={version}")
    kernel = sources_of("sglang-kernel", f"sglang-kernel=={KERNEL[version]}")
    text = next(engine.glob("sglang-*.dist-info/METADATA")).read_text()
    assert f"Requires-Dist: sglang-kernel=={KERNEL[version]}\n" in text
    for place, quotes in {**NORM, GEMMA3: GEMMA3_NORM[version]}.items():
        assert unsaid(engine if place[0] == _LAYERNORM else kernel, {place: quotes}) == []


def test_every_place_that_a_rule_of_vllm_on_hopper_cites_is_quoted() -> None:
    assert places((*vllm_hopper.MODULES, *vllm_hopper.UNKNOWN)) == set(VLLM)


@pytest.mark.parametrize("version", rules.READ["vllm"])
def test_vllm_still_says_so(version: str) -> None:
    root = sources_of("vllm", f"vllm=={version}")
    assert [*unsaid(root, VLLM), *unsaid(root, CHOICE), *unsaid(root, ONLY[version])] == []


@pytest.mark.parametrize("version", WANTED.values())
def test_flashinfer_still_says_so(version: str) -> None:
    assert unsaid(sources_of("flashinfer", f"flashinfer-python=={version}"), FLASHINFER) == []


def test_what_one_version_says_the_other_does_not() -> None:
    """Or there would be one rule for both."""
    (place, quotes), *_ = ONLY["0.26.0"].items()
    assert not any(quote in source(sources_of("vllm", "vllm==0.33.0"), place) for quote in quotes)


def own(name: str, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """The entries of SGLang's own JIT."""
    told = answer(name, "9.0", version="0.5.16", **more)
    return [(entry.op, dict(entry.params)) for entry in told.entries if entry.op.startswith("sglang.")]


def of_gpus_and_experts() -> list[tuple[str, dict[str, Any]]]:
    """FlashInfer's modules that the rules for several GPUs and for experts give."""
    fixed = replace(read_facts(CONFIGS / "mixtral-8x7b.json"), quantization="fp8-static")
    told = [
        answer("deepseek-v3", "9.0", version="0.5.16", tensor_parallel=8),
        derive(fixed, request("mixtral-8x7b", "vllm", version="0.26.0", tensor_parallel=2), "9.0"),
        answer("gpt-oss-20b", "9.0", version="0.5.23"),
    ]
    rules_of = {id(rule) for rule in (*communication.MODULES, *experts.MODULES)}
    found = [entry for one in told for entry in one.entries if id(entry.rule) in rules_of and ":" not in entry.op]
    return [(entry.op, dict(entry.params)) for entry in found]


@pytest.mark.usefixtures("flashinfer")
def test_the_generators_take_what_is_given(tmp_path: Path) -> None:
    """Of a Llama the four modules of SGLang 0.5.16's first request on an H200: bfloat16, 8 key-value heads of 128.

    FlashInfer's for several GPUs and for experts are asked for in the same process.
    """
    env = environment(tmp_path)
    stubs = stubbed(tmp_path, wheel_of("sglang", "sglang==0.5.16"))
    env |= {"PYTHONPATH": os.pathsep.join([str(stubs), env["PYTHONPATH"]]), "TVM_FFI_GPU_BACKEND": "cuda"}
    wanted = [*own("llama-3.1-8b"), *own("qwen3-8b", tensor_parallel=2, kv_cache_dtype="fp8_e4m3")]
    flashinfers = of_gpus_and_experts()
    _, response = run(PLAN, request_of(*wanted, *flashinfers), tmp_path / "planned", env)
    planned = [kernel["name"] for kernel in response["kernels"]]
    assert planned[len(wanted) :] == [
        "trtllm_comm",
        "dsv3_fused_routing",
        "trtllm_mnnvl_comm",
        "trtllm_comm",
        "fused_moe_90",
        "tinygemm2",
    ]
    assert [name.removeprefix("sgl_kernel_jit_").rpartition("_")[0] for name in planned[: len(wanted)]] == [
        "fused_rope_true_128_true_bf16_t",
        "kvcache_2048_true",
        "clamp_position_int64_t",
        "activation_bf16_t_true",
        "fused_rope_true_128_true_bf16_t",
        "kvcache_512_true",  # 4 heads on each of two GPUs, a byte for each value
        "clamp_position_int64_t",
        "activation_bf16_t_true",
        "qknorm_128_true_bf16_t",
        "custom_all_reduce_bf16_t_2_true",
        "communicator",
        "cuda_ipc",
    ]
