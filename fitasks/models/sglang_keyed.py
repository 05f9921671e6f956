"""SGLang's own JIT in 0.5.23 (sglang.kernels.ops), for the models of sglang_jit.py: which functions are called.

Sampling has none: greedy requests take torch's argmax, others FlashInfer's `sampling`.
"""

from __future__ import annotations

from fitasks.models.rule import Asked, Rule
from fitasks.models.sglang_jit import DENSE, EXPERTS, FUSED_ROPE, GELU, QK_NORM, STORING, anywhere, here

_HERE = here("0.5.23")
_LAYERS = "sglang/srt/layers"
_OPS, _FILES = "sglang.kernels.ops", "sglang/kernels/ops"
_POOL = "sglang/srt/mem_cache/memory_pool.py"
_ROPE = f"{_LAYERS}/rotary_embedding/base.py: RotaryEmbedding.__init__, RotaryEmbedding.forward_cuda"
_ACTIVATION = f"{_FILES}/activation/activation.py: _run_activation_inplace, activation_module"
_ACTIVATIONS = (Asked("activation", f"{_OPS}.activation.activation:activation_module", {"dtype": "$dtype"}),)
_TURNED = {"is_neox": True, "rope_dim": "$head_dim", "dtype": "$dtype", "q_dtype": "$dtype"}
_ROW = {"k_row_bytes": "$row_bytes", "v_row_bytes": "$v_row_bytes", "num_threads": 0}

MODULES = (
    Rule(
        "sglang",
        {**_HERE, "plain_rope": (True,), "head_dim": FUSED_ROPE},
        "rotates queries and keys in place, both of one type",
        f"{_ROPE}; {_FILES}/attention/rope.py: apply_rope_inplace, _jit_fused_rope_module",
        entries=(Asked("rope", f"{_OPS}.attention.rope:_jit_fused_rope_module", _TURNED),),
    ),
    Rule(
        "sglang",
        {**_HERE, "plain_rope": (True,), "fused_rope": (False,)},
        "rotates queries and keys; its fused kernel is for head dimensions of 64, 128, 256 and 512",
        f"{_ROPE}; {_FILES}/attention/rope.py: rotary_embedding_with_key, _jit_rotary_embedding_module",
        entries=(Asked("rope", f"{_OPS}.attention.rope:_jit_rotary_embedding_module"),),
    ),
    Rule(
        "sglang",
        {**_HERE, "kv_told": (True,), "backend": STORING, "fused_store": (False,)},
        "writes keys and values into the cache, unless SGLANG_USE_HND_KVCACHE=1; a row is a token's key-value heads on "
        "one GPU, an fp8 value one byte; SGLang chooses the number of threads; Qwen 3 with experts does without for a "
        "cache in bfloat16, where the kernel that rotates writes, and so does gpt-oss with --disable-hybrid-swa-memory",
        f"{_POOL}: KVCache.__init__, MHATokenToKVPool.__init__, MHATokenToKVPool._store_kv_layer, _set_kv_buffer_impl; "
        "sglang/srt/models/utils.py: enable_fused_set_kv_buffer; "
        "sglang/srt/configs/model_config.py: ModelConfig.get_num_kv_heads; "
        f"{_FILES}/kvcache/kvcache.py: can_use_store_cache, _jit_kvcache_module",
        entries=(Asked("kvcache", f"{_OPS}.kvcache.kvcache:_jit_kvcache_module", _ROW),),
    ),
    Rule(
        "sglang",
        {**anywhere("0.5.23"), "speculative": (False,)},
        "each decode step takes its positions from the sequences' lengths, which are int64, unless "
        "SGLANG_FORCE_FUSED_OP_BACKEND says otherwise",
        "sglang/srt/model_executor/forward_batch_info.py: ForwardBatch.init_new; "
        "sglang/srt/managers/schedule_batch.py: ScheduleBatch.prepare_for_extend; "
        f"{_FILES}/attention/clamp_position.py: ClampPositionOp, clamp_position_cuda, _jit_clamp_position_module",
        entries=(
            Asked("positions", f"{_OPS}.attention.clamp_position:_jit_clamp_position_module", {"dtype": "int64"}),
        ),
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": DENSE, "silu": (True,), "aligned": (True,)},
        "SiLU and multiplication in the feed-forward layers, whose width on one GPU is a multiple of 16 bytes",
        f"{_LAYERS}/activation.py: SiluAndMul.forward_cuda, _jit_act_supported, _act_and_mul; {_ACTIVATION}",
        entries=_ACTIVATIONS,
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": GELU, "aligned": (True,)},
        "GELU and multiplication in the feed-forward layers, whose width on one GPU is a multiple of 16 bytes",
        f"{_LAYERS}/activation.py: GeluAndMul._forward_impl, _jit_act_supported, _act_and_mul; {_ACTIVATION}",
        entries=_ACTIVATIONS,
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": EXPERTS, "quantization": ("none",)},
        "SiLU and multiplication between the experts' matrices, unless --moe-runner-backend or "
        "SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED say otherwise",
        f"{_LAYERS}/quantization/unquant.py: UnquantizedFusedMoEMethod.create_moe_runner, "
        "UnquantizedFusedMoEMethod._maybe_interleave_w13_for_fused_swiglu; "
        f"{_LAYERS}/moe/moe_runner/triton_utils/fused_moe.py: _fused_moe_kernel_sequence; {_ACTIVATION}",
        entries=_ACTIVATIONS,
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": ("qwen3", "qwen3_moe"), "head_dim": QK_NORM},
        "normalizes queries and keys together, but with --enable-deterministic-inference, or "
        "--enable-fused-qk-norm-rope for experts",
        "sglang/srt/models/qwen3.py: Qwen3Attention.forward_prepare_native; "
        "sglang/srt/models/qwen3_moe.py: Qwen3MoeAttention.__init__, Qwen3MoeAttention.apply_qk_norm_rope; "
        "sglang/srt/models/utils.py: apply_qk_norm; "
        f"{_FILES}/layernorm/norm.py: can_use_fused_inplace_qknorm, _jit_qknorm_module",
        entries=(
            Asked("qknorm", f"{_OPS}.layernorm.norm:_jit_qknorm_module", {"head_dim": "$head_dim", "dtype": "$dtype"}),
        ),
    ),
)

UNKNOWN = (
    Rule(
        "sglang",
        {**_HERE, "model_type": (*DENSE, *GELU), "aligned": (None,)},
        "whose activation it takes: config.json tells no intermediate_size",
        f"{_LAYERS}/activation.py: _jit_act_supported",
    ),
)
