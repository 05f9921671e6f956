"""A model on an engine on an architecture → entries, each with the rule that asks for it, and what isn't known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.config.shorthands import FOLLOWED, goes_without_saying
from fitasks.models import experts, rules, sglang_jit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.config.model import ModelRequest, Scalar
    from fitasks.models.facts import Facts
    from fitasks.models.rule import Rule

_KV_DTYPES = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
_HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Derived:
    """One entry as kernels.yaml would say it; `fields` are those of config.json that decided about it."""

    hint: str
    op: str
    params: dict[str, Scalar]
    rule: Rule
    fields: tuple[str, ...]
    if_loaded: bool = False  # only where FlashInfer, asked in the serving environment, takes its nvcc module


@dataclass(frozen=True)
class Answer:
    """For one architecture: the backend and why, the entries, and what only recording can tell."""

    architecture: str
    backend: str
    because: str
    source: str
    entries: tuple[Derived, ...]
    unknown: tuple[str, ...]


def derive(facts: Facts, request: ModelRequest, architecture: str, *, alone: bool = True) -> Answer:
    """The answer for one architecture ("9.0"), which is `alone` unless its target has several."""
    facts = sglang_jit.served(facts) if request.engine == "sglang" else facts
    situation = _situation(facts, request, architecture) | {"alone": alone}
    asked = request.attention_backend
    chosen = _first(request.engine, situation)
    given = asked != "auto"
    because, source = (f"attention_backend: {asked}", "kernels.yaml") if given else (chosen.says, chosen.source)
    situation["backend"] = asked if given else chosen.backend
    situation["storing"] = situation["backend"] in sglang_jit.STORING
    strange = _strange(facts, request, architecture)
    loading = _applying(rules.MODULES, request.engine, situation) if not strange else []
    entries = [derived for rule in loading for derived in _entries(rule, situation, facts)]
    if not facts.dtype and situation["backend"] == "flashinfer":
        entries = [entry for entry in entries if FOLLOWED not in entry.params]
        strange = [*strange, "config.json tells no torch_dtype, so attention's modules"]
    unknown = [rule.says for rule in _applying(rules.UNKNOWN, request.engine, situation)]
    told = (*strange, *_warning(request), *unknown) if not strange else (*strange, *unknown)
    return Answer(architecture, situation["backend"], because, source, tuple(entries), told)


def read_version(engine: str, version: str) -> str:
    """Return the version that was read whose rules are given for this one: the newest for "", "" where none is."""
    read = rules.READ[engine]
    if not version:
        return list(read)[-1]
    return next((one for one, alike in read.items() if re.match(alike, version)), "")


def _situation(facts: Facts, request: ModelRequest, architecture: str) -> dict[str, Any]:
    kv_dtype = _KV_DTYPES.get(request.kv_cache_dtype, facts.dtype)
    fp8_kv = request.kv_cache_dtype in _KV_DTYPES
    return _own_jit(facts, request) | {
        "version": read_version(request.engine, request.version),
        "told": bool(request.version),
        "architecture": architecture,
        "mla": facts.mla,
        "sinks": facts.sinks,
        "moe": facts.moe,
        "quantized": facts.quantized,
        "window": facts.window,
        "windowed": facts.window == "all",
        "soft_cap": facts.soft_cap,
        "speculative": request.speculative,
        "quantization": facts.quantization,
        "fused_routing": experts.fused_routing(facts.routing),
        "small_router": experts.small_router(facts),
        "gpus": request.tensor_parallel,
        "several_gpus": request.tensor_parallel > 1,
        "fp8_kv": fp8_kv,
        "fp8_e5m2": request.kv_cache_dtype == "fp8_e5m2",
        "tensor_cores": fp8_kv or facts.group(request.tensor_parallel) >= 4,
        "head_dim_over_256": facts.head_dim > 256,
        "dtype": facts.dtype,
        "kv_dtype": kv_dtype,
        "head_dim": facts.head_dim,
        "group": facts.group(request.tensor_parallel),
    }


def _own_jit(facts: Facts, request: ModelRequest) -> dict[str, Any]:
    """What decides about SGLang's own JIT alone."""
    kv_dtype = _KV_DTYPES.get(request.kv_cache_dtype, facts.dtype)
    size = 1 if request.kv_cache_dtype in _KV_DTYPES else 2
    row = facts.kv_heads_of_one(request.tensor_parallel) * size
    row_bytes = row * facts.head_dim
    return {
        "model_type": facts.model_type,
        "own_jit": sglang_jit.is_known(facts),
        "fused_store": facts.model_type in sglang_jit.STORING_WHILE_ROTATING and kv_dtype == "bfloat16",
        "half": facts.dtype in _HALF,
        "plain_rope": facts.plain_rope,
        "fused_rope": facts.head_dim in sglang_jit.FUSED_ROPE,
        "silu": facts.silu,
        "rows": facts.head_dim == facts.v_head_dim and row_bytes % 4 == 0,
        "kv_told": request.kv_cache_dtype in _KV_DTYPES or not facts.quantized or facts.quantization == "mxfp4",
        "row_bytes": row_bytes,
        "v_row_bytes": row * facts.v_head_dim,
        "aligned": facts.intermediate_of_one(request.tensor_parallel) % 8 == 0 if facts.intermediate else None,
    }


