"""Configurations of FlashInfer, each as an entry of kernels.yaml and as a call of FlashInfer's own wrapper.

    python wrapper_calls.py ANSWER.json [LABEL …]

Runs in the interpreter and environment of a server, without a GPU: the wrappers are called on CPU tensors, the GPU's
capability is what FLASHINFER_CUDA_ARCH_LIST says, and `build_and_load` is recorded instead of done. ANSWER.json has,
for each label, the module that the wrapper asked for, with the build.ninja and lock that FlashInfer makes for it, or
"missing": this version has no such wrapper, or it doesn't take that.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

HEADS, KV_HEADS, PAGE = 32, 8, 16
# New tokens of a request: from 0.7.4 on, "auto" prefers fa2 on Hopper where no request has more than 64 (prefill.py,
# _determine_auto_backend), so that a server with "auto" loads both.
TOKENS = 128
_Decode = tuple[str, str, int, dict[str, Any]]  # types of query and cache, head dimension, options
_Prefill = tuple[str, str, tuple[int, int], dict[str, Any]]


@dataclass(frozen=True)
class Configuration:
    """`module` is how the name of the wanted module begins, where a wrapper loads others before it."""

    label: str
    op: str
    params: dict[str, Any]
    call: Callable[[], object]
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)


class Asked(BaseException):
    """The wrapper has asked for this module; what it does with a loaded one is of no interest."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec


def main(answer: str, *labels: str) -> None:
    gc.disable()  # it would look at all of torch and FlashInfer again and again
    wanted = [one for one in configurations() if not labels or one.label in labels]
    with stood_in_for():
        found = {one.label: asked(one) for one in wanted}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def asked(one: Configuration) -> dict[str, str]:
    """Return what the configuration's wrapper asks for."""
    core = importlib.import_module("flashinfer.jit.core")

    def load(spec: Any, *_args: Any, **_options: Any) -> Any:
        if spec.name.startswith(one.module):
            raise Asked(spec)
        return mock.MagicMock()

    try:
        with mock.patch.object(core.JitSpec, "build_and_load", load):
            one.call()
    except Asked as found:
        found.spec.write_ninja()
        ninja = found.spec.ninja_path.read_text(encoding="utf-8")
        return {"name": found.spec.name, "ninja": ninja, "lock": str(found.spec.lock_path)}
    except Exception as error:  # noqa: BLE001 -- another version's signature, or a refusal
        return {"missing": f"{type(error).__name__}: {error}"}
    return {"missing": "it asked for no such module"}


@contextlib.contextmanager
def stood_in_for() -> Iterator[None]:
    """Import FlashInfer; let it find a GPU of the first architecture, and memory that can be pinned."""
    import torch

    first = os.environ["FLASHINFER_CUDA_ARCH_LIST"].split()[0].rstrip("abcdef")
    capability = tuple(int(part) for part in first.split("."))
    empty = torch.empty
    with contextlib.ExitStack() as stack:
        for name, value in (
            ("get_device_properties", lambda *_: _Properties(*capability)),
            ("get_device_capability", lambda *_: capability),
            ("is_current_stream_capturing", lambda: False),
        ):
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        unpinned = mock.patch.object(
            torch, "empty", lambda *args, **given: empty(*args, **{**given, "pin_memory": False})
        )
        stack.enter_context(unpinned)
        _import_flashinfer()
        stack.enter_context(mock.patch.object(torch.version, "cuda", torch.version.cuda or "13.0"))
        _answer_for_a_gpu(stack, capability)
        yield


@dataclass(frozen=True)
class _Properties:
    """A Hopper's, as far as wrappers ask; the capability is the target's."""

    major: int
    minor: int
    multi_processor_count: int = 132
    shared_memory_per_block_optin: int = 227 << 10
    shared_memory_per_multiprocessor: int = 228 << 10


