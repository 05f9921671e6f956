"""From a published model's config.json to entries, and from these to the names that FlashInfer's own functions give."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fitasks.base.errors import BadInput
from fitasks.config.model import Config, ModelRequest, Position, Serving
from fitasks.models import rules
from fitasks.models.derive import Answer, derive
from fitasks.models.facts import Facts, read_facts
from fitasks.models.kernels import answers
from fitasks.plan.plan import effective
from fitasks.plan.server import Package, Server
from tests.doit_project import Planned, Project
from tests.serving.planner_runs import PLAN, environment, request_of

CONFIGS = Path(__file__).parent / "configs"
DENSE = ["llama-3.1-8b", "llama-3.2-1b", "qwen2.5-7b", "qwen3-8b", "mistral-7b-v0.1", "gemma-2-9b", "gemma-3-4b"]
MODELS = [*DENSE, "qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-20b", "deepseek-v3"]


def request(name: str, engine: Any = "sglang", **more: Any) -> ModelRequest:
    return ModelRequest(name, str(CONFIGS / f"{name}.json"), engine, Position("kernels.yaml", 3, 3), **more)


def answer(name: str, architecture: str, engine: Any = "sglang", **more: Any) -> Answer:
    return derive(read_facts(CONFIGS / f"{name}.json"), request(name, engine, **more), architecture)


def entries(told: Answer) -> list[str]:
    """`batch_prefill fa2 bfloat16 d128 kv=float8_e4m3fn`, short enough to compare: FlashInfer's, without SGLang's own."""
    found = []
    for entry in (one for one in told.entries if ":" not in one.op):
        words = dict(entry.params)
        values = [words.pop(name, "") for name in ("backend", "dtype_q")]
        dim = words.pop("head_dim", None)
        parts = [entry.op, *map(str, filter(None, values)), f"d{dim}" if dim else ""]
        found.append(" ".join([*filter(None, parts), *(f"{name}={value}" for name, value in words.items())]))
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_on_hopper_with_default_flags_no_attention_is_flashinfers(name: str, engine: str) -> None:
    told = answer(name, "9.0", engine)
    routing = {"deepseek-v3": ["dsv3_fused_routing"], "gpt-oss-20b": ["tinygemm2"]}.get(name, [])
    assert entries(told) == ["sampling", *(["norm", *routing] if engine == "sglang" else [])]
    assert told.backend != "flashinfer"


DIMS = {
    "llama-3.1-8b": 128,
    "llama-3.2-1b": 64,
    "qwen2.5-7b": 128,
    "qwen3-8b": 128,
    "qwen3-30b-a3b": 128,
    "mistral-7b-v0.1": 128,
}


@pytest.mark.parametrize("name", DIMS)
@pytest.mark.parametrize("architecture", ["8.0", "8.9"])
def test_sglang_below_hopper(name: str, architecture: str) -> None:
    """Four query heads or more for each key-value head: decode uses prefill's module."""
    prefill = f"batch_prefill fa2 bfloat16 d{DIMS[name]}"
    assert entries(answer(name, architecture)) == ["sampling", prefill, prefill, "cascade", "norm"]


@pytest.mark.parametrize("name", ["gemma-2-9b", "gemma-3-4b"])
def test_few_query_heads_decode_without_tensor_cores(name: str) -> None:
    """Two for each; the soft cap and the window are given when it runs, so that the modules are the plain ones."""
    prefill = "batch_prefill fa2 bfloat16 d256"
    told = answer(name, "8.0")
    assert entries(told) == ["sampling", prefill, prefill, "batch_decode bfloat16 d256", "cascade", "norm"]
    assert any("where prefill is paged only" in one for one in told.unknown)


def test_an_fp8_cache_decodes_with_tensor_cores() -> None:
    told = answer("gemma-2-9b", "8.9", kv_cache_dtype="fp8_e4m3")
    assert entries(told) == [
        "sampling",
        "batch_prefill fa2 bfloat16 d256",
        "batch_prefill fa2 bfloat16 d256 dtype_kv=float8_e4m3fn",
        "cascade",
        "norm",
    ]


