"""What the engines do, as data: read in the sources of the versions named, each rule with its place there.

`when` maps facts of a situation (see derive.py) to the values under which a rule applies. Of BACKENDS the first that
applies decides; of MODULES and UNKNOWN all that apply count. What isn't here isn't known: recording tells.
"""

from __future__ import annotations

from fitasks.models import communication, experts, sglang_jit, sglang_keyed, sglang_norm, vllm_hopper
from fitasks.models.rule import Asked, Rule

# The versions that were read, the newest last, each with those for which its rules are given, too, with a warning.
READ = {
    "sglang": {"0.5.16": r"0\.5\.16(?!\d)", "0.5.23": r"0\.5\.2\d"},
    "vllm": {"0.26.0": r"0\.26(?!\d)", "0.33.0": r"0\.3\d"},
}

# What these rules were read for; anything else is said to be unknown.
ARCHITECTURES = ("8.0", "8.9", "9.0")
FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mistral",
    "mixtral",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "deepseek_v3",
)

_SGLANG_DEFAULT = (
    "sglang/srt/arg_groups/model_override_base.py: get_default_attn_backend; "
    "in 0.5.16 sglang/srt/server_args.py: ServerArgs._get_default_attn_backend"
)
_SGLANG_BACKEND = "sglang/srt/layers/attention/flashinfer_backend.py: FlashInferAttnBackend"
_VLLM_PRIORITIES = "vllm/platforms/cuda.py: _get_backend_priorities"
_VLLM_FP8 = "vllm/v1/attention/backends/flash_attn.py: FlashAttentionBackend.supports_kv_cache_dtype"
_VLLM_BACKEND = "vllm/v1/attention/backends/flashinfer.py"

BACKENDS = (
    Rule(
        "sglang",
        {"fp8_e5m2": (True,), "architecture": ("9.0",), "speculative": (False,)},
        "an fp8_e5m2 KV cache on Hopper: Triton, because fa3 takes fp8_e4m3 alone",
        "sglang/srt/arg_groups/overrides.py: _attention_backend_fa3_fp8_fallback",
        "triton",
    ),
    Rule(
        "sglang",
        {"mla": (True,), "architecture": ("9.0",)},
        "MLA on Hopper: fa3, of SGLang's own kernels",
        _SGLANG_DEFAULT,
        "fa3",
    ),
    Rule("sglang", {"mla": (True,)}, "MLA elsewhere below Blackwell: Triton", _SGLANG_DEFAULT, "triton"),
    Rule(
        "sglang",
        {"architecture": ("9.0",), "speculative": (False,)},
        "Hopper: fa3, of SGLang's own kernels, because FlashInfer 0.6.1 was slower there",
        _SGLANG_DEFAULT,
        "fa3",
    ),
    Rule("sglang", {"sinks": (True,)}, "attention sinks: Triton, FlashInfer has none there", _SGLANG_DEFAULT, "triton"),
    Rule("sglang", {}, "SGLang's default: no rule before this one applies", _SGLANG_DEFAULT, "flashinfer"),
    Rule(
        "vllm",
        {"mla": (True,)},
        "MLA below Blackwell: FlashAttention or FlashMLA on Hopper, Triton elsewhere",
        f"{_VLLM_PRIORITIES}; FlashInfer's MLA backend wants compute capability 10",
        "other",
    ),
    Rule(
        "vllm",
        {"fp8_kv": (True,), "architecture": ("8.0", "8.9"), "sinks": (False,)},
        "an fp8 KV cache needs FlashAttention 3, which is Hopper's: FlashInfer is next",
        f"{_VLLM_PRIORITIES}; {_VLLM_FP8}",
        "flashinfer",
    ),
    Rule(
        "vllm",
        {"fp8_e5m2": (True,), "sinks": (False,)},
        "FlashAttention takes no fp8_e5m2 KV cache: FlashInfer is next",
        f"{_VLLM_PRIORITIES}; {_VLLM_FP8}",
        "flashinfer",
    ),
    Rule(
        "vllm",
        {"head_dim_over_256": (True,), "architecture": ("8.0", "8.9")},
        "a head dimension over 256 wants FlashAttention 4, which is for Hopper and newer: FlashInfer is next",
        f"{_VLLM_PRIORITIES}; vllm/v1/attention/backends/flash_attn.py: supports_head_size",
        "flashinfer",
    ),
    Rule("vllm", {}, "FlashAttention, of vLLM's own kernels", _VLLM_PRIORITIES, "other"),
)