def _answer_for_a_gpu(stack: contextlib.ExitStack, capability: tuple[int, ...]) -> None:
    """Replace FlashInfer's own questions about a device, which refuse the CPU, wherever they were imported to."""
    utils = importlib.import_module("flashinfer.utils")
    answers = {"get_compute_capability": capability, "get_device_sm_count": 132, "device_support_pdl": False}
    for name, answer in answers.items():
        original = getattr(utils, name)
        for module in [module for key, module in sys.modules.items() if key.startswith("flashinfer")]:
            for attribute in [key for key, value in vars(module).items() if value is original]:
                stack.enter_context(mock.patch.object(module, attribute, lambda *_, answer=answer: answer))


def _import_flashinfer() -> None:
    importlib.import_module("flashinfer")
    for name in ("prefill", "decode", "attention", "mla", "pod", "page", "norm", "rope", "sampling", "topk", "cascade"):
        importlib.import_module(f"flashinfer.{name}")
    for name in ("activation", "quantization", "sparse", "gemm", "xqa", "fused_moe"):
        with contextlib.suppress(Exception):
            importlib.import_module(f"flashinfer.{name}")


def configurations() -> list[Configuration]:
    """All of them, those that load several modules last: what these got instead of a module is kept by FlashInfer."""
    groups = (_decodes(), _prefills(), _sinks(), _mlas(), _holistic(), _singles(), _without_parameters(), _pods())
    return [one for group in groups for one in group]


# Names of the types, short ones for labels. A query in fp8 is fa3's alone.
_TYPES = {"f16": "float16", "bf16": "bfloat16", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}


def _of(name: str) -> Any:
    return getattr(importlib.import_module("torch"), _TYPES.get(name, name))


def _function(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"flashinfer.{module}" if module else "flashinfer"), name)


def _workspace() -> Any:
    return importlib.import_module("torch").zeros(32 << 20, dtype=_of("uint8"))


def _ints(*values: int, dtype: str = "int32") -> Any:
    return importlib.import_module("torch").tensor(values, dtype=_of(dtype))


def _zeros(*shape: int, dtype: str = "f16") -> Any:
    torch = importlib.import_module("torch")
    return torch.zeros(shape, dtype=torch.float32).to(_of(dtype))


def _said(q: str, kv: str, **more: Any) -> dict[str, Any]:
    """An entry's parameters: what is like the query's type, or off, is left out, as users do."""
    types = {"dtype_q": _TYPES[q], **({} if kv == q else {"dtype_kv": _TYPES[kv]})}
    return {**types, **{name: value for name, value in more.items() if value}}


def _decodes() -> Iterator[Configuration]:
    plain: list[_Decode] = [
        (q, kv, dim, {})
        for q, kv in (("f16",) * 2, ("bf16",) * 2, ("f16", "e4m3"), ("bf16", "e5m2"))
        for dim in (64, 128, 256)
    ]
    odd: list[_Decode] = [
        ("f16", "f16", 128, {"window_left": 127}),
        ("bf16", "bf16", 128, {"logits_soft_cap": 30.0}),
        ("bf16", "bf16", 128, {"pos_encoding_mode": "ROPE_LLAMA"}),
        ("f16", "f16", 64, {"pos_encoding_mode": "ALIBI", "window_left": 127, "logits_soft_cap": 50.0}),
    ]
    for tensor_cores, (q, kv, dim, given) in itertools.product((False, True), plain + odd):
        label = f"decode{' tensor cores' if tensor_cores else ''} {q} {kv} {dim}{_label(given)}"
        op = {"op": "batch_prefill", "backend": "fa2"} if tensor_cores else {"op": "batch_decode"}
        params = {**_said(q, kv, head_dim=dim, **_flags(given)), **{k: v for k, v in op.items() if k != "op"}}
        call = _bound(_decode, q, kv, dim, tensor_cores, given)
        yield Configuration(label, op["op"], params, call)


def _decode(q: str, kv: str, dim: int, tensor_cores: bool, given: dict[str, Any]) -> None:
    wrapper = _function("BatchDecodeWithPagedKVCacheWrapper")(_workspace(), "NHD", use_tensor_cores=tensor_cores)
    tables = _ints(0, 2, 4), _ints(0, 1, 2, 3), _ints(PAGE, 1)
    types = {"q_data_type": _of(q), "kv_data_type": _of(kv)}
    wrapper.plan(*tables, HEADS, KV_HEADS, dim, PAGE, **types, **given)


