"""Rules for SGLang 0.5.23's own JIT rest on its sources, and SGLang's own code asks for the modules that they give."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.models import sglang_jit, sglang_keyed
from fitasks.models.derive import derive
from fitasks.models.facts import read_facts
from tests.models.rule_places import Place, places, unsaid
from tests.models.test_models import CONFIGS, answer, request
from tests.serving.flashinfer_wheels import wheel_of
from tests.serving.keyed_sglang import serving
from tests.serving.planner_runs import PLAN, request_of, run

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.models.derive import Answer

REQUIREMENT = "sglang==0.5.23"
_OPS, _LAYERS = "sglang/kernels/ops", "sglang/srt/layers"
_POOL = "sglang/srt/mem_cache/memory_pool.py"
_ACTIVATION = f"{_LAYERS}/activation.py"
# What was read at each place that a rule cites, without regard to how it is broken into lines.
SGLANG: dict[Place, tuple[str, ...]] = {
    (f"{_LAYERS}/rotary_embedding/base.py", "RotaryEmbedding.__init__"): (
        "(not (_is_cuda) or self.head_size not in [64, 128, 256, 512])",
        "from sglang.kernels.ops.attention.rope import rotary_embedding",
        "self.use_fallback_kernel = True",
    ),
    (f"{_LAYERS}/rotary_embedding/base.py", "RotaryEmbedding.forward_cuda"): (
        "if not self.use_fallback_kernel:",
        "apply_rope_with_cos_sin_cache_inplace(",
        "is_neox=self.is_neox_style,",
    ),
    (f"{_OPS}/attention/rope.py", "apply_rope_inplace"): (
        "rope_dim = rope_dim or cos_sin_cache.size(-1)",
        "_jit_fused_rope_module(is_neox, rope_dim, k.dtype, q.dtype)",
    ),
    (f"{_OPS}/attention/rope.py", "_jit_fused_rope_module"): (
        "( is_neox: bool, rope_dim: int, dtype: torch.dtype, q_dtype: torch.dtype )",
    ),
    (f"{_OPS}/attention/rope.py", "rotary_embedding_with_key"): ("module = _jit_rotary_embedding_module()",),
    (f"{_OPS}/attention/rope.py", "_jit_rotary_embedding_module"): ("def _jit_rotary_embedding_module() -> Module:",),
    (_POOL, "KVCache.__init__"): (
        "if dtype in (torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e4m3fnuz):",
        "self.store_dtype = torch.uint8",
        "else: self.store_dtype = dtype",
    ),
    (_POOL, "MHATokenToKVPool.__init__"): (
        "self.row_dim = self.head_num * self.head_dim",
        "self.v_row_dim = self.head_num * self.v_head_dim",
        "self.use_hnd = envs.SGLANG_USE_HND_KVCACHE.get()",
    ),
    (_POOL, "MHATokenToKVPool._store_kv_layer"): ("_set_kv_buffer_impl(", "v_row_dim=self.v_row_dim,"),
    (_POOL, "_set_kv_buffer_impl"): (
        "row_bytes = row_dim * store_dtype.itemsize",
        "v_row_bytes = v_row_dim * store_dtype.itemsize",
        "if (_is_cuda or _is_hip) and can_use_store_cache(row_bytes, v_row_bytes): return store_cache(",
    ),
    ("sglang/srt/configs/model_config.py", "ModelConfig.get_num_kv_heads"): (
        "kv_tensor_parallel_size = tensor_parallel_size // dcp_size",
        "return max(1, total_num_kv_heads // kv_tensor_parallel_size)",
    ),
    (f"{_OPS}/kvcache/kvcache.py", "can_use_store_cache"): (
        "v_row_bytes: int = 0, num_threads: int = 0",
        "_jit_kvcache_module(k_row_bytes, v_row_bytes, num_threads)",
    ),
    (f"{_OPS}/kvcache/kvcache.py", "_jit_kvcache_module"): (
        "(k_row_bytes: int, v_row_bytes: int, num_threads: int)",
        "if num_threads == 0:",
    ),
    ("sglang/srt/model_executor/forward_batch_info.py", "ForwardBatch.init_new"): (
        "ret.positions = ret.spec_info.positions",
        "if ret.positions is None: ret.positions = clamp_position(batch.seq_lens)",
    ),
    ("sglang/srt/managers/schedule_batch.py", "ScheduleBatch.prepare_for_extend"): (
        "seq_lens_tensor = torch.tensor(seq_lens, dtype=torch.int64,",
        "self.seq_lens = seq_lens_tensor",
    ),
    (f"{_OPS}/attention/clamp_position.py", "ClampPositionOp"): (
        "priority = (KernelBackend.JIT, KernelBackend.TORCH)",
        "return clamp_position_cuda(seq_lens).to(torch.int64)",
    ),
    (f"{_OPS}/attention/clamp_position.py", "clamp_position_cuda"): ("_jit_clamp_position_module(seq_lens.dtype)",),
    (f"{_OPS}/attention/clamp_position.py", "_jit_clamp_position_module"): ("(dtype: torch.dtype)",),
    (_ACTIVATION, "SiluAndMul.forward_cuda"): ("silu_and_mul(x, out)",),
    (_ACTIVATION, "GeluAndMul._forward_impl"): ("gelu_tanh_and_mul(x, out)",),
    (_ACTIVATION, "_jit_act_supported"): (
        "_jit_act_max_vec_bytes = 32 if major >= 10 else 16",
        "return out.shape[-1] % (_jit_act_max_vec_bytes // out.dtype.itemsize) == 0",
    ),
    (_ACTIVATION, "_act_and_mul"): ("(jit_fn if _jit_act_supported(out) else sgl_fn)(input, out)",),
    (f"{_OPS}/activation/activation.py", "_run_activation_inplace"): ("activation_module(input.dtype)",),
    (f"{_OPS}/activation/activation.py", "activation_module"): ("(dtype: torch.dtype, *, fast_math: bool = True)",),
    (f"{_LAYERS}/quantization/unquant.py", "UnquantizedFusedMoEMethod.create_moe_runner"): (
        "else: backend = MoeRunnerBackend.TRITON",
    ),
    (f"{_LAYERS}/quantization/unquant.py", "UnquantizedFusedMoEMethod._maybe_interleave_w13_for_fused_swiglu"): (
        "if not envs.SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED.get(): return",
    ),
    (f"{_LAYERS}/moe/moe_runner/triton_utils/fused_moe.py", "_fused_moe_kernel_sequence"): (
        "silu_and_mul( intermediate_cache1.view(-1, N), intermediate_cache2, **row_filter )",
    ),
    ("sglang/srt/models/qwen3.py", "Qwen3Attention.forward_prepare_native"): ("q, k = apply_qk_norm(",),
    ("sglang/srt/models/qwen3_moe.py", "Qwen3MoeAttention.__init__"): (
        "rotary_dim=self.head_dim,",
        "get_exec().kernel.enable_fused_qk_norm_rope and self.compatible_with_fused_qk_norm_rope",
    ),
    ("sglang/srt/models/qwen3_moe.py", "Qwen3MoeAttention.apply_qk_norm_rope"): (
        "use_fused = (self.use_fused_qk_norm_rope and qkv.dtype == torch.bfloat16) or ( self.use_fused_qk_norm_rope_cpu",
        "q, k = apply_qk_norm(",
        "if enable_fused_set_kv_buffer(forward_batch)",
    ),
    ("sglang/srt/models/utils.py", "enable_fused_set_kv_buffer"): (
        "_is_cuda and pool.dtype == torch.bfloat16 and not isinstance(pool, SWAKVPool)",
    ),
    ("sglang/srt/models/utils.py", "apply_qk_norm"): (
        "and (q_eps == k_eps)",
        "and not envs.SGLANG_ENABLE_DETERMINISTIC_INFERENCE.get()",
        "and can_use_fused_inplace_qknorm(head_dim, q.dtype)",
    ),
    (f"{_OPS}/layernorm/norm.py", "can_use_fused_inplace_qknorm"): (
        "if head_dim not in [64, 128, 256, 512, 1024]:",
        "_jit_qknorm_module(head_dim, dtype)",
    ),
    (f"{_OPS}/layernorm/norm.py", "_jit_qknorm_module"): (
        "( head_dim: int, dtype: torch.dtype, half_warp: bool = True )",
    ),
    ("sglang/srt/mem_cache/kv_cache_dtype.py", "configure_kv_cache_dtype"): (
        'kv_cache_quant_algo = getattr(quant_config, "kv_cache_quant_algo", None)',
        "else: kv_cache_dtype = model_dtype",
    ),
}
_EXEC = "sglang/srt/arg_groups/fields/exec_.py"
_DUAL = f"{_OPS}/gemm/cutedsl_dual_gemm.py"
# Why nothing else is given, and how the models call these layers: what no rule cites.
MODELS: dict[Place, tuple[str, ...]] = {
    ("sglang/srt/models/llama.py", "LlamaMLP"): (
        'if hidden_act != "silu":',
        "self.act_fn = SiluAndMul()",
        "if self.dual_gemm.can_run(x, self.gate_up_proj):",
    ),
    ("sglang/srt/models/llama.py", "LlamaAttention"): (
        'partial_rotary_factor = getattr(config, "partial_rotary_factor", 1)',
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/llama.py", "LlamaDecoderLayer"): (
        'getattr(config, "rope_is_neox_style", True)',
        "self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)",
    ),
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
    ("sglang/srt/models/qwen3.py", "Qwen3Attention"): (
        "rotary_dim=self.head_dim,",
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/mixtral.py", "MixtralAttention"): (
        "rotary_dim=self.head_dim,",
        "q, k = self.rotary_emb(positions, q, k)",
    ),
    ("sglang/srt/models/mixtral.py", "MixtralMoE"): ("self.experts = FusedMoE(",),
    ("sglang/srt/model_loader/utils.py", "get_model_architecture"): (
        'and "MixtralForCausalLM" in architectures ): architectures = ["QuantMixtralForCausalLM"]',
    ),
    (_DUAL, "can_use_dual_gemm"): ("and is_sm100_supported() ) if not shape_supported: return False",),
    (f"{_LAYERS}/quantization/fp8_activation.py", "DenseSiluAndMulQuant.__init__"): (
        "if not (is_cuda() and get_platform().is_sm100 and get_parallel().tp_size == 1): return",
    ),
    (f"{_LAYERS}/quantization/unquant.py", "initialize_bf16_gemm_config"): (
        'if backend_str == "auto" and get_platform().is_sm100:',
        "if backend.is_gemv():",
    ),
    (_EXEC, "bf16_gemm_backend"): ('choices=["auto", "cutedsl", "gemv", "torch"], ), ] = "auto"',),
    (_EXEC, "enable_fused_qk_norm_rope"): ("enabled on XPU and disabled elsewhere", "] = None"),
    ("sglang/srt/environ.py", "SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED"): ("EnvBool(False)",),
    ("sglang/srt/environ.py", "SGLANG_USE_HND_KVCACHE"): ("EnvBool(False)",),
    (f"{_OPS}/moe/moe_route_radix.py", "covered"): ("scores.size(1) == _NUM_EXPERTS and int(topk) == _TOPK",),
    (f"{_OPS}/moe/moe_route_radix.py", "_NUM_EXPERTS"): ("896",),
    (f"{_LAYERS}/sampler.py", "Sampler.forward"): (
        "batch_next_token_ids = torch.argmax(logits, -1)",
        "else sampler_softmax(logits)",
    ),
    (f"{_OPS}/sampling/__init__.py", "softmax"): ("return torch.softmax(logits, dim=-1)",),
    (f"{_LAYERS}/attention/flashinfer_backend.py", "FlashInferAttnBackend.forward_decode"): (
        "self.token_to_kv_pool.set_kv_buffer(",
    ),
    (f"{_LAYERS}/rotary_embedding/factory.py", "get_rope"): (
        'if scaling_type == "llama3":',
        'if "mrope_section" in rope_scaling',
        'elif rope_scaling.get("use_fope", False):',
        'elif scaling_type == "linear":',
        'elif scaling_type == "dynamic":',
        'elif scaling_type == "yarn":',
    ),
}


def test_every_place_that_a_rule_cites_is_quoted() -> None:
    assert places((*sglang_keyed.MODULES, *sglang_keyed.UNKNOWN, *sglang_jit.UNKNOWN)) == set(SGLANG)


@pytest.mark.parametrize("place", [*SGLANG, *MODELS], ids=lambda place: place[1])
def test_sglang_0_5_23_still_says_so(place: Place) -> None:
    assert unsaid(wheel_of("sglang", REQUIREMENT), {place: (SGLANG | MODELS)[place]}) == []


@pytest.mark.parametrize("name", ["yarn.py", "rope_variant.py", "base.py"])
def test_the_usual_rotary_embeddings_differ_by_their_tables_alone(name: str) -> None:
    """Of all classes there the one of base.py has the only kernel."""
    text = (wheel_of("sglang", REQUIREMENT) / _LAYERS / "rotary_embedding" / name).read_text()
    assert text.count("def forward_cuda(") == (name == "base.py")


def own(told: Answer) -> dict[str, dict[str, Any]]:
    """What is given of SGLang's own JIT, by its hint."""
    return {entry.hint: dict(entry.params) for entry in told.entries if entry.op.startswith("sglang.")}