MODULES = (
    Rule(
        "sglang",
        {},
        "samples with FlashInfer, unless --sampling-backend says otherwise",
        "sglang/srt/arg_groups/overrides.py: _sampling_backend_default; sglang/srt/layers/sampler.py",
        entries=(Asked("sampling", "sampling"),),
    ),
    Rule(
        "sglang",
        {"backend": ("flashinfer",), "mla": (False,), "architecture": ("8.0", "8.9")},
        "prefill of new tokens: ragged, in the model's type; FlashInfer chooses fa2 here",
        f"{_SGLANG_BACKEND}, prefill_wrapper_ragged",
        entries=(Asked("ragged", "batch_prefill", {"backend": "fa2", "dtype_q": "$dtype", "head_dim": "$head_dim"}),),
    ),
    Rule(
        "sglang",
        {"backend": ("flashinfer",), "mla": (False,), "architecture": ("9.0",)},
        "prefill of new tokens: ragged, in the model's type; FlashInfer chooses fa3 on Hopper",
        f"{_SGLANG_BACKEND}, prefill_wrapper_ragged (backend auto)",
        entries=(Asked("ragged", "batch_prefill", {"backend": "fa3", "dtype_q": "$dtype", "head_dim": "$head_dim"}),),
    ),
    Rule(
        "sglang",
        {"backend": ("flashinfer",), "mla": (False,)},
        "prefill over cached tokens, and decode with tensor cores: paged, always fa2; window and soft cap are given "
        "when it runs, so that the module is the plain one",
        f"{_SGLANG_BACKEND}, prefill_wrappers_paged",
        entries=(
            Asked(
                "paged",
                "batch_prefill",
                {"backend": "fa2", "dtype_q": "$dtype", "dtype_kv": "$kv_dtype", "head_dim": "$head_dim"},
            ),
        ),
    ),
    Rule(
        "sglang",
        {"backend": ("flashinfer",), "mla": (False,), "tensor_cores": (False,)},
        "fewer than 4 query heads per key-value head, and no fp8: decode without tensor cores",
        "sglang/srt/layers/attention/flashinfer_backend.py: should_use_tensor_core",
        entries=(
            Asked("decode", "batch_decode", {"dtype_q": "$dtype", "dtype_kv": "$kv_dtype", "head_dim": "$head_dim"}),
        ),
    ),
    Rule(
        "sglang",
        {"backend": ("flashinfer",), "mla": (False,)},
        "a cached prefix and new tokens are merged",
        "sglang/srt/layers/attention/flashinfer_backend.py: _safe_merge_state",
        entries=(Asked("cascade", "cascade"),),
    ),
    *sglang_norm.MODULES,
    *sglang_jit.MODULES,
    *sglang_keyed.MODULES,
    Rule(
        "vllm",
        {},
        "samples with FlashInfer where a request sets top-k or top-p (VLLM_USE_FLASHINFER_SAMPLER is on by default)",
        "vllm/v1/sample/ops/topk_topp_sampler.py: flashinfer_sample; vllm/envs.py",
        entries=(Asked("sampling", "sampling"),),
    ),
    Rule(
        "vllm",
        {"backend": ("flashinfer",), "mla": (False,), "architecture": ("8.0", "8.9"), "window": ("none", "all")},
        "prefill, and decode, which always uses tensor cores: paged; FlashInfer chooses fa2 here",
        f"{_VLLM_BACKEND}: FlashInferMetadataBuilder.build, _get_decode_wrapper (use_tensor_cores=True)",
        entries=(
            Asked(
                "paged",
                "batch_prefill",
                {
                    "backend": "fa2",
                    "dtype_q": "$dtype",
                    "dtype_kv": "$kv_dtype",
                    "head_dim": "$head_dim",
                    "use_sliding_window": "$windowed",
                    "use_logits_soft_cap": "$soft_cap",
                },
            ),
        ),
    ),
    *vllm_hopper.MODULES,
    *communication.MODULES,
    *experts.MODULES,
)

UNKNOWN = (
    *sglang_jit.UNKNOWN,
    *sglang_keyed.UNKNOWN,
    *communication.UNKNOWN,
    *experts.UNKNOWN,
    *vllm_hopper.UNKNOWN,
    Rule("sglang", {"mla": (True,), "backend": ("flashinfer",)}, "which modules FlashInfer's MLA backend loads", ""),
    Rule(
        "sglang",
        {"backend": ("flashinfer",), "window": ("some",)},
        "which module layers with a window load where prefill is paged only: with --enable-multimodal, "
        "--enable-deterministic-inference, full CUDA graphs of prefill or SGLANG_FLASHINFER_USE_PAGED",
        f"{_SGLANG_BACKEND}.init_forward_metadata (use_ragged)",
    ),
    Rule("vllm", {"mla": (True,), "backend": ("flashinfer",)}, "which modules FlashInfer's MLA backend loads", ""),
    Rule(
        "vllm",
        {"backend": ("flashinfer",), "window": ("some",)},
        "its FlashInfer backend wants one window for all layers",
        f"{_VLLM_BACKEND}: has_same_window_lefts",
    ),
    Rule("vllm", {"sinks": (True,), "architecture": ("8.0", "8.9")}, "which backend takes attention sinks here", ""),
    Rule("sglang", {"speculative": (True,)}, "which modules drafting and verification load", ""),
    Rule("vllm", {"speculative": (True,)}, "which modules drafting and verification load", ""),
    Rule("sglang", {"quantized": (True,)}, "whether its quantized matrix products come from FlashInfer", ""),
    Rule("vllm", {"quantized": (True,)}, "whether its quantized matrix products come from FlashInfer", ""),
)