@pytest.mark.parametrize(
    ("name", "architecture", "backend", "more"),
    [
        ("gpt-oss-20b", "8.0", "triton", []),
        ("gpt-oss-20b", "9.0", "fa3", ["tinygemm2"]),
        ("deepseek-v3", "8.0", "triton", []),
        ("deepseek-v3", "9.0", "fa3", ["dsv3_fused_routing"]),
    ],
)
def test_sinks_and_mla_on_sglang(name: str, architecture: str, backend: str, more: list[str]) -> None:
    told = answer(name, architecture)
    assert (told.backend, entries(told)) == (backend, ["sampling", "norm", *more])
    assert "whether its quantized matrix products come from FlashInfer" in told.unknown


def test_flashinfer_asked_for_on_hopper() -> None:
    told = answer("llama-3.1-8b", "9.0", attention_backend="flashinfer")
    assert entries(told) == [
        "sampling",
        "batch_prefill fa3 bfloat16 d128",
        "batch_prefill fa2 bfloat16 d128",
        "cascade",
        "norm",
    ]
    assert told.source == "kernels.yaml"
    mla = answer("deepseek-v3", "9.0", attention_backend="flashinfer")
    assert entries(mla) == ["sampling", "norm", "dsv3_fused_routing"]
    assert "which modules FlashInfer's MLA backend loads" in mla.unknown


@pytest.mark.parametrize("name", MODELS)
def test_vllm_below_hopper(name: str) -> None:
    told = answer(name, "8.0", "vllm")
    assert entries(told) == ["sampling"]
    assert ("which backend takes attention sinks here" in told.unknown) == (name == "gpt-oss-20b")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-8b", "batch_prefill fa2 bfloat16 d128 dtype_kv=float8_e4m3fn"),
        ("mistral-7b-v0.1", "batch_prefill fa2 bfloat16 d128 dtype_kv=float8_e4m3fn use_sliding_window=True"),
    ],
)
def test_an_fp8_cache_makes_vllm_take_flashinfer(name: str, expected: str) -> None:
    assert entries(answer(name, "8.9", "vllm", kv_cache_dtype="fp8_e4m3")) == ["sampling", expected]


HOPPER = {"attention_backend": "flashinfer"}
XQA = "xqa d{dim} input_dtype=bfloat16 kv_cache_dtype={kv} output_dtype=bfloat16 page_size=16 head_group_ratio={group}"


def xqa(dim: int, group: int, kv: str = "bfloat16", more: str = "") -> str:
    return XQA.format(dim=dim, kv=kv, group=group) + more


@pytest.mark.parametrize("version", ["0.26.0", "0.33.0"])
def test_vllm_with_flashinfer_on_hopper(version: str) -> None:
    """On an H200 without a network, vLLM 0.26.0 was seen to ask for the first three."""
    assert entries(answer("llama-3.1-8b", "9.0", "vllm", version=version, **HOPPER)) == [
        "sampling",
        "batch_prefill fa3 bfloat16 d128",
        "batch_prefill fa2 bfloat16 d128",
        xqa(128, 4),
    ]


def test_vllm_with_flashinfer_and_an_fp8_cache_on_hopper() -> None:
    """Prefill quantizes queries, decode doesn't."""
    told = answer("qwen2.5-7b", "9.0", "vllm", version="0.26.0", kv_cache_dtype="fp8_e4m3", tensor_parallel=4, **HOPPER)
    assert entries(told) == [
        "sampling",
        "batch_prefill fa3 float8_e4m3fn d128 dtype_o=bfloat16",
        "batch_prefill fa2 bfloat16 d128 dtype_kv=float8_e4m3fn",
        xqa(128, 7, "float8_e4m3fn"),
        "trtllm_mnnvl_comm",
        "trtllm_comm",
    ]


def test_a_window_on_hopper_is_for_vllm_0_33_alone() -> None:
    old, new = (answer("mistral-7b-v0.1", "9.0", "vllm", version=version, **HOPPER) for version in ("0.26.0", "0.33.0"))
    assert entries(old) == ["sampling"]
    assert "on Hopper its FlashInfer backend refuses layers with a window" in old.unknown
    assert entries(new) == [
        "sampling",
        "batch_prefill fa3 bfloat16 d128 use_sliding_window=True",
        "batch_prefill fa2 bfloat16 d128 use_sliding_window=True",
        xqa(128, 4, more=" use_sliding_window=True"),
    ]


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("gpt-oss-20b", {}, "which modules take attention sinks on Hopper"),
        ("llama-3.1-8b", {"kv_cache_dtype": "fp8_e5m2"}, "which modules an fp8_e5m2 KV cache takes on Hopper"),
    ],
)
def test_what_vllm_does_on_hopper_and_nobody_read(name: str, more: dict[str, Any], said: str) -> None:
    told = answer(name, "9.0", "vllm", version="0.33.0", **HOPPER, **more)
    assert entries(told) == ["sampling"]
    assert said in told.unknown