def _prefills() -> Iterator[Configuration]:
    dims = ((64, 64), (128, 128), (256, 256), (192, 128))
    plain: list[_Prefill] = [("bf16", "bf16", pair, {}) for pair in dims]
    odd: list[_Prefill] = [
        ("f16", "e4m3", (128, 128), {}),
        ("f16", "f16", (128, 128), {"window_left": 127}),
        ("bf16", "bf16", (128, 128), {"logits_soft_cap": 30.0}),
        ("f16", "f16", (128, 128), {"use_fp16_qk_reduction": True}),
        ("f16", "f16", (128, 128), {"pos_encoding_mode": "ROPE_LLAMA"}),
        ("f16", "f16", (128, 128), {"packed_custom_mask": ()}),
    ]
    for ragged, backend, (q, kv, pair, given) in itertools.product((False, True), ("fa2", "fa3"), plain + odd):
        if backend == "fa3" and {"use_fp16_qk_reduction", "pos_encoding_mode", "packed_custom_mask"} & set(given):
            continue
        if "e4m3" in kv and (ragged or backend == "fa3"):
            continue
        name = f"prefill {'ragged' if ragged else 'paged'} {backend}"
        yield _prefill_of(name, q, kv, pair, given, ragged=ragged, asks=backend, plans=backend)
    yield _prefill_of("prefill paged auto", "bf16", "bf16", (128, 128), {}, ragged=False, asks="auto", plans="fa3")
    masked = {"packed_custom_mask": ()}
    yield _prefill_of("prefill paged auto", "bf16", "bf16", (128, 128), masked, ragged=False, asks="auto", plans="fa2")
    fp8 = {"o_data_type": "bf16"}
    for ragged in (False, True):
        name = f"prefill {'ragged' if ragged else 'paged'} fa3"
        yield _prefill_of(name, "e4m3", "e4m3", (128, 128), fp8, ragged=ragged, asks="fa3", plans="fa3")


def _prefill_of(
    name: str, q: str, kv: str, pair: tuple[int, int], given: dict[str, Any], *, ragged: bool, asks: str, plans: str
) -> Configuration:
    dims = {"head_dim": pair[0]} if pair[0] == pair[1] else {"head_dim_qk": pair[0], "head_dim_vo": pair[1]}
    params = {"backend": plans, **_said(q, kv, **dims, **_flags(given))}
    label = f"{name} {q} {kv} {'/'.join(str(dim) for dim in dict.fromkeys(pair))}{_label(given)}"
    return Configuration(
        label, "batch_prefill", params, _bound(_prefill, q, kv, pair, given, ragged=ragged, backend=asks)
    )


def _prefill(q: str, kv: str, pair: tuple[int, int], given: dict[str, Any], *, ragged: bool, backend: str) -> None:
    kind = "Ragged" if ragged else "Paged"
    wrapper = _function(f"BatchPrefillWith{kind}KVCacheWrapper")(_workspace(), "NHD", backend=backend)
    types = {"q_data_type": _of(q), "kv_data_type": _of(kv)}
    options = {**given, **({"o_data_type": _of(given["o_data_type"])} if "o_data_type" in given else {})}
    if "packed_custom_mask" in given:
        options["packed_custom_mask"] = _ints(*[255] * 4096, dtype="uint8")
    if ragged:
        wrapper.plan(_ints(0, TOKENS), _ints(0, 2 * TOKENS), HEADS, KV_HEADS, *pair, causal=True, **types, **options)
    else:
        pages = TOKENS // PAGE
        tables = _ints(0, TOKENS), _ints(0, pages), _ints(*range(pages)), _ints(PAGE)
        wrapper.plan(*tables, HEADS, KV_HEADS, pair[0], PAGE, head_dim_vo=pair[1], causal=True, **types, **options)