FLASHINFER = {"attention_backend": "flashinfer"}
CLAMPED = {"positions": {"dtype": "int64"}}
ACTIVE = {"activation": {"dtype": "bfloat16"}}


def turned(dim: int) -> dict[str, dict[str, Any]]:
    return {"rope": {"is_neox": True, "rope_dim": dim, "dtype": "bfloat16", "q_dtype": "bfloat16"}}


def kept(row: int) -> dict[str, dict[str, Any]]:
    return {"kvcache": {"k_row_bytes": row, "v_row_bytes": row, "num_threads": 0}}


QK: dict[str, dict[str, Any]] = {"qknorm": {"head_dim": 128, "dtype": "bfloat16"}}
GIVEN: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = [
    ("llama-3.1-8b", FLASHINFER, turned(128) | kept(2048) | CLAMPED | ACTIVE),
    ("llama-3.1-8b", {}, turned(128) | kept(2048) | CLAMPED | ACTIVE),
    ("llama-3.1-8b", {"attention_backend": "other"}, turned(128) | CLAMPED | ACTIVE),
    ("llama-3.1-8b", {"speculative": True}, turned(128) | kept(2048) | ACTIVE),
    ("llama-3.2-1b", {"kv_cache_dtype": "fp8_e4m3"}, turned(64) | kept(512) | CLAMPED | ACTIVE),
    ("mistral-7b-v0.1", FLASHINFER, turned(128) | kept(2048) | CLAMPED | ACTIVE),
    ("qwen2.5-7b", FLASHINFER, turned(128) | kept(1024) | CLAMPED | ACTIVE),
    ("qwen3-8b", FLASHINFER, turned(128) | kept(2048) | CLAMPED | ACTIVE | QK),
    ("qwen3-30b-a3b", FLASHINFER, turned(128) | CLAMPED | ACTIVE | QK),
    ("qwen3-30b-a3b", {"kv_cache_dtype": "fp8_e5m2"}, turned(128) | kept(512) | CLAMPED | ACTIVE | QK),
    ("mixtral-8x7b", {}, turned(128) | kept(2048) | CLAMPED | ACTIVE),
    ("gemma-2-9b", FLASHINFER, turned(256) | kept(8 * 256 * 2) | CLAMPED | ACTIVE),
    ("gemma-3-4b", FLASHINFER, CLAMPED),
    ("gpt-oss-20b", {}, turned(64) | kept(1024) | CLAMPED),
    ("deepseek-v3", {}, CLAMPED),
]