def test_a_large_head_dimension_is_flashattentions_on_hopper() -> None:
    facts = replace(read_facts(CONFIGS / "llama-3.1-8b.json"), head_dim=512)
    backends = [derive(facts, request("llama-3.1-8b", "vllm"), one).backend for one in ("8.0", "9.0")]
    assert backends == ["flashinfer", "other"]


def test_windows_on_some_layers_are_not_vllms_flashinfer() -> None:
    told = answer("gemma-2-9b", "8.9", "vllm", kv_cache_dtype="fp8_e4m3")
    assert entries(told) == ["sampling"]
    assert "its FlashInfer backend wants one window for all layers" in told.unknown


def test_more_gpus_than_key_value_heads() -> None:
    facts = read_facts(CONFIGS / "qwen2.5-7b.json")
    assert [facts.group(gpus) for gpus in (1, 2, 4, 7, 14)] == [7, 7, 7, 4, 2]
    told = answer("qwen2.5-7b", "8.0", tensor_parallel=14)
    assert "batch_decode bfloat16 d128" in entries(told)


def test_speculative_decoding_on_hopper() -> None:
    told = answer("llama-3.1-8b", "9.0", speculative=True)
    assert told.backend == "flashinfer"
    assert "which modules drafting and verification load" in told.unknown


@pytest.mark.parametrize(
    ("more", "architecture", "said"),
    [
        ({}, "10.0", "architecture 10.0: the rules are for 8.0, 8.9, 9.0"),
        ({"version": "0.4.9"}, "8.0", "sglang 0.4.9: the rules were read in 0.5.16 and 0.5.23"),
    ],
)
def test_beyond_what_was_read_nothing_is_guessed(more: dict[str, Any], architecture: str, said: str) -> None:
    told = answer("llama-3.1-8b", architecture, **more)
    assert entries(told) == []
    assert said in told.unknown


def test_another_version_of_the_same_line_gets_a_warning() -> None:
    told = answer("llama-3.1-8b", "8.0", version="0.5.20")
    assert len(entries(told)) == 5
    assert told.unknown[0] == "whether sglang 0.5.20 does as 0.5.23, in which the rules were read"


def own_jit(told: Answer) -> dict[str, dict[str, Any]]:
    """Entries of SGLang's own JIT by the function's name."""
    return {
        entry.op.partition(":_jit_")[2].removesuffix("_module"): dict(entry.params)
        for entry in told.entries
        if ":" in entry.op
    }


def test_sglangs_own_jit_of_a_llama() -> None:
    told = answer("llama-3.1-8b", "9.0", version="0.5.16")
    assert own_jit(told) == {
        "fused_rope": {"is_neox": True, "rope_dim": 128, "dtype": "bfloat16"},
        "kvcache": {"row_bytes": 2048},
        "clamp_position": {"dtype": "int64"},
        "activation": {"dtype": "bfloat16"},
    }
    assert told.unknown == ()


@pytest.mark.parametrize(
    ("name", "more", "row_bytes"),
    [
        ("llama-3.1-8b", {"tensor_parallel": 2}, 4 * 128 * 2),
        ("llama-3.1-8b", {"tensor_parallel": 16}, 1 * 128 * 2),  # repeated: more GPUs than key-value heads
        ("llama-3.1-8b", {"kv_cache_dtype": "fp8_e4m3"}, 8 * 128),
        ("llama-3.1-8b", {"kv_cache_dtype": "fp8_e5m2", "tensor_parallel": 4}, 2 * 128),
        ("llama-3.2-1b", {}, 8 * 64 * 2),
        ("qwen2.5-7b", {}, 4 * 128 * 2),
        ("mistral-7b-v0.1", {"attention_backend": "flashinfer"}, 8 * 128 * 2),
    ],
)
def test_a_row_of_the_cache(name: str, more: dict[str, Any], row_bytes: int) -> None:
    assert own_jit(answer(name, "9.0", version="0.5.16", **more))["kvcache"] == {"row_bytes": row_bytes}


