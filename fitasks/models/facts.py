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
    experts: int  # of each layer, 0 where the file doesn't say
    hidden: int  # the width between layers, 0 where the file doesn't say
    plain_rope: bool  # a rotary embedding over whole heads, of the usual kind
    silu: bool
    intermediate: int  # the width of dense feed-forward layers, 0 where the file doesn't say
    fields: dict[str, str]

    def group(self, tensor_parallel: int) -> int:
        """Query heads per key-value head on one GPU; key-value heads are repeated where there are fewer than GPUs."""
        return (self.heads // tensor_parallel) // self.kv_heads_of_one(tensor_parallel)

    def kv_heads_of_one(self, tensor_parallel: int) -> int:
        """Key-value heads on one GPU."""
        return max(1, self.kv_heads // tensor_parallel)

    def intermediate_of_one(self, tensor_parallel: int) -> int:
        """The width of dense feed-forward layers on one GPU."""
        return self.intermediate // tensor_parallel


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
    return _facts(_Config.of(whole, file))


@dataclass(frozen=True)
class _Config:
    """A config.json while it is read. A multimodal model's language part is nested (`text_config`)."""

    file: Path
    whole: dict[str, Any]
    text: dict[str, Any]  # the language part
    known: dict[str, Any]  # its fields that say something, with those that its class leaves out
    prefix: str
    model_type: str
    fields: dict[str, str]  # what each fact was read from, noted on the way

    @classmethod
    def of(cls, whole: dict[str, Any], file: Path) -> _Config:
        """Raises BadInput."""
        nested = whole.get("text_config")
        text: dict[str, Any] = nested if isinstance(nested, dict) else whole
        prefix = "text_config." if text is not whole else ""
        model_type = _word(text.get("model_type") or whole.get("model_type") or "", f"{file}: {prefix}model_type")
        said = {name: value for name, value in text.items() if value is not None}
        known = _CLASS_DEFAULTS.get(model_type, {}) | said
        return cls(file, whole, text, known, prefix, model_type, {"model_type": f"{prefix}model_type"})

    def number(self, name: str, default: int | None = None) -> int:
        """Raises BadInput for what is no whole number of at least 1."""
        value = self.known.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _MOST:
            raise BadInput(f"{self.file}: {self.prefix}{name} is {brief(value)}, not a whole number of at least 1")
        told = f"{self.prefix}{name}" if name in self.text else f"{self.model_type}'s default {name}"
        self.fields[name] = told if name in self.known else f"no {self.prefix}{name}"
        return value

    def told(self, fact: str, *names: str) -> int:
        """The number that the first of these fields says, which is then the fact's; 0 where that is none."""
        name = next((name for name in names if name in self.known), names[0])
        value = self.known.get(name)
        self.fields[fact] = f"{self.prefix}{name}" if name in self.known else f"no {self.prefix}{name}"
        return value if type(value) is int and 0 < value < _MOST else 0

    def flag(self, fact: str, *names: str) -> bool:
        """Whether one of these fields says something, which is then the fact's."""
        found = next((name for name in names if self.known.get(name)), "")
        if found:
            self.fields[fact] = f"{self.prefix}{found}"
        return bool(found)


def _facts(config: _Config) -> Facts:
    heads = config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", heads)
    head_dim = _head_dim(config, heads)
    mla = config.flag("mla", "kv_lora_rank")
    said = config.whole.get("quantization_config")
    if said:
        config.fields["quantized"] = config.fields["quantization"] = "quantization_config"
    return Facts(
        model_type=config.model_type,
        dtype=_dtype(config),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=config.number("v_head_dim") if config.known.get("v_head_dim") and not mla else head_dim,
        window=_window(config),
        soft_cap=config.flag("soft_cap", "attn_logit_softcapping"),
        sinks=config.model_type in _SINKS,
        mla=mla,
        moe=config.flag("moe", *_EXPERTS),
        quantized=bool(said),
        quantization=_quantization(said) if said else "none",
        routing=_routing(config),
        experts=config.told("small_router", *_EXPERTS),
        hidden=config.told("hidden", "hidden_size"),
        plain_rope=_plain_rope(config),
        silu=config.known.get("hidden_act", "silu") == "silu",
        intermediate=config.told("aligned", "intermediate_size"),
        fields=config.fields,
    )


def _head_dim(config: _Config, heads: int) -> int:
    """Raises BadInput."""
    if "head_dim" in config.known:
        found = config.number("head_dim")
    else:
        found = config.number("hidden_size") // heads
        config.fields["head_dim"] = f"{config.prefix}hidden_size / num_attention_heads"
    if not found:
        said = f"{config.prefix}hidden_size is {config.known['hidden_size']}"
        raise BadInput(f"{config.file}: {said}, less than num_attention_heads")
    config.fields["row_bytes"] = f"{config.fields['num_key_value_heads']}, {config.fields['head_dim']}"
    return found


def _word(value: object, where: str) -> str:
    """A name that is shown, and compared with those that are known. Raises BadInput."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 100:
        raise BadInput(f"{where} is {brief(value)}, not a name")
    return value


def _dtype(config: _Config) -> str:
    """A multimodal model has it outside of its language part. Raises BadInput."""
    for place, record in (("", config.whole), ("text_config.", config.text)):
        for name in ("torch_dtype", "dtype"):
            if isinstance(record.get(name), str):
                config.fields["dtype"] = place + name
                dtype = str(record[name]).removeprefix("torch.")
                if dtype not in SHORT:
                    said = brief(record[name])
                    raise BadInput(f"{config.file}: {place}{name} is {said}; known are {', '.join(SHORT)}")
                return dtype
    return ""


def _window(config: _Config) -> str:
    """Layers with a sliding window. Gemma 2 and 3 alternate without listing layers; Qwen switches it off by a flag."""
    known = config.known
    layers = known.get("layer_types")
    if isinstance(layers, list) and layers:
        config.fields["window"] = f"{config.prefix}layer_types"
        sliding = sum(layer == "sliding_attention" for layer in layers)
        return "none" if not sliding else "all" if sliding == len(layers) else "some"
    if not known.get("sliding_window") or known.get("use_sliding_window") is False:
        return "none"
    config.fields["window"] = f"{config.prefix}sliding_window"
    return "some" if str(known.get("model_type", "")).startswith("gemma") else "all"


def _plain_rope(config: _Config) -> bool:
    """Whether the rotary embedding is of a kind that differs from others by its tables of sines alone."""
    known = config.known
    name = "rope_parameters" if known.get("rope_parameters") else "rope_scaling"
    scaling = known.get(name) or {"rope_type": "default"}
    if not isinstance(scaling, dict):
        return False
    config.fields["plain_rope"] = f"{config.prefix}{name}" if name in known else f"no {config.prefix}{name}"
    unusual = any(record.get(word) for record in (known, scaling) for word in _UNUSUAL_ROPE)
    part = any(record.get("partial_rotary_factor", 1) not in (1, None) for record in (known, scaling))
    turned = known.get("rope_is_neox_style") is False
    kind = scaling.get("rope_type", scaling.get("type"))
    return kind in _PLAIN_ROPE and not (unusual or part or turned)


def _quantization(said: object) -> str:
    """How weights are kept: fp8 in blocks of 128 by 128, or with activations' scale in the checkpoint."""
    record = said if isinstance(said, dict) else {}
    method, blocks = record.get("quant_method"), record.get("weight_block_size")
    if method != "fp8" or blocks not in (None, [128, 128]):
        return str(method) if method in _QUANTIZATIONS else "other"
    return "fp8-blocks" if blocks else "fp8-static" if record.get("activation_scheme") == "static" else "fp8"


_ROUTING = ("n_routed_experts", "n_group", "topk_group", "num_experts_per_tok")


def _routing(config: _Config) -> Routing | None:
    """None where a number is missing, or is none: then nothing is said of the kernel."""
    known = config.known
    told = (known.get(name) for name in _ROUTING)
    numbers = [number for number in told if type(number) is int and 0 < number < _MOST]
    if len(numbers) < len(_ROUTING):
        return None
    experts, groups, chosen, top_k = numbers
    config.fields["fused_routing"] = ", ".join(f"{config.prefix}{name}" for name in _ROUTING)
    biased, renormalized = known.get("topk_method") == "noaux_tc", known.get("norm_topk_prob") is True
    return Routing(experts, groups, chosen, top_k, biased, renormalized)
