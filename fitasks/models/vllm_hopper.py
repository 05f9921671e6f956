"""vLLM with FlashInfer's attention on Hopper: fa3 for prefill, and for decode fa2 or XQA.

vLLM asks the network which of the two decodes: XQA where the package flashinfer-cubin is installed or NVIDIA's server
of compiled kernels answers, fa2 where there is neither. A server may be started in both ways, so that both are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitasks.models.rule import Asked, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = "vllm/v1/attention/backends/flashinfer.py"
_BUILDER = f"{_FILE}: FlashInferMetadataBuilder"
_HALF = ("float16", "bfloat16")
_HERE = {
    "backend": ("flashinfer",),
    "architecture": ("9.0",),
    "mla": (False,),
    "sinks": (False,),
    "fp8_e5m2": (False,),
    "dtype": _HALF,
}
_VERSIONS: tuple[Mapping[str, tuple[str, ...]], ...] = (  # 0.26 refuses windows on Hopper
    {"version": ("0.26.0",), "window": ("none",)},
    {"version": ("0.33.0",), "window": ("none", "all")},
)
_FLAGS = {"use_sliding_window": "$windowed", "use_logits_soft_cap": "$soft_cap"}
_FP8 = {"dtype_q": "$kv_dtype", "dtype_kv": "$kv_dtype", "dtype_o": "$dtype"}
_MIXED = {"dtype_q": "$dtype", "dtype_kv": "$kv_dtype"}
_XQA = {
    "input_dtype": "$dtype",
    "kv_cache_dtype": "$kv_dtype",
    "output_dtype": "$dtype",
    "page_size": 16,
    "head_dim": "$head_dim",
    "head_group_ratio": "$group",
    "use_sliding_window": "$windowed",
}
_DIMS = (64, 128, 256)  # that fa3 is made for

# What each loads: when, why, where it was read, and the module.
_LOADED: tuple[tuple[Mapping[str, tuple[Any, ...]], str, str, Asked], ...] = (
    (
        {"head_dim": _DIMS, "fp8_kv": (False,)},
        "prefill: paged, FlashInfer chooses fa3 on Hopper",
        f"{_BUILDER}.build, FlashInferMetadataBuilder._get_prefill_wrapper",
        Asked("prefill", "batch_prefill", {"backend": "fa3", "dtype_q": "$dtype", "head_dim": "$head_dim", **_FLAGS}),
    ),
    (
        {"head_dim": _DIMS, "fp8_kv": (True,)},
        "prefill over an fp8 KV cache: paged, with queries in fp8 as well, which fa3 wants",
        f"{_BUILDER}.build, FlashInferMetadataBuilder.get_q_data_type",
        Asked("prefill", "batch_prefill", {"backend": "fa3", **_FP8, "head_dim": "$head_dim", **_FLAGS}),
    ),
    (
        {},
        "decode where flashinfer-cubin isn't installed and NVIDIA's server of kernels doesn't answer: paged, fa2",
        (
            f"{_BUILDER}.__init__, FlashInferMetadataBuilder._get_decode_wrapper, "
            "FlashInferMetadataBuilder.get_q_data_type; "
            "vllm/utils/flashinfer.py: has_nvidia_artifactory, supports_trtllm_attention"
        ),
        Asked("decode", "batch_prefill", {"backend": "fa2", **_MIXED, "head_dim": "$head_dim", **_FLAGS}),
    ),
    (
        {"head_dim": tuple(range(16, 257, 16)), "soft_cap": (False,)},
        "decode where one of them is there: XQA, over blocks of 16 tokens, unless --block-size says otherwise",
        (
            f"{_BUILDER}.__init__, FlashInferMetadataBuilder._get_flashinfer_trtllm_api_decode_kernel; "
            "vllm/utils/flashinfer.py: can_use_trtllm_attention; vllm/config/cache.py: CacheConfig"
        ),
        Asked("xqa", "xqa", _XQA),
    ),
)

MODULES = tuple(
    Rule("vllm", {**_HERE, **version, **when}, says, source, entries=(asked,))
    for version in _VERSIONS
    for when, says, source, asked in _LOADED
)

_ASKED = {"backend": ("flashinfer",), "architecture": ("9.0",), "mla": (False,)}
UNKNOWN = (
    Rule(
        "vllm",
        {**_ASKED, "version": ("0.26.0",), "window": ("all",)},
        "on Hopper its FlashInfer backend refuses layers with a window",
        f"{_BUILDER}.__init__",
    ),
    Rule("vllm", {**_ASKED, "fp8_e5m2": (True,)}, "which modules an fp8_e5m2 KV cache takes on Hopper", ""),
    Rule("vllm", {**_ASKED, "sinks": (True,)}, "which modules take attention sinks on Hopper", ""),
    Rule(
        "vllm", {**_ASKED, "head_dim_over_256": (True,)}, "which module a head dimension over 256 takes for prefill", ""
    ),
)