def _sinks() -> Iterator[Configuration]:
    for backend, q, window, dim in (
        ("fa2", "bf16", -1, 64),
        ("fa2", "f16", 127, 64),
        ("fa3", "bf16", -1, 64),
        ("fa3", "bf16", 127, 64),
        ("fa2", "bf16", -1, 128),
    ):
        given = {"window_left": window} if window >= 0 else {}
        params = {"backend": backend, **_said(q, q, head_dim=dim, **_flags(given))}
        label = f"sinks {backend} {q} {dim}{_label(given)}"
        yield Configuration(label, "batch_prefill_attention_sink", params, _bound(_sink, backend, q, window, dim))
    for q, dim in (("bf16", 128), ("f16", 64)):
        params = _said(q, q, head_dim=dim)
        call = _bound(_ranges, q, dim)
        yield Configuration(f"ranges {q} {dim}", "batch_prefill_bidirectional_ranges", params, call)


def _sink(backend: str, q: str, window: int, dim: int) -> None:
    types = {"q_data_type": _of(q), "kv_data_type": _of(q)}
    place = "attention.BatchAttentionWithAttentionSinkWrapper"
    _function(place)(_workspace(), backend=backend, **types, head_dim_qk=dim, head_dim_vo=dim, window_left=window)


def _ranges(q: str, dim: int) -> None:
    types = {"q_data_type": _of(q), "kv_data_type": _of(q)}
    _function("BatchPrefillWithCausalBidirectionalRangesWrapper")(
        _workspace(), **types, head_dim_qk=dim, head_dim_vo=dim
    )


def _mlas() -> Iterator[Configuration]:
    for backend, asks, q in (
        ("fa2", "fa2", "bf16"),
        ("fa2", "fa2", "f16"),
        ("fa3", "fa3", "bf16"),
        ("fa3", "auto", "f16"),
    ):
        params = {"backend": backend, **_said(q, q, head_dim_ckv=512, head_dim_kpe=64)}
        yield Configuration(f"mla {asks} {q}", "batch_mla", params, _bound(_mla, asks, q))


def _mla(backend: str, q: str) -> None:
    wrapper = _function("mla.BatchMLAPagedAttentionWrapper")(_workspace(), backend=backend)
    tables = _ints(0, 1), _ints(0, 1), _ints(0), _ints(PAGE)
    wrapper.plan(*tables, 128, 512, 64, PAGE, True, 0.1, _of(q), _of(q))


def _holistic() -> Iterator[Configuration]:
    for q, dim, cap in (("bf16", 128, 0.0), ("f16", 64, 0.0), ("bf16", 128, 30.0)):
        params = _said(q, q, head_dim=dim, **_flags({"logits_soft_cap": cap} if cap else {}))
        label = f"BatchAttention {q} {dim}{' cap' if cap else ''}"
        yield Configuration(label, "batch_attention", params, _bound(_attention, q, dim, cap))


def _attention(q: str, dim: int, cap: float) -> None:
    given = {"logits_soft_cap": cap, "q_data_type": _of(q), "kv_data_type": _of(q)}
    tables = _ints(0, 16), _ints(0, 2), _ints(0, 1), _ints(2 * PAGE)
    _function("attention.BatchAttention")("NHD", device="cpu").plan(*tables, HEADS, KV_HEADS, dim, dim, PAGE, **given)


def _singles() -> Iterator[Configuration]:
    for q, dim, given in (
        ("f16", 128, {}),
        ("bf16", 64, {"window_left": 63}),
        ("bf16", 256, {"logits_soft_cap": 30.0}),
    ):
        params = _said(q, q, head_dim=dim, **_flags(given))
        call = _bound(_single, "decode", q, dim, given)
        yield Configuration(f"single decode {q} {dim}{_label(given)}", "single_decode", params, call)
        for backend in ("fa2", "fa3"):
            call = _bound(_single, "prefill", q, dim, {**given, "backend": backend})
            label = f"single prefill {backend} {q} {dim}{_label(given)}"
            yield Configuration(label, "single_prefill", {"backend": backend, **params}, call)


def _single(kind: str, q: str, dim: int, given: dict[str, Any]) -> None:
    query = _zeros(HEADS, dim, dtype=q) if kind == "decode" else _zeros(16, HEADS, dim, dtype=q)
    cache = _zeros(16, KV_HEADS, dim, dtype=q)
    _function(f"single_{kind}_with_kv_cache")(query, cache, cache, **given)


