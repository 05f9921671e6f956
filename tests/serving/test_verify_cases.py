"""The checks of `doit verify` over a FlashInfer in torch: they pass, fail where it is wrong, and call what exists."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving.flashinfer_wheels import directory_of

torch = pytest.importorskip("torch")


SERVING = str(Path(__file__).resolve().parents[2] / "fitasks" / "serving" / "verify")
VERSIONS = ["0.6.7.post3", "0.7.4"]
SOURCES = [
    *("decode", "prefill", "cascade", "page", "rope", "sampling", "topk", "activation"),
    *("norm/__init__", "quantization/packbits", "mla", "mla/_batch_mla/_wrapper"),
]

HALF = {"dtype_q": "float16", "dtype_kv": "float16", "dtype_o": "float16", "dtype_idx": "int32"}
FLAGS = {"pos_encoding_mode": 0, "use_sliding_window": False, "use_logits_soft_cap": False}
DECODE = {**HALF, "head_dim_qk": 64, "head_dim_vo": 64, **FLAGS}
PREFILL = {"backend": "fa2", **DECODE, "use_fp16_qk_reduction": False}
BF16 = dict.fromkeys(("dtype_q", "dtype_kv", "dtype_o"), "bfloat16")
MLA = {"backend": "fa2", **HALF, "head_dim_ckv": 512, "head_dim_kpe": 64, "use_profiler": False}
WINDOW, CAP = {"use_sliding_window": True}, {"use_logits_soft_cap": True}

SMALLER: dict[str, dict[str, Any]] = {
    "verify_attention": {"_DECODED": [1, 17, 130], "_QUERIES": [1, 33, 40], "_KEYS": [150, 33, 107]},
    "verify_sampling": {"_ROWS": 6000, "_SIZE": 200, "_VOCABULARY": 3000, "_BATCH": 7},
    "verify_elementwise": {"_ROWS": 9},
}
KERNELS: dict[str, tuple[str, dict[str, Any]]] = {
    "decode": ("batch_decode", DECODE),
    "decode, float8 cache": ("batch_decode", {**DECODE, "dtype_kv": "float8_e4m3fn"}),
    "decode, bfloat16 out": ("batch_decode", {**DECODE, "dtype_o": "bfloat16"}),
    "decode, window and cap": ("batch_decode", {**DECODE, **BF16, **WINDOW, **CAP}),
    "prefill": ("batch_prefill", PREFILL),
    "prefill, fa3": ("batch_prefill", {**PREFILL, **BF16, "backend": "fa3"}),
    "prefill, window": ("batch_prefill", {**PREFILL, **BF16, **WINDOW}),
    "prefill, cap": ("batch_prefill", {**PREFILL, **BF16, **CAP}),
    "prefill, DeepSeek": ("batch_prefill", {**PREFILL, **BF16, "head_dim_qk": 192, "head_dim_vo": 128}),
    "prefill, float8 cache": ("batch_prefill", {**PREFILL, **BF16, "dtype_kv": "float8_e4m3fn"}),
    "mla": ("batch_mla", MLA),
    "cascade": ("cascade", {}),
    "page": ("page", {}),
    "quantization": ("quantization", {}),
    "sampling": ("sampling", {}),
    "norm": ("norm", {}),
    "rope": ("rope", {}),
    "silu": ("act_and_mul", {"act_func_name": "silu"}),
    "gelu": ("act_and_mul", {"act_func_name": "gelu"}),
    "gelu_tanh": ("act_and_mul", {"act_func_name": "gelu_tanh"}),
    "topk": ("topk", {}),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """FlashInfer in torch, and the cases on the CPU, smaller."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more would wait for each other, over so little
    monkeypatch.syspath_prepend(SERVING)
    mine = importlib.import_module("fake_flashinfer")
    mine.install(monkeypatch)
    for name in [name for name in sys.modules if name.startswith("verify_") and name != "verify_reference"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.import_module("verify_inputs"), "DEVICE", "cpu")
    for module, sizes in SMALLER.items():
        for name, size in sizes.items():
            monkeypatch.setattr(importlib.import_module(module), name, size)
    return mine


def errors(kernel: str) -> dict[str, float]:
    """Each check's error over its tolerance."""
    cases = importlib.import_module("verify_cases")
    found = {}
    for what, compute in cases.checks_for(*KERNELS[kernel]):
        error, tolerance, run = compute()
        run()
        assert what not in found
        found[what] = error / tolerance if tolerance else math.inf if error else 0.0
    return found


