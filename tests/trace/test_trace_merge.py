"""Kernels → matrices: exactly the kernels, whatever they are."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitasks.trace.entries import Entry
from fitasks.trace.merge import Matrix, merge

BF16, F16, FP8 = "bfloat16", "float16", "float8_e4m3fn"


def entry(**params: Any) -> Entry:
    return Entry("batch_prefill", params)


def matrices(*entries: Entry, taken: Collection[str] = ()) -> tuple[Matrix, ...]:
    return merge(entries, taken)


def test_a_whole_product_is_one_entry() -> None:
    points = [entry(backend=b, dtype_q=BF16, head_dim=d) for b in ("fa2", "fa3") for d in (128, 64)]
    want = Matrix("prefill", "batch_prefill", {"backend": ("fa2", "fa3"), "dtype_q": (BF16,), "head_dim": (64, 128)})
    assert matrices(*points) == (want,)


def test_a_product_with_a_hole_is_two() -> None:
    points = [entry(dtype_q=BF16, head_dim=64), entry(dtype_q=BF16, head_dim=128), entry(dtype_q=F16, head_dim=64)]
    first, second = matrices(*points)
    assert (first.name, second.name) == ("prefill", "prefill-2")
    assert expanded((first, second)) == {frozenset(point.params.items()) for point in points}


def test_what_follows_dtype_q_is_spelled_out_only_among_others() -> None:
    mixed = matrices(entry(dtype_q=BF16, head_dim=64), entry(dtype_q=BF16, dtype_kv=FP8, head_dim=64))
    assert [one.params for one in mixed] == [{"dtype_q": (BF16,), "dtype_kv": (BF16, FP8), "head_dim": (64,)}]
    plain = matrices(entry(dtype_q=BF16, head_dim=64), entry(dtype_q=F16, head_dim=64))
    assert [one.params for one in plain] == [{"dtype_q": (BF16, F16), "head_dim": (64,)}]
    both = [entry(dtype_q=q, head_dim=64, **kv) for q in (BF16, F16) for kv in ({}, {"dtype_kv": FP8})]
    assert [one.params for one in matrices(*both)] == [
        {"dtype_q": (BF16, F16), "head_dim": (64,)},
        {"dtype_q": (BF16, F16), "dtype_kv": (FP8,), "head_dim": (64,)},
    ]


def test_true_and_one_are_two_values() -> None:
    (one,) = merge([Entry("x", {"a": 1}), Entry("x", {"a": True}), Entry("x", {"a": 1})], ())
    assert sorted(map(repr, one.params["a"])) == ["1", "True"]


def test_names_are_free_and_short_enough() -> None:
    assert [one.name for one in matrices(entry(), taken={"prefill", "prefill-2"})] == ["prefill-3"]
    (one,) = merge([Entry("flashinfer.jit.page:gen_page_module", {})], ())
    assert one.name == "page"
    long = {f"the_{word}_dtype": BF16 for word in ("state", "input", "weight", "matrix", "index", "scale", "output")}
    (one,) = merge([Entry("selective_state_update_sm90", long | {"a_long_number_of_things": 12345678901234})], ())
    assert one.name == "ssusm90"


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("flashinfer.norm.kernels.gated_residual_rmsnorm:_get_compiled", "gated_residual_rmsnorm"),
        ("flashinfer.msa_ops.cute_dsl.sparse_decode_nvfp4_sm100:_compile_variant", "sparse_decode_nvfp4_sm100"),
        ("flashinfer.quantization.kernels.nvfp4_quantize:_get_compiled_kernel_nvfp4_tma", "nvfp4_quantize_tma"),
        ("flashinfer.topk_varlen.topk_varlen:_compile_gvr_lb", "topk_varlen_gvr_lb"),
        ("flashinfer.cute_dsl.causal_conv1d:get_conv_kernel", "causal_conv1d_conv"),
        ("flashinfer.experimental.cake_mxfp8_megamoe_ep16.cute_dsl:_load_kernels", "cake_mxfp8_megamoe_ep16"),
        (
            "flashinfer.cute_dsl.attention.fmha.sm120.compile:compile_sm120_fmha_fp8_paged_kernel",
            "sm120_fmha_fp8_paged",
        ),
        ("sglang.jit_kernel.all_reduce:get_all_reduce_module", "all_reduce"),
        ("sglang.jit_kernel.rope:_jit_fused_rope_module", "fused_rope"),
        ("flashinfer.jit.attention.modules:_gen_batch_prefill_primary_module", "prefill_primary"),
    ],
)
def test_an_entry_is_called_what_it_is(op: str, name: str) -> None:
    assert [one.name for one in merge([Entry(op, {})], ())] == [name]


def expanded(found: Iterable[Matrix]) -> set[frozenset[tuple[str, Any]]]:
    """The parameters of every kernel, what follows dtype_q filled in as the entry leaves it."""
    return {
        frozenset(zip(matrix.params, values, strict=True))
        for matrix in found
        for values in itertools.product(*matrix.params.values())
    }


def whole(params: dict[str, Any]) -> frozenset[tuple[str, Any]]:
    follows = {name: params["dtype_q"] for name in ("dtype_kv", "dtype_o") if "dtype_q" in params}
    return frozenset((follows | params).items())


POINTS = st.fixed_dictionaries(
    {"dtype_q": st.sampled_from([BF16, F16])},
    optional={
        "backend": st.sampled_from(["fa2", "fa3"]),
        "dtype_kv": st.just(FP8),
        "head_dim": st.sampled_from([64, 128, 256]),
        "use_sliding_window": st.just(True),
    },
)


@given(st.lists(POINTS, max_size=24))
def test_exactly_the_kernels_each_once(points: list[dict[str, Any]]) -> None:
    found = merge([Entry("batch_prefill", point) for point in points], ())
    kernels = [
        whole(dict(zip(matrix.params, values, strict=True)))
        for matrix in found
        for values in itertools.product(*matrix.params.values())
    ]
    assert len(kernels) == len(set(kernels))
    assert set(kernels) == {whole(point) for point in points}