def _strange(facts: Facts, request: ModelRequest, architecture: str) -> list[str]:
    """Why the rules say nothing at all: they were read for certain engines' versions, models and GPUs."""
    found = []
    if facts.model_type not in rules.FAMILIES:
        found.append(f"model_type {facts.model_type or 'not told'}: the rules are for {', '.join(rules.FAMILIES)}")
    if architecture not in rules.ARCHITECTURES:
        found.append(f"architecture {architecture}: the rules are for {', '.join(rules.ARCHITECTURES)}")
    if not read_version(request.engine, request.version):
        read = " and ".join(rules.READ[request.engine])
        found.append(f"{request.engine} {request.version}: the rules were read in {read}")
    return found


def _warning(request: ModelRequest) -> list[str]:
    read = read_version(request.engine, request.version)
    if request.version in {"", read}:
        return []
    return [f"whether {request.engine} {request.version} does as {read}, in which the rules were read"]


def _first(engine: str, situation: Mapping[str, Any]) -> Rule:
    return next(rule for rule in rules.BACKENDS if rule.engine == engine and _applies(rule, situation))


def _applying(table: tuple[Rule, ...], engine: str, situation: Mapping[str, Any]) -> list[Rule]:
    return [rule for rule in table if rule.engine == engine and _applies(rule, situation)]


def _applies(rule: Rule, situation: Mapping[str, Any]) -> bool:
    return all(situation[name] in values for name, values in rule.when.items())


def _entries(rule: Rule, situation: Mapping[str, Any], facts: Facts) -> list[Derived]:
    found = []
    for entry in rule.entries:
        params = {name: _filled(value, situation) for name, value in entry.params.items()}
        said = params if ":" in entry.op else _worth_saying(params)
        used = [str(value)[1:] for value in entry.params.values() if str(value).startswith("$")] + list(rule.when)
        fields = tuple(dict.fromkeys(facts.fields[name] for name in used if name in facts.fields))
        found.append(Derived(entry.hint, entry.op, said, rule, fields, entry.if_loaded))
    return found


def _worth_saying(params: dict[str, Any]) -> dict[str, Any]:
    """Without FlashInfer's defaults, as a person would: dtype_kv like dtype_q, flags that are false."""
    return {
        name: value
        for name, value in params.items()
        if value is not False and not goes_without_saying(name, value, params)
    }


def _filled(value: Any, situation: Mapping[str, Any]) -> Any:
    return situation[value[1:]] if isinstance(value, str) and value.startswith("$") else value