def test_only_qwen3_normalizes_queries_and_keys() -> None:
    told = {name: own_jit(answer(name, "8.0", version="0.5.16")) for name in DENSE}
    assert [name for name in DENSE if "qknorm" in told[name]] == ["qwen3-8b"]
    assert told["qwen3-8b"]["qknorm"] == {"head_dim": 128, "dtype": "bfloat16"}
    assert [name for name in DENSE if len(told[name]) == 1] == ["gemma-3-4b"]


def test_sglangs_own_jit_of_mixtures_of_experts() -> None:
    """Qwen 3 writes into a cache in bfloat16 while it rotates; Mixtral doesn't, nor has it norms of queries and keys."""
    qwen, mixtral = ("qwen3-30b-a3b", "mixtral-8x7b")
    first = {"fused_rope", "clamp_position", "activation"}
    told = {name: own_jit(answer(name, "9.0", version="0.5.16")) for name in (qwen, mixtral)}
    assert told[qwen].keys() == first | {"qknorm"}
    assert told[mixtral].keys() == first | {"kvcache"}
    assert told[mixtral]["kvcache"] == {"row_bytes": 8 * 128 * 2}
    fp8 = own_jit(answer(qwen, "9.0", version="0.5.16", kv_cache_dtype="fp8_e4m3"))
    assert fp8["kvcache"] == {"row_bytes": 4 * 128}


def test_sglangs_own_jit_of_gpt_oss() -> None:
    """Served in bfloat16, whatever config.json says; another quantization is another matter."""
    told = answer("gpt-oss-20b", "9.0", version="0.5.16")
    assert own_jit(told) == {
        "fused_rope": {"is_neox": True, "rope_dim": 64, "dtype": "bfloat16"},
        "kvcache": {"row_bytes": 8 * 64 * 2},
        "clamp_position": {"dtype": "int64"},
    }
    assert [entry.fields[-1] for entry in told.entries if entry.hint == "kvcache"] == ["quantization_config"]
    facts = replace(read_facts(CONFIGS / "gpt-oss-20b.json"), quantization="fp8", dtype="bfloat16")
    assert own_jit(derive(facts, request("gpt-oss-20b", version="0.5.16"), "9.0")).keys() == {"clamp_position"}


@pytest.mark.parametrize("kind", ["fp8-blocks", "other"])
def test_quantized_experts_are_not_known(kind: str) -> None:
    for name in ("qwen3-30b-a3b", "mixtral-8x7b"):
        facts = replace(read_facts(CONFIGS / f"{name}.json"), quantization=kind, quantized=True)
        told = derive(facts, request(name, version="0.5.16"), "9.0")
        assert "activation" not in own_jit(told)
        assert "which modules of its own JIT its quantized experts take" in told.unknown
        assert ("fused_rope" in own_jit(told)) == ((name, kind) != ("mixtral-8x7b", "other"))


OWN_JIT = "which further modules of its own JIT it compiles"


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("gemma-3-4b", {"version": "0.5.16"}, f"{OWN_JIT}, for this model"),
        ("gemma-3-4b", {"version": "0.5.23"}, f"{OWN_JIT}, for this model"),
        ("deepseek-v3", {"version": "0.5.23"}, f"{OWN_JIT}, for this model"),
        ("deepseek-v3", {"version": "0.5.16"}, f"{OWN_JIT}, for this model"),
    ],
)
def test_where_its_own_jit_isnt_known(name: str, more: dict[str, Any], said: str) -> None:
    """But of the positions, which every model's decode takes."""
    told = answer(name, "9.0", **more)
    assert own_jit(told) == {"clamp_position": {"dtype": "int64"}}
    assert said in told.unknown


