"""SGLang's normalization, which is FlashInfer's: an nvcc module, or CuTe-DSL kernels where they are installed.

Which of the two FlashInfer takes, it says itself, in the serving environment (serving/plan/plan_paths.py).
"""

from __future__ import annotations

from fitasks.models.rule import Asked, Rule

_LAYERS = "sglang/srt/layers/layernorm.py"
_ENTRIES = (Asked("norm", "norm", if_loaded=True),)

MODULES = (
    Rule(
        "sglang",
        {"model_type": ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3")},
        "normalizes with FlashInfer, but where torch.compile traces it",
        f"{_LAYERS}: RMSNorm.forward_cuda; sgl_kernel/elementwise.py: rmsnorm, fused_add_rmsnorm",
        entries=_ENTRIES,
    ),
    Rule(
        "sglang",
        {"model_type": ("gemma2",)},
        "normalizes in Gemma's way with FlashInfer, but where torch.compile traces it",
        f"{_LAYERS}: GemmaRMSNorm._forward_impl; sgl_kernel/elementwise.py: gemma_rmsnorm, gemma_fused_add_rmsnorm",
        entries=_ENTRIES,
    ),
    Rule(
        "sglang",
        {"model_type": ("gemma3_text",), "version": ("0.5.23",)},
        "normalizes in Gemma's way with FlashInfer, which 0.5.16 did without",
        f"{_LAYERS}: Gemma3RMSNorm.forward_cuda; sgl_kernel/elementwise.py: gemma_rmsnorm, gemma_fused_add_rmsnorm",
        entries=_ENTRIES,
    ),
)