@pytest.mark.parametrize(("name", "more", "expected"), GIVEN)
def test_given(name: str, more: dict[str, Any], expected: dict[str, dict[str, Any]]) -> None:
    for architecture in ("8.0", "9.0"):
        told = answer(name, architecture, version="0.5.23", **more)
        assert own(told) == expected
        further = "which further modules of its own JIT it compiles, for this model" in told.unknown
        assert further == (expected == CLAMPED)


def test_nothing_of_a_dense_model_with_flashinfers_attention_is_unknown() -> None:
    for name in ("llama-3.1-8b", "qwen2.5-7b", "qwen3-8b"):
        assert answer(name, "9.0", version="0.5.23", **FLASHINFER).unknown == ()
    windowed = answer("gemma-2-9b", "9.0", version="0.5.23", **FLASHINFER).unknown
    assert [one.partition(" where")[0] for one in windowed] == ["which module layers with a window load"]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"head_dim": 96, "v_head_dim": 96}, {"rope": {}, **kept(8 * 96 * 2)}),
        ({"v_head_dim": 64}, {"kvcache": {"k_row_bytes": 2048, "v_row_bytes": 1024, "num_threads": 0}}),
        ({"intermediate": 1364}, {"activation": None}),  # not a multiple of 16 bytes: sgl_kernel's, which is compiled
        ({"intermediate": 0}, {"activation": None}),
        ({"silu": False}, {"activation": None}),
        ({"plain_rope": False}, {"rope": None}),
        ({"quantized": True}, {"kvcache": None}),
        ({"dtype": "float32"}, dict.fromkeys(("rope", "kvcache", "activation"))),
    ],
)
def test_what_config_json_says_decides(change: dict[str, Any], changed: dict[str, Any]) -> None:
    """None: left out, and said unless it is known that nothing is loaded."""
    facts = replace(read_facts(CONFIGS / "llama-3.1-8b.json"), **change)
    told = derive(facts, request("llama-3.1-8b", version="0.5.23"), "9.0")
    expected = turned(128) | kept(2048) | CLAMPED | ACTIVE | changed
    assert own(told) == {hint: params for hint, params in expected.items() if params is not None}
    known = set(change) & {"silu"} or change.get("intermediate") or None not in changed.values()
    assert bool(told.unknown) != bool(known)