@pytest.mark.parametrize(
    ("changed", "missing", "said"),
    [
        ({"rope_scaling": {"rope_type": "longrope"}}, {"fused_rope"}, "which kernel rotates"),
        (
            {"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
            {"fused_rope"},
            "which kernel rotates",
        ),
        ({"rope_scaling": ["llama3"]}, {"fused_rope"}, "which kernel rotates"),
        ({"partial_rotary_factor": 0.5}, {"fused_rope"}, "which kernel rotates"),
        ({"rope_is_neox_style": False}, {"fused_rope"}, "which kernel rotates"),
        ({"quantization_config": {"quant_method": "fp8"}}, {"kvcache"}, "the KV cache's type"),
        ({"torch_dtype": "float32"}, {"fused_rope", "kvcache", "activation"}, "neither float16 nor"),
    ],
)
def test_what_config_json_leaves_open_is_left_out_and_said(
    tmp_path: Path, changed: dict[str, Any], missing: set[str], said: str
) -> None:
    config = json.loads((CONFIGS / "llama-3.1-8b.json").read_text()) | changed
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = derive(read_facts(tmp_path), request("llama-3.1-8b", version="0.5.16"), "9.0")
    assert {"fused_rope", "kvcache", "clamp_position", "activation"} - own_jit(told).keys() == missing
    assert any(said in one for one in told.unknown)


def test_a_head_dimension_without_a_fused_kernel(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "llama-3.1-8b.json").read_text()) | {"head_dim": 96}
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = own_jit(derive(read_facts(tmp_path), request("llama-3.1-8b", version="0.5.16"), "9.0"))
    assert (told["rotary_embedding"], "fused_rope" in told) == ({}, False)


def test_a_target_of_several_architectures_is_no_target_of_sglangs_own_jit() -> None:
    told = answers(request("llama-3.1-8b", version="0.5.16"), ["8.0 9.0a", "9.0a"])
    assert [bool(own_jit(one)) for one in (*told["8.0 9.0a"], *told["9.0a"])] == [False, False, True]
    assert all(any("write a target for each" in said for said in one.unknown) for one in told["8.0 9.0a"])


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "gemma-3-4b"])
def test_without_a_version_nothing_of_its_own_jit_is_given(name: str) -> None:
    """There is no SGLang in the serving environment then, whose functions plan these modules."""
    told = answer(name, "9.0", tensor_parallel=2)
    assert own_jit(told) == {}
    assert [one for one in told.unknown if "own JIT" in one] == [
        "which modules of its own JIT it compiles: SGLang isn't installed here, and no `version:` is written"
    ]


def test_an_unknown_attention_backend_stores_in_its_own_way() -> None:
    told = answer("llama-3.1-8b", "9.0", version="0.5.16", attention_backend="other")
    assert "kvcache" not in own_jit(told)
    assert "which kernel writes into the KV cache, for this attention backend" in told.unknown


def test_fa3_takes_no_fp8_e5m2() -> None:
    assert answer("llama-3.1-8b", "9.0", kv_cache_dtype="fp8_e5m2").backend == "triton"