def in_place(what: str) -> bool:
    """Whether a function's output is one of its inputs, so that no NaN can stand there before."""
    return any(word in what for word in ("in_place", "inplace", "fused_add"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_right_passes_and_what_is_unwritten_fails(fake: Any, kernel: str) -> None:
    right, most = errors(kernel), 1.0 if kernel == "sampling" else 0.5
    assert right
    assert all(error <= most for error in right.values()), right
    fake.FAULTS.add("unwritten")
    unwritten = errors(kernel)
    assert all(error == math.inf or (error > 1 and in_place(what)) for what, error in unwritten.items()), unwritten


@pytest.mark.parametrize(
    ("fault", "kernel"),
    [
        ("no cap", "decode, window and cap"),
        ("no cap", "prefill, cap"),
        ("cap", "decode, window and cap"),
        ("cap", "prefill, cap"),
        ("no window", "decode, window and cap"),
        ("no window", "prefill, window"),
        ("page", "decode, window and cap"),
        ("page", "prefill, window"),
        ("scale", "decode"),
        ("scale", "prefill, DeepSeek"),
        ("table", "decode"),
        ("table", "prefill, float8 cache"),
        ("table", "mla"),
        ("beside", "page"),
        ("twice", "topk"),
    ],
)
def test_what_is_wrong_fails_every_check(fake: Any, fault: str, kernel: str) -> None:
    fake.FAULTS.add(fault)
    found = {what: error for what, error in errors(kernel).items() if not (fault == "table" and "ragged" in what)}
    assert found
    assert all(error > 3 for error in found.values()), found


@pytest.mark.parametrize(
    ("fault", "kernel", "named"),
    [
        ("mask", "prefill", ("paged, causal", "ragged, causal")),
        ("mask", "mla", ("paged, causal",)),
        ("masked", "cascade", ("merge_state_in_place",)),
        ("gemma", "norm", ("gemma",)),
        ("llama31", "rope", ("apply_llama31",)),
        ("uniform", "sampling", ("sampling_from_", "chain_speculative_sampling")),
        ("filter", "sampling", ("top_", "min_p", "softmax")),
    ],
)
def test_what_is_wrong_in_one_function_fails_its_checks_only(
    fake: Any, fault: str, kernel: str, named: tuple[str, ...]
) -> None:
    fake.FAULTS.add(fault)
    found = errors(kernel)
    assert {what for what, error in found.items() if error > 1} == {what for what in found if what.startswith(named)}


@pytest.mark.parametrize(
    ("op", "params", "why"),
    [
        ("batch_decode", {**DECODE, "dtype_idx": "int64"}, "page tables of int64"),
        ("batch_prefill", {**PREFILL, "dtype_idx": "int64"}, "page tables of int64"),
        ("batch_mla", {**MLA, "dtype_idx": "int64"}, "page tables of int64"),
        ("batch_decode", {**DECODE, "head_dim_vo": 128}, "head_dim_qk other than head_dim_vo"),
        ("batch_prefill", {**PREFILL, "dtype_q": "float8_e4m3fn"}, "quantized queries or outputs"),
        ("batch_prefill", {**PREFILL, "dtype_kv": "uint8"}, "a cache of uint8"),
        ("batch_prefill", {**PREFILL, "dtype_kv": "float4"}, "dtype_kv float4"),
        ("batch_prefill", {**PREFILL, "pos_encoding_mode": 1}, "a position encoding inside attention"),
        ("batch_prefill", {**PREFILL, "use_fp16_qk_reduction": True}, "scores summed up in float16"),
        ("batch_prefill", {**PREFILL, "head_dim_vo": 128, "dtype_kv": "float8_e5m2"}, "head_dim_qk other than"),
        ("batch_mla", {**MLA, "dtype_kv": "float8_e4m3fn"}, "quantized or profiled MLA"),
        ("act_and_mul", {"act_func_name": "swish"}, "no reference for swish"),
        ("fused_moe", {}, "no reference for fused_moe"),
    ],
)
def test_what_has_no_reference_says_why(fake: Any, op: str, params: dict[str, Any], why: str) -> None:
    cases = importlib.import_module("verify_cases")
    with pytest.raises(cases.UnsupportedError, match=why):
        next(cases.checks_for(op, params))


def test_decode_by_tensor_cores_belongs_to_the_module_that_is_loaded_for_it(fake: Any) -> None:
    cases = importlib.import_module("verify_cases")
    named = {name: [what for what, _ in cases.checks_for(*kernel)] for name, kernel in KERNELS.items()}
    assert "decode by tensor cores" in named["prefill"]
    assert "decode by tensor cores" not in named["prefill, fa3"]
    assert named["prefill, DeepSeek"] == ["ragged, causal", "ragged, not causal"]
    assert named["prefill, window"] == ["paged, causal", "ragged, causal", "decode by tensor cores"]
    assert named["prefill, float8 cache"] == ["paged, causal", "paged, not causal", "decode by tensor cores"]


def test_every_call_fits_every_flashinfer(fake: Any) -> None:
    """Names and arguments, by the signatures in the sources of FlashInfer."""
    fake.CALLS.clear()
    for kernel in KERNELS:
        errors(kernel)
    for version in VERSIONS:
        signatures = read_signatures(version)
        for name, positional, keywords in sorted(fake.CALLS):
            signature = signatures.get(name.replace(".plan", "._plan_impl"), signatures[name])
            own = [None] if "." in name else []
            signature.bind(*own, *[None] * positional, **dict.fromkeys(keywords))


def read_signatures(version: str) -> dict[str, inspect.Signature]:
    """`function` or `Class.method` → its signature; of overloads the last, which is the implementation."""
    package = directory_of(version) or Path(str(importlib.metadata.distribution("flashinfer-python").locate_file(".")))
    files = [file for pattern in SOURCES for file in package.glob(f"flashinfer/{pattern}.py")]
    found: dict[str, inspect.Signature] = {}
    for node in (node for file in files for node in ast.parse(file.read_text()).body):
        if isinstance(node, ast.FunctionDef):
            found[node.name] = signature_of(node)
        elif isinstance(node, ast.ClassDef):
            methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
            found |= {f"{node.name}.{one.name}": signature_of(one) for one in methods}
    return found


def signature_of(node: ast.FunctionDef) -> inspect.Signature:
    given, kind = node.args, inspect.Parameter
    plain = [*given.posonlyargs, *given.args]
    required = len(plain) - len(given.defaults)
    parameters = [
        kind(one.arg, kind.POSITIONAL_OR_KEYWORD, default=kind.empty if index < required else None)
        for index, one in enumerate(plain)
    ]
    parameters += [kind(given.vararg.arg, kind.VAR_POSITIONAL)] if given.vararg else []
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        parameters.append(kind(one.arg, kind.KEYWORD_ONLY, default=None if default else kind.empty))
    parameters += [kind(given.kwarg.arg, kind.VAR_KEYWORD)] if given.kwarg else []
    return inspect.Signature(parameters)
