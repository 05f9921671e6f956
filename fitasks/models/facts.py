"""What a model's config.json says that decides about attention kernels, and which of its fields said it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# Fields that a published config.json leaves to the class that reads it (transformers' Gemma3TextConfig).
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
}
_SINKS = frozenset({"gpt_oss"})  # their sinks are weights, which no field of config.json announces
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class UnusableError(ValueError):
    """The file isn't a model's config.json, or lacks what every model has; the message says what."""


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
    fields: dict[str, str]

    def group(self, tensor_parallel: int) -> int:
        """Query heads per key-value head on one GPU; key-value heads are repeated where there are fewer than GPUs."""
        return (self.heads // tensor_parallel) // max(1, self.kv_heads // tensor_parallel)


def config_file(path: Path) -> Path:
    """The config.json that is meant: the file itself, or that of a downloaded model's directory."""
    return path / "config.json" if path.is_dir() else path


def read_facts(path: Path) -> Facts:
    """From a config.json, or the directory of a downloaded model. Raises OSError, UnusableError."""
    file = config_file(path)
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnusableError(f"{file} is no JSON: {error}") from None
    if not isinstance(whole, dict):
        raise UnusableError(f"{file} is no model's config.json")
    return _facts(whole, file)


def _facts(whole: dict[str, Any], file: Path) -> Facts:
    """A multimodal model's language part is nested (`text_config`), with the dtype outside."""
    nested = whole.get("text_config")
    text: dict[str, Any] = nested if isinstance(nested, dict) else whole
    prefix = "text_config." if text is not whole else ""
    model_type = str(text.get("model_type") or whole.get("model_type") or "")
    known = _CLASS_DEFAULTS.get(model_type, {}) | {name: value for name, value in text.items() if value is not None}
    fields: dict[str, str] = {"model_type": f"{prefix}model_type"}

    def number(name: str, default: int | None = None) -> int:
        value = known.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UnusableError(f"{file}: {prefix}{name} is {value!r}, not a number of at least 1")
        told = f"{prefix}{name}" if name in text else f"{model_type}'s default {name}"
        fields[name] = told if name in known else f"no {prefix}{name}"
        return value

    heads = number("num_attention_heads")
    kv_heads = number("num_key_value_heads", heads)
    if "head_dim" in known:
        head_dim = number("head_dim")
    else:
        head_dim = number("hidden_size") // heads
        fields["head_dim"] = f"{prefix}hidden_size / num_attention_heads"
    mla = "kv_lora_rank" in known
    return Facts(
        model_type=model_type,
        dtype=_dtype(whole, text, fields),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim if mla else int(known.get("v_head_dim") or head_dim),
        window=_window(known, fields, prefix),
        soft_cap=_flag(known, ("attn_logit_softcapping",), "soft_cap", fields, prefix),
        sinks=model_type in _SINKS,
        mla=_flag(known, ("kv_lora_rank",), "mla", fields, prefix),
        moe=_flag(known, _EXPERTS, "moe", fields, prefix),
        quantized=_flag(whole, ("quantization_config",), "quantized", fields, ""),
        fields=fields,
    )


def _dtype(whole: dict[str, Any], text: dict[str, Any], fields: dict[str, str]) -> str:
    for place, record in (("", whole), ("text_config.", text)):
        for name in ("torch_dtype", "dtype"):
            if isinstance(record.get(name), str):
                fields["dtype"] = place + name
                return str(record[name]).removeprefix("torch.")
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


def _flag(known: dict[str, Any], names: tuple[str, ...], fact: str, fields: dict[str, str], prefix: str) -> bool:
    found = next((name for name in names if known.get(name)), "")
    if found:
        fields[fact] = f"{prefix}{found}"
    return bool(found)