def _pods() -> Iterator[Configuration]:
    for q, dim, given in (("f16", 128, {}), ("bf16", 64, {}), ("f16", 128, {"window_left": 63})):
        half = {f"{name}_d": value for name, value in _flags(given).items()}
        params = _said(q, q, head_dim=dim, **half)
        call = _bound(_pod, q, dim, given)
        yield Configuration(f"pod {q} {dim}{_label(given)}", "pod", params, call, "pod_with")
    for q, dim in (("f16", 128), ("bf16", 64)):
        call = _bound(_batch_pod, q, dim)
        yield Configuration(f"batch pod {q} {dim}", "batch_pod", _said(q, q, head_dim=dim), call, "batch_pod_with")


def _pod(q: str, dim: int, given: dict[str, Any]) -> None:
    wrapper = _function("PODWithPagedKVCacheWrapper")(_workspace(), "NHD")
    types = {"q_data_type": _of(q), "kv_data_type": _of(q)}
    tables = _ints(0, 2), _ints(0, 1), _ints(PAGE)
    wrapper.plan(*tables, HEADS, KV_HEADS, dim, PAGE, **types, **given)
    cache = _zeros(2, 2, PAGE, KV_HEADS, dim, dtype=q)
    keys = _zeros(16, KV_HEADS, dim, dtype=q)
    wrapper.run(_zeros(16, HEADS, dim, dtype=q), keys, keys, _zeros(1, HEADS, dim, dtype=q), cache, enable_pdl=False)


def _batch_pod(q: str, dim: int) -> None:
    wrapper = _function("pod.BatchPODWithPagedKVCacheWrapper")(_workspace(), "NHD")
    tables = _ints(0, 1), _ints(0, 2), _ints(0, 1), _ints(PAGE)
    types = {"q_data_type": _of(q), "kv_data_type": _of(q)}
    wrapper.plan(*tables, *tables, HEADS, KV_HEADS, dim, PAGE, **types)
    cache = _zeros(2, 2, PAGE, KV_HEADS, dim, dtype=q)
    query = _zeros(1, HEADS, dim, dtype=q)
    wrapper.run(query, cache, query, cache, enable_pdl=False)


def _without_parameters() -> Iterator[Configuration]:
    row = (4, 128)
    for name in ("silu", "gelu", "gelu_tanh"):
        call = _bound(_call, f"{name}_and_mul", row)
        yield Configuration(f"{name}_and_mul", "act_and_mul", {"act_func_name": name}, call)
    for op, calls in _CALLS.items():
        for name, call in calls.items():
            yield Configuration(f"{op}: {name}", op, {}, call)


def _call(place: str, *shapes: tuple[int, ...], **options: Any) -> object:
    return _function(place)(*(_zeros(*shape) for shape in shapes), **options)


def _append() -> object:
    cache = _zeros(2, 2, PAGE, KV_HEADS, 128)
    keys = _zeros(4, KV_HEADS, 128)
    where = _ints(0, 0, 0, 0), _ints(0, 1, 2, 3)
    return _function("append_paged_kv_cache")(keys, keys, *where, cache, _ints(0), _ints(0, 1), _ints(4))


def _append_mla() -> object:
    where = _ints(0, 0, 0, 0), _ints(0, 1, 2, 3)
    caches = _zeros(2, PAGE, 512), _zeros(2, PAGE, 64)
    tables = _ints(0), _ints(0, 1), _ints(4)
    return _function("page.append_paged_mla_kv_cache")(_zeros(4, 512), _zeros(4, 64), *where, *caches, *tables)


def _merged(place: str) -> object:
    values, scales = _zeros(4, HEADS, 128), _zeros(4, HEADS, dtype="float32")
    return _function(place)(values, scales, values, scales)


def _merged_many() -> object:
    return _function("merge_states")(_zeros(4, 2, HEADS, 128), _zeros(4, 2, HEADS, dtype="float32"))


