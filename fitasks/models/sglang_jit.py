"""SGLang's own JIT, for dense models and three mixtures of experts: which functions that make a module are called.

Those of 0.5.16, and what isn't known of either version. 0.5.23's have other names and parameters (sglang_keyed.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fitasks.models.rule import Asked, Rule

if TYPE_CHECKING:
    from fitasks.models.facts import Facts

_READ = ("0.5.16", "0.5.23")
DENSE = ("llama", "mistral", "qwen2", "qwen3")
GELU = ("gemma2",)  # dense, too, with another activation
EXPERTS = ("qwen3_moe", "mixtral")
STORING_WHILE_ROTATING = ("qwen3_moe",)  # into a cache in bfloat16
_HALF = ("float16", "bfloat16")
_QUANTIZING = ("fp8-blocks", "fp8-static", "fp8", "other")  # activations, too
_LAYERS = "sglang/srt/layers"
_POOL = "sglang/srt/mem_cache/memory_pool.py"
FUSED_ROPE = (64, 128, 256, 512)  # head dimensions
QK_NORM = (64, 128, 256, 512, 1024)
STORING = ("flashinfer", "fa3", "triton")  # attention backends that write into that pool


def anywhere(*versions: str) -> dict[str, tuple[Any, ...]]:
    """Whatever the model is, and its type. Without a version that is told there is no SGLang to plan with."""
    return {"version": versions, "told": (True,), "alone": (True,)}


def here(*versions: str) -> dict[str, tuple[Any, ...]]:
    """Where these rules apply: in 16 bits, one architecture at a time."""
    return {**anywhere(*versions), "own_jit": (True,), "dtype": _HALF}


_HERE, _EITHER = here("0.5.16"), here(*_READ)

MODULES = (
    Rule(
        "sglang",
        {**_HERE, "plain_rope": (True,), "head_dim": FUSED_ROPE},
        "rotates queries and keys in place",
        f"{_LAYERS}/rotary_embedding/base.py: RotaryEmbedding.__init__, RotaryEmbedding.forward_cuda; "
        "sglang/jit_kernel/rope.py: apply_rope_inplace, _jit_fused_rope_module",
        entries=(
            Asked(
                "rope",
                "sglang.jit_kernel.rope:_jit_fused_rope_module",
                {"is_neox": True, "rope_dim": "$head_dim", "dtype": "$dtype"},
            ),
        ),
    ),
    Rule(
        "sglang",
        {**_HERE, "plain_rope": (True,), "fused_rope": (False,)},
        "rotates queries and keys; its fused kernel wants a head dimension of 64, 128, 256 or 512",
        f"{_LAYERS}/rotary_embedding/base.py: RotaryEmbedding.__init__; "
        "sglang/jit_kernel/rope.py: _jit_rotary_embedding_module",
        entries=(Asked("rope", "sglang.jit_kernel.rope:_jit_rotary_embedding_module"),),
    ),
    Rule(
        "sglang",
        {**_HERE, "kv_told": (True,), "rows": (True,), "backend": STORING, "fused_store": (False,)},
        "writes keys and values into the cache; a row is a token's key-value heads on one GPU, an fp8 value one byte; "
        "Qwen 3 with experts does without for a cache in bfloat16, where the kernel that rotates writes, and so does "
        "gpt-oss with --disable-hybrid-swa-memory",
        f"{_POOL}: KVCache.__init__, MHATokenToKVPool.__init__, _set_kv_buffer_impl; "
        "sglang/srt/models/utils.py: enable_fused_set_kv_buffer; "
        "sglang/srt/configs/model_config.py: ModelConfig.get_num_kv_heads; "
        "sglang/jit_kernel/kvcache.py: can_use_store_cache, _jit_kvcache_module",
        entries=(Asked("kvcache", "sglang.jit_kernel.kvcache:_jit_kvcache_module", {"row_bytes": "$row_bytes"}),),
    ),
    Rule(
        "sglang",
        {**anywhere("0.5.16"), "speculative": (False,)},
        "each decode step takes its positions from the sequences' lengths, which are int64",
        "sglang/srt/model_executor/forward_batch_info.py: ForwardBatch.init_new; "
        "sglang/srt/managers/schedule_batch.py: ScheduleBatch.prepare_for_extend; "
        "sglang/jit_kernel/clamp_position.py: clamp_position_cuda, _jit_clamp_position_module",
        entries=(
            Asked("positions", "sglang.jit_kernel.clamp_position:_jit_clamp_position_module", {"dtype": "int64"}),
        ),
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": DENSE, "silu": (True,)},
        "SiLU and multiplication in the feed-forward layers",
        f"{_LAYERS}/activation.py: SiluAndMul.forward_cuda; "
        "sglang/jit_kernel/activation.py: _run_activation_inplace, _jit_activation_module",
        entries=(Asked("activation", "sglang.jit_kernel.activation:_jit_activation_module", {"dtype": "$dtype"}),),
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": GELU},
        "GELU and multiplication in the feed-forward layers",
        f"{_LAYERS}/activation.py: GeluAndMul._forward_impl; "
        "sglang/jit_kernel/activation.py: _run_activation_inplace, _jit_activation_module",
        entries=(Asked("activation", "sglang.jit_kernel.activation:_jit_activation_module", {"dtype": "$dtype"}),),
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": EXPERTS, "quantization": ("none",)},
        "SiLU and multiplication between the experts' matrices, unless --moe-runner-backend says otherwise",
        f"{_LAYERS}/quantization/unquant.py: UnquantizedFusedMoEMethod.create_moe_runner; "
        f"{_LAYERS}/moe/moe_runner/triton_utils/fused_moe.py: _fused_moe_kernel_sequence; "
        "sglang/jit_kernel/activation.py: _run_activation_inplace, _jit_activation_module",
        entries=(Asked("activation", "sglang.jit_kernel.activation:_jit_activation_module", {"dtype": "$dtype"}),),
    ),
    Rule(
        "sglang",
        {**_HERE, "model_type": ("qwen3", "qwen3_moe"), "head_dim": QK_NORM},
        "normalizes queries and keys together, but with --enable-deterministic-inference or Inductor's prefill graphs",
        "sglang/srt/models/qwen3.py: Qwen3Attention.forward_prepare_native; "
        "sglang/srt/models/qwen3_moe.py: Qwen3MoeAttention.apply_qk_norm_rope; "
        "sglang/srt/models/utils.py: apply_qk_norm; "
        "sglang/jit_kernel/norm.py: can_use_fused_inplace_qknorm, _jit_qknorm_module",
        entries=(
            Asked("qknorm", "sglang.jit_kernel.norm:_jit_qknorm_module", {"head_dim": "$head_dim", "dtype": "$dtype"}),
        ),
    ),
)

UNKNOWN = (
    Rule(
        "sglang",
        {"told": (False,)},
        "which modules of its own JIT it compiles: SGLang isn't installed here, and no `version:` is written",
        "",
    ),
    Rule(
        "sglang",
        {"version": _READ, "alone": (False,)},
        "what its own JIT compiles, one architecture at a time, for a target of several: write a target for each",
        "",
    ),
    Rule(
        "sglang",
        {"version": _READ, "told": (True,), "own_jit": (False,)},
        "which further modules of its own JIT it compiles, for this model",
        "",
    ),
    Rule(
        "sglang",
        {"version": _READ, "told": (True,), "own_jit": (True,), "half": (False,)},
        "which further modules of its own JIT it compiles: config.json tells neither float16 nor bfloat16",
        "",
    ),
    Rule("sglang", {**_EITHER, "plain_rope": (False,)}, "which kernel rotates, for this kind of rotary embedding", ""),
    Rule(
        "sglang",
        {**_EITHER, "kv_told": (False,)},
        "the KV cache's type, which a quantized model may say, and with it the kernel that writes into it",
        "sglang/srt/mem_cache/kv_cache_dtype.py: configure_kv_cache_dtype",
    ),
    Rule(
        "sglang",
        {**_EITHER, "storing": (False,)},
        "which kernel writes into the KV cache, for this attention backend",
        "",
    ),
    Rule("sglang", {"version": _READ, "quantization": _QUANTIZING}, "which modules of its own JIT quantize", ""),
    Rule(
        "sglang",
        {"version": _READ, "model_type": EXPERTS, "quantized": (True,)},
        "which modules of its own JIT its quantized experts take",
        "",
    ),
)


def is_known(facts: Facts) -> bool:
    """Whether the rules were read for this model, in this quantization.

    A Mixtral is another class of SGLang's for most; gpt-oss's experts, in mxfp4 or 16 bits, are those of the package
    triton_kernels, with their activation.
    """
    kind = facts.quantization
    another = {"mixtral": kind == "other", "gpt_oss": kind not in {"none", "mxfp4"}}
    return facts.model_type in (*DENSE, *GELU, *EXPERTS, "gpt_oss") and not another.get(facts.model_type, False)


def served(facts: Facts) -> Facts:
    """As SGLang serves a model: gpt-oss in mxfp4 with bfloat16, whatever else is said (_gpt_oss_overrides)."""
    if (facts.model_type, facts.quantization) != ("gpt_oss", "mxfp4"):
        return facts
    return replace(facts, dtype="bfloat16", fields=facts.fields | {"dtype": "quantization_config"})
