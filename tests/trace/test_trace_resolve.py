"""Requests → entries, by a planner that is a table: what is accepted, what is refused and how that is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from fitasks.base.answers import Parameter
from fitasks.plan.offers import Op
from fitasks.trace import importing
from fitasks.trace.entries import Entry, brief, entries_of
from fitasks.trace.model import Requested
from fitasks.trace.names import entries_of_name
from fitasks.trace.resolve import resolve

if TYPE_CHECKING:
    from fitasks.plan.plan import Plan

PLACE = "flashinfer.jit.attention.modules"


def parameter(
    name: str, default: Any = None, *, required: bool = False, kind: str = "int", accepted: tuple[Any, ...] = ()
) -> Parameter:
    return Parameter(name, required, default, kind, accepted)


PREFILL = Op(
    "batch_prefill",
    f"{PLACE}:gen_batch_prefill_module",
    (
        parameter("backend", required=True, kind="str", accepted=("fa2", "fa3")),
        parameter("dtype_q", required=True, kind="dtype", accepted=("float16", "bfloat16")),
        parameter("dtype_kv", "=dtype_q", kind="dtype"),
        parameter("dtype_idx", "int32", kind="dtype"),
        parameter("head_dim_qk", required=True),
        parameter("head_dim_vo", required=True),
        parameter("use_sliding_window", default=False, kind="bool", accepted=(False, True)),
    ),
    "",
)
PAGE = Op("page", "flashinfer.jit.page:gen_page_module", (), "")
FAST = Op(
    "fused_moe",
    "flashinfer.m:gen_fused_moe_module",
    (parameter("fast", default=False, kind="bool", accepted=(False, True)),),
    "",
)
KNOWN = (PREFILL, PAGE, FAST)
SAID = {"backend": "fa2", "dtype_q": "bfloat16", "head_dim_qk": 128, "head_dim_vo": 128}
ALL = SAID | {"dtype_kv": "bfloat16", "dtype_idx": "int32", "use_sliding_window": False}
NAME = "batch_prefill_dtype_q_bf16_dtype_kv_bf16_dtype_idx_i32_head_dim_qk_128_head_dim_vo_128_use_swa_False"
SHORT = {"bfloat16": "bf16", "float16": "f16", "int32": "i32"}


def planned(entry: Entry) -> dict[str, Any]:
    """What a FlashInfer of three generators would plan."""
    op = next((op for op in KNOWN if op.name == entry.op), None)
    if op is None:
        return {"error": {"message": f"unknown op {entry.op}"}}
    params = {one.name: one.default for one in op.parameters} | entry.params
    if "head_dim" in params:
        params |= dict.fromkeys(("head_dim_qk", "head_dim_vo"), params.pop("head_dim"))
    params = {name: params["dtype_q"] if value == "=dtype_q" else value for name, value in params.items()}
    record = {"name": entry.op, "generator": op.generator, "params": params, "generated": [], "sources": []}
    if op is PREFILL:
        words = [f"{name}_{SHORT.get(value, value)}" for name, value in params.items() if name != "backend"]
        suffix = "_sm90" if params["backend"] == "fa3" else ""
        record["name"] = "_".join(["batch_prefill", *words]).replace("use_sliding_window", "use_swa") + suffix
    return record | {"ninja": json.dumps(params)}


def ask(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    return {"90a": [planned(entry) for entry in entries]}


def test_a_while_is_not_silent_and_nothing_is_planned_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toolkit, config = SimpleNamespace(home=None), SimpleNamespace(sm90=True)
    plan = SimpleNamespace(targets={"8.0": None, "9.0a": None}, config=config, server=None, toolkit=toolkit)
    asked = []

    def ask(_server: Any, _home: Any, _targets: Any, kernels: Sequence[Any], **_: Any) -> dict[str, Any]:
        asked.append([kernel.op for kernel in kernels])
        return {"8.0": {"arch": "80", "kernels": [{"name": kernel.op} for kernel in kernels]}}

    monkeypatch.setattr("fitasks.plan.planner.ask", ask)
    planning = importing.Planning(cast("Plan", plan))
    page, rope, other = map(importing.kernel_of, (Entry("page", {}), Entry("rope", {}), Entry("rope", {"x": 1})))
    assert planning.of([page]) == {"80": [{"name": "page"}]}
    assert capsys.readouterr().err == "fitasks: planning 2 kernels that the trace may mean …\n"
    assert planning.of([rope, page, rope]) == {"80": [{"name": "rope"}, {"name": "page"}, {"name": "rope"}]}
    planning.of([other])
    planning.of([page, rope, other])
    assert asked == [["page"], ["rope"], ["rope"]]  # what was planned once isn't planned again


def entries(*requested: Requested) -> tuple[list[Entry], list[str]]:
    resolved, refused = resolve(requested, KNOWN, ask)
    return [one.entry for one in resolved], [one.reason for one in refused]


def test_a_list_that_may_be_left_out() -> None:
    """A generator may have one as its default (cake_kimi_k3_fp8_projection of 0.7.4)."""
    listed = Op("page_of", "m:gen_page_of_module", (parameter("defines", [], kind="list"),), "")
    assert [str(entry) for entry in entries_of_name("page", [listed, PAGE])] == ["page_of()", "page()"]


def test_a_name_is_none_of_another_kind() -> None:
    where = "flashinfer.m:make_page"
    others = [Op(where, where, (), "", kind=kind) for kind in ("cute", "sglang")]
    assert [str(entry) for entry in entries_of_name("page", [*others, PAGE])] == ["page()"]


@pytest.mark.parametrize("function", ["gen_batch_prefill_module", "_gen_batch_prefill_primary_module"])
def test_generator_back_to_op_without_defaults(function: str) -> None:
    found = entries(Requested(NAME, f"{PLACE}:{function}", ALL, architectures="90a"))
    assert found == ([Entry("batch_prefill", {"backend": "fa2", "dtype_q": "bfloat16", "head_dim": 128})], [])


def test_what_is_no_default_stays() -> None:
    odd = ALL | {"dtype_kv": "float8_e4m3fn", "dtype_idx": "int64", "head_dim_qk": 192, "use_sliding_window": True}
    assert brief(odd, PREFILL) == odd
    assert brief({"fast": 0}, FAST) == {"fast": 0}  # 0 is not false


def test_a_generator_that_is_no_op_goes_by_its_place() -> None:
    one = Requested("x", "some.module:make", {"a": 1})
    assert list(entries_of(one, KNOWN)) == [Entry("some.module:make", {"a": 1})]


def test_refusals_say_why() -> None:
    generator = f"{PLACE}:gen_batch_prefill_module"
    found = entries(
        Requested("a", "m:f", unsaid="x is a tensor"),
        Requested("b", "flashinfer.m:gen_f", {"names": ["p", "q"]}),
        Requested("c", "flashinfer.m:gen_f", kind="triton"),
        Requested("d", "flashinfer.m:gen_f"),
        Requested("page", PAGE.generator, architectures="80"),
        Requested("page_old", PAGE.generator, flashinfer="0.7.1"),
        Requested(NAME + "_sm90", generator, ALL | {"backend": "fa3", "head_dim_vo": 64}),
    )
    assert found == (
        [],
        [
            "x is a tensor",
            "names: kernels.yaml has no way to say a list as one value",
            "neither FlashInfer nor SGLang's own JIT keeps it, so nothing can be compiled beforehand",
            "unknown op flashinfer.m:gen_f",
            "it was for 80; the targets of kernels.yaml are 90a",
            "page gives page; unknown op flashinfer.jit.page:gen_page_module (recorded with FlashInfer 0.7.1)",
            f"batch_prefill gives {NAME.replace('vo_128', 'vo_64')}_sm90; unknown op {generator}",
        ],
    )


def test_the_entry_that_takes_a_modules_place_is_named() -> None:
    """From 0.7.0 on fa2 modules are called …_kv_stride_equal."""
    new = NAME + "_kv_stride_equal"

    def asked(wanted: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
        records = ask(wanted)["90a"]
        return {"90a": [one | {"name": new} if one.get("name") == NAME else one for one in records]}

    old = Requested(NAME, f"{PLACE}:gen_batch_prefill_module", ALL, flashinfer="0.6.18")
    strided = Requested(NAME + "_paged_kv_stride_independent")
    _, refused = resolve([Requested(NAME), old, strided], KNOWN, asked)
    entry = "batch_prefill(backend=fa2, dtype_q=bfloat16, head_dim=128)"
    assert [one.reason for one in refused] == [f"this FlashInfer loads {new} instead: {entry} in kernels.yaml"] * 3


@pytest.mark.parametrize(
    ("name", "op"),
    [("trtllm_comm", "trtllm_comm"), ("fp4_quantization_90", "fp4_quantization_sm90"), ("fmha_gen", "trtllm_fmha_gen")],
)
def test_a_generator_that_refuses_these_targets_is_no_unknown_name(name: str, op: str) -> None:
    known = [Op(op, f"m:gen_{op}_module", (), ""), PAGE]
    said = f"{op} cannot be planned: RuntimeError: No supported CUDA architectures found for major versions [9, 10]."

    def asked(wanted: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
        error = {"error": {"kind": "generator", "message": said}}
        return {"89": [error if entry.op == op else planned(entry) for entry in wanted]}

    _, (refused,) = resolve([Requested(name)], known, asked)
    assert refused.reason == f"{Entry(op, {})} may give it, but not for these targets: {said}"


def test_names_alone() -> None:
    known = [
        Entry("batch_prefill", {"backend": "fa2", "dtype_q": "bfloat16", "head_dim": 128}),
        Entry("batch_prefill", {"backend": "fa3", "dtype_q": "bfloat16", "head_dim": 128}),
        Entry("page", {}),
    ]
    assert entries(Requested(NAME), Requested(NAME + "_sm90"), Requested("page")) == (known, [])


def test_a_name_is_not_guessed() -> None:
    """Two kernels have the name fused_moe, one with fast: true; the other names are nobody's."""
    found = entries(Requested("fused_moe"), Requested("pager"), Requested(NAME + "_more"))
    nobody = "not without a guess: no op of this FlashInfer, with what its name says, gives this name"
    guess = "not without a guess: it may be fused_moe() or fused_moe(fast=True)"
    assert found == ([], [guess, nobody, nobody])


def test_a_hopper_module_is_not_imported_into_a_project_for_other_gpus() -> None:
    """A log names no architecture; the planner gives the very name, with code that these GPUs can't run."""
    code = "-gencode=arch=compute_90a,code=sm_90a"

    def for_hopper(asked: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
        return {arch: [planned(entry) | {"ninja": code} for entry in asked] for arch in archs}

    archs = ["89"]
    told = "FlashInfer compiles it for sm_90a alone, whatever the target, and that code doesn't run on sm_89"
    resolved, refused = resolve([Requested(NAME + "_sm90")], KNOWN, for_hopper)
    assert (resolved, [one.reason for one in refused]) == ((), [told])
    archs = ["80", "90a"]
    resolved, refused = resolve([Requested(NAME + "_sm90")], KNOWN, for_hopper)
    assert (len(resolved), refused) == (1, ())