def _roped(place: str, **options: Any) -> object:
    query, keys = _zeros(4, HEADS, 128), _zeros(4, KV_HEADS, 128)
    return _function(place)(query, keys, _ints(0, 4), _ints(0), **options)


def _roped_at(place: str) -> object:
    query, keys = _zeros(4, HEADS, 128), _zeros(4, KV_HEADS, 128)
    return _function(place)(query, keys, _ints(0, 1, 2, 3))


def _roped_cached() -> object:
    flat = _zeros(4, HEADS * 128), _zeros(4, KV_HEADS * 128)
    place = "apply_rope_with_cos_sin_cache_inplace"
    return _function(place)(_ints(0, 1, 2, 3), *flat, 128, _zeros(64, 128, dtype="float32"))


def _sampled(name: str, *more: Any) -> object:
    return _function(f"sampling.{name}")(_zeros(4, 128, dtype="float32"), *more)


def _packed() -> object:
    return _function("packbits")(_ints(1, 0, 1, 1, dtype="bool"))


def _packed_segments() -> object:
    return _function("segment_packbits")(_ints(1, 0, 1, 1, dtype="bool"), _ints(0, 4))


def _top_k() -> object:
    return _function("topk.top_k")(_zeros(4, 128, dtype="float32"), 8)


def _bound(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], object]:
    return lambda: function(*args, **options)


_CALLS: dict[str, dict[str, Callable[[], object]]] = {
    "page": {"append": _append, "append mla": _append_mla},
    "cascade": {
        "merge_state": _bound(_merged, "merge_state"),
        "merge_state_in_place": _bound(_merged, "merge_state_in_place"),
        "merge_states": _merged_many,
    },
    "norm": {
        "rmsnorm": _bound(_call, "rmsnorm", (4, 128), (128,)),
        "fused_add_rmsnorm": _bound(_call, "fused_add_rmsnorm", (4, 128), (4, 128), (128,)),
        "gemma_rmsnorm": _bound(_call, "gemma_rmsnorm", (4, 128), (128,)),
        "gemma_fused_add_rmsnorm": _bound(_call, "gemma_fused_add_rmsnorm", (4, 128), (4, 128), (128,)),
    },
    "rope": {
        "apply_rope": _bound(_roped, "apply_rope"),
        "apply_rope_inplace": _bound(_roped, "apply_rope_inplace"),
        "apply_llama31_rope": _bound(_roped, "apply_llama31_rope"),
        "apply_rope_pos_ids": _bound(_roped_at, "apply_rope_pos_ids"),
        "apply_rope_with_cos_sin_cache_inplace": _roped_cached,
    },
    "sampling": {
        "sampling_from_probs": _bound(_sampled, "sampling_from_probs"),
        "sampling_from_logits": _bound(_sampled, "sampling_from_logits"),
        "top_p_sampling_from_probs": _bound(_sampled, "top_p_sampling_from_probs", 0.9),
        "top_k_sampling_from_probs": _bound(_sampled, "top_k_sampling_from_probs", 8),
        "min_p_sampling_from_probs": _bound(_sampled, "min_p_sampling_from_probs", 0.1),
    },
    "topk": {"top_k": _top_k},
    "quantization": {"packbits": _packed, "segment_packbits": _packed_segments},
}


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """What a wrapper's options are as an entry's parameters."""
    names = {"window_left": "use_sliding_window", "logits_soft_cap": "use_logits_soft_cap"}
    flags = {names[name]: True for name in given if name in names}
    said = {name: value for name, value in given.items() if name in {"pos_encoding_mode", "use_fp16_qk_reduction"}}
    return {**flags, **said, **({"dtype_o": _TYPES[given["o_data_type"]]} if "o_data_type" in given else {})}


def _label(given: dict[str, Any]) -> str:
    short = {"window_left": "window", "logits_soft_cap": "cap", "use_fp16_qk_reduction": "fp16 qk"}
    words = {**short, "packed_custom_mask": "mask", "o_data_type": "→ bf16"}
    return "".join(f" {words.get(name, str(value))}" for name, value in given.items())


if __name__ == "__main__":
    main(*sys.argv[1:])
