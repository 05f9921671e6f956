"""What a model's config.json says that decides about attention kernels, and which of its fields said it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.base.border import brief, read_json
from fitasks.base.errors import BadInput
from fitasks.config.dtypes import SHORT

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 16 << 20  # of a config.json; published ones have some kB
_MOST = 1 << 31  # more than any number of heads, or their dimension

# Fields that a published config.json leaves to the class that reads it (transformers' Gemma3TextConfig).
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
}
_SINKS = frozenset({"gpt_oss"})  # their sinks are weights, which no field of config.json announces
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

_PLAIN_ROPE = ("default", "llama3", "linear", "dynamic", "yarn")
_UNUSUAL_ROPE = ("mrope_section", "use_fope", "dual_chunk_attention_config")


_QUANTIZATIONS = ("mxfp4",)  # that rules tell apart from others, beside fp8


@dataclass(frozen=True)
class Routing:
    """How a mixture of experts in groups chooses: DeepSeek V3's kind is `biased` and weights are `renormalized`."""

    experts: int
    groups: int
    chosen_groups: int
    top_k: int
    biased: bool
    renormalized: bool


@dataclass(frozen=True)
class Facts:
    """Of a whole model; heads before they are divided over GPUs. `fields` maps a fact to what it was read from."""

    model_type: str
    dtype: str  # "bfloat16", "" where the file doesn't say
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: str  # "none", "all" or "some" layers
    soft_cap: bool
    sinks: bool
    mla: bool
    moe: bool
    quantized: bool
    quantization: str  # "none", "fp8-blocks", "fp8-static", "fp8", "mxfp4" or "other"
    routing: Routing | None
    plain_rope: bool  # a rotary embedding over whole heads, of the usual kind
    silu: bool
    fields: dict[str, str]

    def group(self, tensor_parallel: int) -> int:
        """Query heads per key-value head on one GPU; key-value heads are repeated where there are fewer than GPUs."""
        return (self.heads // tensor_parallel) // self.kv_heads_of_one(tensor_parallel)

    def kv_heads_of_one(self, tensor_parallel: int) -> int:
        """Key-value heads on one GPU."""
        return max(1, self.kv_heads // tensor_parallel)


def config_file(path: Path) -> Path:
    """The config.json that is meant: the file itself, or that of a downloaded model's directory."""
    try:
        return path / "config.json" if stat.S_ISDIR(path.stat().st_mode) else path
    except (OSError, ValueError):  # reading it says why
        return path


def read_facts(path: Path) -> Facts:
    """From a config.json, or the directory of a downloaded model. Raises BadInput.

    Only what is read here has to be finite: models of the Mamba kind have a `time_step_limit` of Infinity.
    """
    file = config_file(path)
    whole = read_json(file, MOST_BYTES, finite=False)
    if not isinstance(whole, dict):
        raise BadInput(f"{file} is no model's config.json: found {brief(whole)}, not an object")
    return _facts(whole, file)


def _facts(whole: dict[str, Any], file: Path) -> Facts:
    """A multimodal model's language part is nested (`text_config`), with the dtype outside."""
    nested = whole.get("text_config")
    text: dict[str, Any] = nested if isinstance(nested, dict) else whole
    prefix = "text_config." if text is not whole else ""
    model_type = _word(text.get("model_type") or whole.get("model_type") or "", f"{file}: {prefix}model_type")
    known = _CLASS_DEFAULTS.get(model_type, {}) | {name: value for name, value in text.items() if value is not None}
    fields: dict[str, str] = {"model_type": f"{prefix}model_type"}

    def number(name: str, default: int | None = None) -> int:
        value = known.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _MOST:
            raise BadInput(f"{file}: {prefix}{name} is {brief(value)}, not a whole number of at least 1")
        told = f"{prefix}{name}" if name in text else f"{model_type}'s default {name}"
        fields[name] = told if name in known else f"no {prefix}{name}"
        return value

    heads = number("num_attention_heads")
    kv_heads = number("num_key_value_heads", heads)
    if "head_dim" in known:
        head_dim = number("head_dim")
    else:
        head_dim = number("hidden_size") // heads
        if not head_dim:
            raise BadInput(f"{file}: {prefix}hidden_size is {known['hidden_size']}, less than num_attention_heads")
        fields["head_dim"] = f"{prefix}hidden_size / num_attention_heads"
    fields["row_bytes"] = f"{fields['num_key_value_heads']}, {fields['head_dim']}"
    mla = "kv_lora_rank" in known
    return Facts(
        model_type=model_type,
        dtype=_dtype(whole, text, fields, file),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=number("v_head_dim") if known.get("v_head_dim") and not mla else head_dim,
        window=_window(known, fields, prefix),
        soft_cap=_flag(known, ("attn_logit_softcapping",), "soft_cap", fields, prefix),
        sinks=model_type in _SINKS,
        mla=_flag(known, ("kv_lora_rank",), "mla", fields, prefix),
        moe=_flag(known, _EXPERTS, "moe", fields, prefix),
        quantized=_flag(whole, ("quantization_config",), "quantized", fields, ""),
        quantization=_quantization(whole.get("quantization_config"), fields),
        routing=_routing(known, fields, prefix),
        plain_rope=_plain_rope(known, fields, prefix),
        silu=known.get("hidden_act", "silu") == "silu",
        fields=fields,
    )


def _word(value: object, where: str) -> str:
    """A name that is shown, and compared with those that are known. Raises BadInput."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 100:
        raise BadInput(f"{where} is {brief(value)}, not a name")
    return value


def _dtype(whole: dict[str, Any], text: dict[str, Any], fields: dict[str, str], file: Path) -> str:
    for place, record in (("", whole), ("text_config.", text)):
        for name in ("torch_dtype", "dtype"):
            if isinstance(record.get(name), str):
                fields["dtype"] = place + name
                dtype = str(record[name]).removeprefix("torch.")
                if dtype not in SHORT:
                    raise BadInput(f"{file}: {place}{name} is {brief(record[name])}; known are {', '.join(SHORT)}")
                return dtype
    return ""


def _window(known: dict[str, Any], fields: dict[str, str], prefix: str) -> str:
    """Layers with a sliding window. Gemma 2 and 3 alternate without listing layers; Qwen switches it off by a flag."""
    layers = known.get("layer_types")
    if isinstance(layers, list) and layers:
        fields["window"] = f"{prefix}layer_types"
        sliding = sum(layer == "sliding_attention" for layer in layers)
        return "none" if not sliding else "all" if sliding == len(layers) else "some"
    if not known.get("sliding_window") or known.get("use_sliding_window") is False:
        return "none"
    fields["window"] = f"{prefix}sliding_window"
    return "some" if str(known.get("model_type", "")).startswith("gemma") else "all"


def _plain_rope(known: dict[str, Any], fields: dict[str, str], prefix: str) -> bool:
    """Whether the rotary embedding is of a kind that differs from others by its tables of sines alone."""
    name = "rope_parameters" if known.get("rope_parameters") else "rope_scaling"
    scaling = known.get(name) or {"rope_type": "default"}
    if not isinstance(scaling, dict):
        return False
    fields["plain_rope"] = f"{prefix}{name}" if name in known else f"no {prefix}{name}"
    unusual = any(record.get(word) for record in (known, scaling) for word in _UNUSUAL_ROPE)
    part = any(record.get("partial_rotary_factor", 1) not in (1, None) for record in (known, scaling))
    turned = known.get("rope_is_neox_style") is False
    kind = scaling.get("rope_type", scaling.get("type"))
    return kind in _PLAIN_ROPE and not (unusual or part or turned)


def _quantization(said: object, fields: dict[str, str]) -> str:
    """How weights are kept: fp8 in blocks of 128 by 128, or with activations' scale in the checkpoint."""
    if not said:
        return "none"
    fields["quantization"] = "quantization_config"
    record = said if isinstance(said, dict) else {}
    method, blocks = record.get("quant_method"), record.get("weight_block_size")
    if method != "fp8" or blocks not in (None, [128, 128]):
        return str(method) if method in _QUANTIZATIONS else "other"
    return "fp8-blocks" if blocks else "fp8-static" if record.get("activation_scheme") == "static" else "fp8"


_ROUTING = ("n_routed_experts", "n_group", "topk_group", "num_experts_per_tok")


def _routing(known: dict[str, Any], fields: dict[str, str], prefix: str) -> Routing | None:
    """None where a number is missing, or is none: then nothing is said of the kernel."""
    told = (known.get(name) for name in _ROUTING)
    numbers = [number for number in told if type(number) is int and 0 < number < _MOST]
    if len(numbers) < len(_ROUTING):
        return None
    experts, groups, chosen, top_k = numbers
    fields["fused_routing"] = ", ".join(f"{prefix}{name}" for name in _ROUTING)
    biased, renormalized = known.get("topk_method") == "noaux_tc", known.get("norm_topk_prob") is True
    return Routing(experts, groups, chosen, top_k, biased, renormalized)


def _flag(known: dict[str, Any], names: tuple[str, ...], fact: str, fields: dict[str, str], prefix: str) -> bool:
    found = next((name for name in names if known.get(name)), "")
    if found:
        fields[fact] = f"{prefix}{found}"
    return bool(found)
