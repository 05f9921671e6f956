"""Mixtures of experts: whose kernels choose the experts, and multiply with them.

With default flags neither engine takes FlashInfer's for experts in 16 bits, nor for those in fp8 blocks: SGLang takes
Triton's or DeepGEMM's, vLLM Triton's, on Hopper because they are faster there, below because FlashInfer has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.models.rule import Asked, Rule

if TYPE_CHECKING:
    from fitasks.models.facts import Facts, Routing

_TOPK = "sglang/srt/layers/moe/topk.py"
_GPT_OSS = "sglang/srt/models/gpt_oss.py"
_FUSED_MOE = "vllm/model_executor/layers/fused_moe"

MODULES = (
    Rule(
        "sglang",
        {"model_type": ("deepseek_v3",), "architecture": ("8.9", "9.0"), "fused_routing": (True,)},
        "chooses each token's experts, in groups, unless SGLANG_OPT_USE_JIT_KERNEL_GROUPED_TOPK=1",
        f"{_TOPK}: biased_grouped_topk_gpu, select_experts; sglang/srt/models/deepseek_v2.py: DeepseekV2MoE",
        entries=(Asked("routing", "dsv3_fused_routing"),),
    ),
    Rule(
        "sglang",
        {"model_type": ("gpt_oss",), "architecture": ("9.0",), "dtype": ("bfloat16",), "small_router": (True,)},
        "scores each token's experts, for up to 128 tokens, but with --enable-deterministic-inference",
        f"{_GPT_OSS}: TinyGemmLinear.__init__, TinyGemmLinear.forward, GptOssSparseMoeBlock.__init__",
        entries=(Asked("router", "tinygemm2"),),
    ),
    Rule(
        "vllm",
        {"moe": (True,), "architecture": ("9.0",), "quantization": ("fp8-static",)},
        "multiplies with experts in fp8 of one fixed scale, unless --moe-backend says otherwise",
        f"{_FUSED_MOE}/oracle/fp8.py: _get_priority_backends, select_fp8_moe_backend; "
        f"{_FUSED_MOE}/experts/flashinfer_cutlass_moe.py: FlashInferExperts; "
        "vllm/model_executor/layers/quantization/fp8.py: Fp8MoEMethod",
        entries=(Asked("experts", "cutlass_fused_moe_sm90"),),
    ),
)

_SPREAD = {"moe": (True,), "several_gpus": (True,)}
_EXCHANGE = "which modules experts take that are spread over GPUs"
_TELLS = "whether its experts' kernels come from FlashInfer, for this quantization"
UNKNOWN = (
    Rule("sglang", {"moe": (True,), "quantization": ("other",)}, _TELLS, ""),
    Rule("vllm", {"moe": (True,), "quantization": ("mxfp4", "other")}, _TELLS, ""),
    Rule("sglang", _SPREAD, f"{_EXCHANGE}: with --ep-size, --moe-a2a-backend or data-parallel attention", ""),
    Rule("vllm", _SPREAD, f"{_EXCHANGE}: with --enable-expert-parallel or data parallelism", ""),
    Rule(
        "sglang",
        {"model_type": ("deepseek_v3",), "fused_routing": (False,)},
        "which kernel chooses each token's experts: FlashInfer's isn't made for these numbers of experts and groups",
        f"{_TOPK}: biased_grouped_topk_gpu",
    ),
    Rule(
        "sglang",
        {"model_type": ("deepseek_v3",), "architecture": ("8.0",), "fused_routing": (True,)},
        "which kernel chooses each token's experts: SGLang takes FlashInfer's, which isn't for this GPU",
        f"{_TOPK}: biased_grouped_topk_gpu",
    ),
)


def small_router(facts: Facts) -> bool:
    """Whether gpt-oss's router has the sizes that FlashInfer's small product of matrices is for (TinyGemmLinear)."""
    return facts.experts > 0 and facts.hidden > 0 and facts.experts % 16 == 0 and facts.hidden % 64 == 0


def fused_routing(routing: Routing | None) -> bool:
    """Whether SGLang leaves the choice of experts to FlashInfer's kernel (biased_grouped_topk_gpu)."""
    if routing is None or not (routing.biased and routing.renormalized):
        return False
    experts, groups, chosen = routing.experts, routing.groups, routing.chosen_groups
    each = experts // groups
    fits = each <= 32 and each * chosen <= 128 if groups > 1 else experts <= 384
    enough = routing.top_k <= min(8, chosen * groups)
    return fits and enough and experts.bit_count() == 1 and chosen <= groups
