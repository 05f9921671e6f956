"""What several GPUs (tensor parallel) make an engine load: FlashInfer's all-reduce, and one of SGLang's own JIT.

How GPUs are joined no config.json tells. Where it decides, what each way loads is given.
"""

from __future__ import annotations

from fitasks.models.rule import Asked, Rule

FUSED = ("qwen3_moe", "gpt_oss", "deepseek_v3")  # of those that SGLang fuses all-reduce for
_HALF = ("float16", "bfloat16")
_DEVICES = "sglang/srt/distributed/device_communicators"
_FUSION = "vllm/compilation/passes/fusion/allreduce_rms_fusion.py: AllReduceFusionPass"
_VLLM = "vllm/distributed/device_communicators"
_TRTLLM = Asked("allreduce", "trtllm_comm")
_BOTH = (Asked("mnnvl", "trtllm_mnnvl_comm"), _TRTLLM)
_HOPPERS = {"architecture": ("9.0",), "gpus": (2, 4, 8)}
_LINKED = {
    "told": (True,),
    "alone": (True,),
    "dtype": _HALF,
    "architecture": ("8.0", "9.0"),
    "gpus": tuple(range(2, 9)),
}
_OWN = "all-reduce of its own, where every two GPUs are joined by NVLink, unless --disable-custom-all-reduce"
_OWN_SOURCE = (
    f"{_DEVICES}/custom_all_reduce.py: dispatch_custom_allreduce; "
    f"{_DEVICES}/custom_all_reduce_v2.py: CustomAllReduceV2, can_use_custom_all_reduce_v2; "
)
_CALLED = "custom_all_reduce, get_all_reduce_module, Communicator, IPCManager"


def _own_modules(place: str) -> tuple[Asked, ...]:
    """The three modules of SGLang's own all-reduce, whose functions are in this module of it."""
    return (
        Asked("all_reduce", f"{place}:get_all_reduce_module", {"dtype": "$dtype", "world_size": "$gpus"}),
        Asked("communicator", f"{place}:_init_communicator"),
        Asked("ipc", f"{place}:_init_ipc_manager"),
    )


MODULES = (
    Rule(
        "sglang",
        {"model_type": FUSED, "architecture": ("9.0",), "gpus": tuple(range(2, 9))},
        "fuses all-reduce with normalization, unless --enforce-disable-flashinfer-allreduce-fusion, data-parallel "
        "attention, an exchange of experts (--moe-a2a-backend) or --enable-deterministic-inference is asked for",
        "sglang/srt/arg_groups/overrides.py: _flashinfer_allreduce_fusion_auto_enable, "
        "_FLASHINFER_ALLREDUCE_FUSION_ARCHS; sglang/srt/layers/flashinfer_comm_fusion.py: _resolve_backend",
        entries=(_TRTLLM,),
    ),
    Rule(
        "sglang",
        {"version": ("0.5.16",), **_LINKED},
        _OWN,
        f"{_OWN_SOURCE}sglang/jit_kernel/all_reduce.py: {_CALLED}",
        entries=_own_modules("sglang.jit_kernel.all_reduce"),
    ),
    Rule(
        "sglang",
        {"version": ("0.5.23",), **_LINKED},
        _OWN,
        f"{_OWN_SOURCE}sglang/kernels/ops/communication/all_reduce.py: {_CALLED}, PushPlane; "
        f"{_DEVICES}/configs/custom_all_reduce_v2.py: _sm90_configs",
        entries=_own_modules("sglang.kernels.ops.communication.all_reduce"),
    ),
    Rule(
        "vllm",
        {**_HOPPERS, "version": ("0.26.0",)},
        "fuses all-reduce with normalization, but with --enforce-eager: mnnvl's kernels over NVSwitch's multicast, "
        "trtllm's where there is none",
        f"vllm/config/vllm.py: enable_allreduce_rms_fusion; {_FUSION}; "
        f"{_VLLM}/flashinfer_all_reduce.py: _resolve_fi_ar_backend, get_fi_ar_workspace",
        entries=_BOTH,
    ),
    Rule(
        "vllm",
        {**_HOPPERS, "version": ("0.33.0",)},
        "all-reduce, fused with normalization or not: mnnvl's kernels over NVSwitch's multicast, trtllm's where there "
        "is none; VLLM_ALLREDUCE_USE_FLASHINFER=0 and --enforce-eager together go without both",
        f"vllm/config/vllm.py: enable_allreduce_rms_fusion; {_FUSION}; "
        f"{_VLLM}/flashinfer_all_reduce.py: _resolve_fi_ar_backend, get_fi_ar_workspace; "
        f"{_VLLM}/cuda_communicator.py: CudaCommunicator",
        entries=_BOTH,
    ),
)

UNKNOWN = (
    Rule(
        "sglang",
        {"several_gpus": (True,), "architecture": ("8.9",)},
        "whether every two GPUs are joined by NVLink: then it compiles an all-reduce of its own",
        f"{_DEVICES}/custom_all_reduce.py: dispatch_custom_allreduce",
    ),
)