def test_the_width_on_one_gpu_decides_about_the_activation() -> None:
    facts = replace(read_facts(CONFIGS / "llama-3.1-8b.json"), intermediate=10944)
    told = {gpus: derive(facts, request("llama", version="0.5.23", tensor_parallel=gpus), "9.0") for gpus in (4, 8, 16)}
    assert {gpus: "activation" in own(one) for gpus, one in told.items()} == {4: True, 8: True, 16: False}


def test_of_two_architectures_in_one_target_nothing_is_given() -> None:
    facts = read_facts(CONFIGS / "llama-3.1-8b.json")
    told = derive(facts, request("llama-3.1-8b", version="0.5.23"), "9.0", alone=False)
    assert own(told) == {}
    assert any("write a target for each" in one for one in told.unknown)


# SGLang's own layers, called on CPU tensors as its models call them; what they ask load_jit for is noted. Then the
# planner, in the same process.
ASKING = """
import json, os, runpy, torch
torch.cuda.current_device, torch.cuda.get_device_capability = lambda: 0, lambda *_device: (9, 0)
from pathlib import Path
from sglang.kernels.jit.utils.compile import loader
class Module:
    def __getattr__(self, name):
        return lambda *_arguments: None
asked = []
loader._find_prebuilt = lambda *, spec, scope: asked.append(spec.module_name) or Path()
loader._load = lambda _library: Module()
from sglang.kernels.ops.activation.activation import silu_and_mul
from sglang.kernels.ops.attention.clamp_position import clamp_position_cuda
from sglang.kernels.ops.attention.rope import apply_rope_with_cos_sin_cache_inplace, rotary_embedding
from sglang.kernels.ops.kvcache.kvcache import can_use_store_cache, store_cache
from sglang.kernels.ops.layernorm.norm import can_use_fused_inplace_qknorm, fused_inplace_qknorm
half = lambda *shape: torch.zeros(shape, dtype=torch.bfloat16)
def serve(heads, dim, store, width, normed):
    ids, q, k, table = torch.zeros(2, dtype=torch.int64), half(2, 4, dim), half(2, heads, dim), torch.zeros(9, dim)
    if normed and can_use_fused_inplace_qknorm(dim, q.dtype):
        fused_inplace_qknorm(q, k, half(dim), half(dim), head_dim=dim)
    if dim in (64, 128, 256, 512):
        apply_rope_with_cos_sin_cache_inplace(positions=ids, q=q, k=k, cos_sin_cache=table, is_neox=True)
    else:
        rotary_embedding(ids, q, k, dim, table)
    row = heads * dim
    size = row * store.itemsize
    if can_use_store_cache(size, size):
        rows = torch.zeros(2, row, dtype=store)
        store_cache(rows, rows, rows, rows, ids, row_bytes=size, v_row_bytes=size, size_limit=9)
    if width:
        silu_and_mul(half(2, 2 * width), half(2, width))
    clamp_position_cuda(ids)
bytes_ = torch.uint8
serve(8, 128, torch.bfloat16, 14336, False)
serve(4, 128, bytes_, 6144, True)
serve(8, 96, torch.bfloat16, 14336, False)
serve(8, 64, torch.bfloat16, 0, False)
Path("asked.json").write_text(json.dumps(asked))
runpy.run_path(os.environ["PLANNER"], run_name="__main__")
"""


