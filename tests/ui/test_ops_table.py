"""`doit ops` as text."""

import pytest

from fitasks.base.answers import Parameter
from fitasks.base.errors import EnvironmentProblem
from fitasks.plan.offers import Op
from fitasks.ui.ops_table import chosen_ops, described, listed, ops_lines

BACKEND = Parameter("backend", True, None, "str", ("fa2", "fa3"))
FLAG = Parameter("use_x", False, False, "bool", (False, True))
KV = Parameter("dtype_kv", False, "=dtype_q", "dtype", ())
DIMS = (Parameter("head_dim_qk", True, None, "int", ()), Parameter("head_dim_vo", True, None, "int", ()))
NAMES = Parameter("names", True, None, "list", ())
MANY = Parameter("name", True, None, "str", tuple(f"n{n}" for n in range(20)))

PREFILL = Op("batch_prefill", "m:gen_batch_prefill_module", (BACKEND, KV, *DIMS, FLAG), "Prefill in batches.")
SINGLE = Op("single_prefill", "m:gen_single_prefill_module", (NAMES, MANY), "")
PAGE = Op("page", "m:gen_page_module", (), "Appends to the cache.")
DEBUG = Op("debug", "m:gen_debug_module", (), "Of no use.", "nothing calls it")
KNOWN = (PREFILL, PAGE, SINGLE)


def test_what_nothing_calls() -> None:
    assert list(listed([PAGE, DEBUG])) == ["page", "debug  (!)"]
    assert list(described([DEBUG])) == ["debug  Of no use.", "  (!) nothing calls it", "  takes no parameters"]


def test_a_query_is_no_integer_and_an_index_is_one() -> None:
    """One table of FlashInfer's names all dtypes, for every parameter."""
    table = ("float16", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int32", "int64", "uint64")
    names = ("dtype_q", "dtype_kv", "dtype_o", "dtype_idx")
    op = Op("decode", "m:gen_decode_module", tuple(Parameter(name, True, None, "dtype", table) for name in names), "")
    assert [line.split(None, 1)[1] for line in described([op])][1:] == [
        "float16, bfloat16, float8_e4m3fn",
        ", ".join(table),
        "float16, bfloat16, float8_e4m3fn",
        "int32, int64",
    ]


def test_list() -> None:
    assert list(listed(KNOWN)) == [
        "batch_prefill   backend [dtype_kv] head_dim [use_x]",
        "page",
        "single_prefill  names name",
    ]


def test_details() -> None:
    assert list(described(KNOWN)) == [
        "batch_prefill  Prefill in batches.",
        "  backend   fa2, fa3",
        "  dtype_kv  a dtype (default: dtype_q)",
        "  head_dim  an integer, or head_dim_qk and head_dim_vo",
        "  use_x     true or false (default: false)",
        "page  Appends to the cache.",
        "  takes no parameters",
        "single_prefill  m:gen_single_prefill_module",
        "  cannot be said in kernels.yaml: it needs names",
        "  names  a list",
        f"  name   {', '.join(f'n{n}' for n in range(14))}, … (6 more)",
    ]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["prefill"], [PREFILL, SINGLE]),
        (["Prefill", "batch"], [PREFILL]),
        (["page"], [PAGE]),
        (["cache"], [PAGE]),  # by what it says of itself
        ([], list(KNOWN)),
    ],
)
def test_words(words: list[str], found: list[Op]) -> None:
    assert chosen_ops(KNOWN, words) == found


def test_no_match_suggests() -> None:
    with pytest.raises(EnvironmentProblem) as error:
        chosen_ops(KNOWN, ["batch_prefil1"])
    assert error.value.message == "no op of this FlashInfer matches batch_prefil1 (did you mean batch_prefill?)"


ROPE = Op("sglang.jit_kernel.rope:_jit_rope", "sglang.jit_kernel.rope:_jit_rope", (BACKEND,), "", kind="sglang")
GATE = Op("flashinfer.norm.gate:_get", "flashinfer.norm.gate:_get", (FLAG,), "", kind="cute")


def test_kinds_beside_flashinfers_modules() -> None:
    assert list(ops_lines((GATE, PAGE, ROPE), [], "0.7.4")) == [
        "page",
        "",
        "modules of SGLang's own JIT, each by its function:",
        "sglang.jit_kernel.rope:_jit_rope  backend",
        "",
        "CuTe-DSL objects that FlashInfer keeps, each by its function:",
        "flashinfer.norm.gate:_get  [use_x]",
        "1 op of FlashInfer 0.7.4, 1 of SGLang's JIT, 1 of CuTe-DSL; `doit ops WORD …` shows their parameters",
    ]
    assert list(ops_lines((PAGE,), [], "0.7.4")) == [
        "page",
        "1 op of FlashInfer 0.7.4; `doit ops WORD …` shows their parameters",
    ]
    assert list(ops_lines((GATE, PAGE, ROPE), ["rope"], "0.7.4")) == [
        "sglang.jit_kernel.rope:_jit_rope",
        "  backend  fa2, fa3",
    ]