def test_an_unknown_family(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "llama-3.1-8b.json").read_text()) | {"model_type": "brandnew"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = derive(read_facts(tmp_path), request("llama-3.1-8b"), "8.0")
    assert entries(told) == []
    assert told.unknown[0].startswith("model_type brandnew: the rules are for llama, ")


def test_facts_and_the_fields_that_said_them() -> None:
    facts = read_facts(CONFIGS / "gemma-3-4b.json")
    assert (facts.heads, facts.kv_heads, facts.head_dim, facts.window) == (8, 4, 256, "some")
    assert facts.fields["head_dim"] == "gemma3_text's default head_dim"
    assert facts.fields["dtype"] == "torch_dtype"
    assert facts.fields["window"] == "text_config.sliding_window"
    llama = read_facts(CONFIGS / "llama-3.1-8b.json")
    assert llama.fields["head_dim"] == "hidden_size / num_attention_heads"


def test_no_dtype_no_attention_modules(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "llama-3.1-8b.json").read_text())
    del config["torch_dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = derive(read_facts(tmp_path), request("llama-3.1-8b"), "8.0")
    assert entries(told) == ["sampling", "cascade", "norm"]
    assert "config.json tells no torch_dtype, so attention's modules" in told.unknown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no model's config.json"),
        ("{}", "num_attention_heads is None, not a whole number of at least 1"),
        ('{"num_attention_heads": 0}', "num_attention_heads is 0, not a whole number"),
        ('{"num_attention_heads": 8}', "hidden_size is None, not a whole number"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_facts(tmp_path)


def test_every_rule_can_apply() -> None:
    """A rule that no model, flag or GPU ever meets would be a mistake in its conditions."""
    fired = set()
    flags: list[dict[str, Any]] = [
        {},
        {"kv_cache_dtype": "fp8_e4m3"},
        {"kv_cache_dtype": "fp8_e5m2"},
        {"attention_backend": "flashinfer"},
        {"attention_backend": "flashinfer", "kv_cache_dtype": "fp8_e4m3"},
        {"attention_backend": "other"},
        {"speculative": True, "tensor_parallel": 2},
    ]
    for name in MODELS:
        facts = read_facts(CONFIGS / f"{name}.json")
        odd = (
            replace(facts, head_dim=96, plain_rope=False, quantization="fp8-static"),
            replace(facts, dtype="float32", quantized=True, routing=None),
            replace(facts, intermediate=0),
        )
        for one in (facts, replace(facts, head_dim=512), replace(facts, head_dim=96, quantized=True), *odd):
            fired |= _fired(one, flags)
    known = {rule.says for rule in (*rules.BACKENDS, *rules.MODULES, *rules.UNKNOWN)}
    assert known - fired == set()


def _fired(facts: Facts, flags: list[dict[str, Any]]) -> set[str]:
    found: set[str] = set()
    versions = [(engine, version) for engine, read in rules.READ.items() for version in ("", *read)]
    for (engine, version), architecture, more in itertools.product(versions, rules.ARCHITECTURES, flags):
        asked = request("llama-3.1-8b", engine, version=version, **more)
        told = derive(facts, asked, architecture, alone=architecture == "9.0")
        found |= {told.because, *told.unknown, *(entry.rule.says for entry in told.entries)}
    return found


KERNELS = """\
serving: {engine: sglang}
targets: ["8.0", "9.0a"]
models:
  llama: {config: llama}
  gemma: {config: gemma/config.json, kv_cache_dtype: fp8_e4m3}
kernels: {}
"""

# What FlashInfer's own functions call the modules: of the project below, and of vLLM's calls on Hopper with a 16-bit and
# an fp8 cache, the arguments in the order of FlashInfer's wrappers. Then the planner, in the same process.
NAMES = """
import gc; gc.disable()
import json, runpy, sys, torch
from flashinfer.jit.attention import modules
from flashinfer.jit.xqa import gen_xqa_module
half, fp8, i32 = torch.bfloat16, torch.float8_e4m3fn, torch.int32
prefill = lambda backend, q, kv, dim=128: modules.get_batch_prefill_uri(backend, q, kv, half, i32, dim, dim, 0, *3 * [False])
xqa = lambda kv: gen_xqa_module(half, kv, 16, 128, 4, False, half, 1).name
ours = [prefill("fa2", half, half), prefill("fa2", half, half, 256), prefill("fa2", half, fp8, 256)]
vllms = [prefill("fa3", half, half), prefill("fa2", half, half), xqa(half)]
vllms += [prefill("fa3", fp8, fp8), prefill("fa2", half, fp8), xqa(fp8)]
print(json.dumps([ours, vllms]), flush=True)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Names(NamedTuple):
    project: list[str]
    vllm: list[str]
    planned: list[str]  # for vLLM


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Names:
    directory = tmp_path_factory.mktemp("names")
    told = [
        answer("llama-3.1-8b", "9.0", "vllm", version="0.26.0", kv_cache_dtype=kv, **HOPPER)
        for kv in ("auto", "fp8_e4m3")
    ]
    wanted = [(entry.op, dict(entry.params)) for one in told for entry in one.entries if entry.op != "sampling"]
    (directory / "request.json").write_text(json.dumps(request_of(*wanted)))
    command = [sys.executable, "-c", NAMES, str(PLAN), "request.json", str(directory / "response.json")]
    env = environment(directory)
    said = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=True)
    planned = [kernel["name"] for kernel in json.loads((directory / "response.json").read_text())["kernels"]]
    ours, vllms = json.loads(said.stdout.splitlines()[-1])
    return Names(ours, vllms, planned)


def with_models(project: Project) -> None:
    for name, config in (("llama", "llama-3.1-8b"), ("gemma", "gemma-2-9b")):
        (project.root / name).mkdir()
        shutil.copy(CONFIGS / f"{config}.json", project.root / name / "config.json")


@pytest.fixture
def project(planned: Planned) -> Project:
    return planned.project(KERNELS, with_models)


def test_planned_under_the_names_that_flashinfer_gives(project: Project, names: Names) -> None:
    listed = project.doit("list", "--all")
    for label in ("llama.sampling@80", "llama.sampling@90a", "gemma.paged-fa2-bf16-kv_e4m3-d256@80"):
        assert f"kernel:{label} " in listed
    assert "llama.ragged" not in listed.replace("llama.ragged-fa2-bf16-d128@80", ""), "not on Hopper"
    plan = json.loads((project.root / ".fitasks" / "plan.json").read_text())
    planned = {kernel["name"] for kernel in plan["kernels"] if kernel["op"] == "batch_prefill"}
    assert planned == {f"{name}_kv_stride_equal" for name in names.project}


def test_vllms_modules_on_hopper_are_planned_under_the_names_that_flashinfer_gives(names: Names) -> None:
    assert [name.removesuffix("_kv_stride_equal") for name in names.planned] == names.vllm


def test_a_changed_config_json_is_planned_anew(project: Project) -> None:
    assert "planning" not in project.doit("list") + project.stderr
    config = project.root / "llama" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 32', '"num_attention_heads": 64'))
    assert "llama.ragged-fa2-bf16-d64@80" in project.doit("list", "--all")
    assert "planning" in project.stderr


def test_norm_is_planned_where_flashinfer_loads_its_module(project: Project) -> None:
    """This environment has nvidia-cutlass-dsl, whose kernels FlashInfer prefers."""
    why = "norm: CuTe-DSL, compiled in memory by each process"
    assert "kernel:llama.norm" not in project.doit("list", "--all")
    assert "  {op: norm}\n      normalizes with FlashInfer" in (out := project.doit("explain_models"))
    assert f"\n      left out: {why}\n" in out
    said = project.doit("check", "--json", "check.json", status=1)
    assert f"Without a module: llama.norm (9.0a): {why}" in said
    told = json.loads((project.root / "check.json").read_text())["not_loaded"]
    assert {"entry": "llama.norm", "target": "9.0a", "why": why} in told
    project.env["FLASHINFER_USE_CUDA_NORM"] = "1"
    listed = project.doit("list", "--all")
    assert "kernel:llama.norm@90a " in listed
    assert "kernel:gemma.norm@80 " in listed
    assert "left out" not in project.doit("explain_models")


def test_explained(project: Project) -> None:
    out = project.doit("explain_models")
    assert (
        "llama on sglang, 8.0 (targets: 8.0)\n  attention backend: flashinfer (SGLang's default: no rule before this one applies) [sglang/srt/"
        in out
    )
    assert "{op: batch_prefill, backend: fa2, dtype_q: bfloat16, dtype_kv: float8_e4m3fn, head_dim: 256}" in out
    assert "; by torch_dtype, head_dim" in out
    assert "llama on sglang, 9.0 (targets: 9.0a)\n  attention backend: fa3 (Hopper: fa3, of SGLang's own kernels" in out


def planned_versions(installed: str, written: str) -> list[str]:
    """The engine's version that the model's kernels are derived for."""
    server = Server(Path("python"), "sglang", Path(), (), {}, (Package("sglang", installed, ""),) if installed else ())
    model = request("llama-3.1-8b", version=written)
    config = Config("kernels.yaml", Serving(), ("9.0a",), sm90=True, cudart="check", kernels=(), models=(model,))
    made = effective(config, ("9.0a",), server)
    own = {kernel.op.split(".")[1] for kernel in made.kernels if kernel.op.startswith("sglang.")}
    where = {"0.5.16": {"jit_kernel"}, "0.5.23": {"kernels"}}
    assert own == where.get(made.models[0].version, set()), "without SGLang its functions can't be asked"
    return [model.version for model in made.models]


def test_the_installed_engine_is_the_one_that_serves() -> None:
    assert planned_versions("0.5.16", "") == ["0.5.16"]
    assert planned_versions("0.5.16", "0.5.23") == ["0.5.23"], "what is written counts"
    assert planned_versions("unknown", "") == planned_versions("", "") == [""]


def test_mistakes_name_their_place(tmp_path: Path) -> None:
    project = Project.make(tmp_path, KERNELS)
    with_models(project)
    (project.root / "llama" / "config.json").unlink()
    project.doit("list", status=2)
    assert "kernels.yaml:4:3: models.llama.config: " in project.stderr
    assert "No such file or directory" in project.stderr
    (project.root / "kernels.yaml").write_text("models: {llama: {config: llama, enigne: vllm}}\n")
    project.doit("list", status=2)
    assert "models.llama.enigne" in project.stderr
    assert "did you mean engine?" in project.stderr
    (project.root / "kernels.yaml").write_text("models: {llama: {config: llama}}\n")
    project.doit("list", status=2)
    assert "kernels.yaml:1:10: models.llama: no engine; add `engine: sglang` or `engine: vllm`" in project.stderr