@pytest.mark.usefixtures("flashinfer")
def test_sglang_asks_for_the_modules_that_are_given(tmp_path: Path) -> None:
    """A Llama's, a Qwen 3's on two GPUs with an fp8 cache, those of an odd head dimension, and gpt-oss's."""
    odd = replace(read_facts(CONFIGS / "llama-3.1-8b.json"), head_dim=96, v_head_dim=96)
    told = [
        answer("llama-3.1-8b", "9.0", version="0.5.23", **FLASHINFER),
        answer("qwen3-8b", "9.0", version="0.5.23", tensor_parallel=2, kv_cache_dtype="fp8_e4m3"),
        derive(odd, request("llama", version="0.5.23"), "9.0"),
        answer("gpt-oss-20b", "9.0", version="0.5.23"),
    ]
    given = (entry for one in told for entry in one.entries if entry.rule in sglang_keyed.MODULES)
    wanted = [(entry.op, dict(entry.params)) for entry in given]
    env = serving(tmp_path, PLANNER=str(PLAN.with_name("sglang_keyed_plan.py")))
    script = tmp_path / "asking.py"
    script.write_text(ASKING)
    _, answered = run(script, request_of(*wanted, architecture="9.0a"), tmp_path, env)
    planned = [kernel.get("name") for kernel in answered["kernels"]]
    assert set(json.loads((tmp_path / "asked.json").read_text())) == set(planned)
    assert planned == [
        "sgl_kernel_jit_fused_rope_true_128_true_bf16_t_bf16_t",
        "sgl_kernel_jit_kvcache_2048_2048_128_true",
        "sgl_kernel_jit_clamp_position_int64_t",
        "sgl_kernel_jit_activation_bf16_t_true",
        "sgl_kernel_jit_fused_rope_true_128_true_bf16_t_bf16_t",
        "sgl_kernel_jit_kvcache_512_512_32_true",  # 4 heads on each of two GPUs, a byte for each value
        "sgl_kernel_jit_clamp_position_int64_t",
        "sgl_kernel_jit_activation_bf16_t_true",
        "sgl_kernel_jit_qknorm_128_true_bf16_t_true",
        "sgl_kernel_jit_rotary_embedding",
        "sgl_kernel_jit_kvcache_1536_1536_64_true",
        "sgl_kernel_jit_clamp_position_int64_t",
        "sgl_kernel_jit_activation_bf16_t_true",
        "sgl_kernel_jit_fused_rope_true_64_true_bf16_t_bf16_t",
        "sgl_kernel_jit_kvcache_1024_1024_64_true",
        "sgl_kernel_jit_clamp_position_int64_t",
    ]
