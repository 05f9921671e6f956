"""Receipts as text: what is written is what is read, and what no build makes is refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.compile import receipt as receipts
from fitasks.compile.ninja.ninja import DEPS, LOG
from fitasks.compile.receipt import Output, Receipt, fingerprint, input_lines, parse_inputs, unmade
from fitasks.plan.kernel import Kernel

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = "1" * 64, "2" * 64
MADE = {name: Output(ONE, 7, 11) for name in ("page.so", "page_0.o", LOG, DEPS)}
PAGE = Receipt(
    name="page",
    flashinfer="0.7.4",
    target="9.0a",
    generator="flashinfer.jit.page:gen_page_module",
    commands="rule compile\n  command = {CUDA}/bin/nvcc\n",
    toolchain={"nvcc": "V13.0.88", "c++": "g++ 12"},
    inputs=f"{ONE} {{FLASHINFER}}/include/page.h",
    fingerprint=TWO,
    ninja="1.13.0",
    build_ninja=ONE,
    sealed_ns=12,
    outputs=MADE,
    stamp=TWO,
    seconds=1.5,
    cpu_seconds=2.5,
    peak_rss=3,
    built="2026-01-01T00:00:00Z",
    needed=("libcudart.so.13",),
    undefined=("cudaMalloc@libcudart.so.13",),
    architectures=("sm_90a",),
    notes={"adopted_from": "0.7.3", "split_compile": 4},
)


def read(directory: Path, change: dict[str, Any] | None = None, name: str = "page") -> Receipt | None:
    """What is read of the receipt after some of its fields were altered, without a seal as with one."""
    file = directory / "receipt.json"
    file.write_text(json.dumps(asdict(PAGE) | (change or {})))
    return receipts.read_file(file, name)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kernel = Kernel(
        "page@90a", "page", "page", "9.0a", "kernels.yaml:1:1", {}, name="page", build_dir=tmp_path / "page"
    )
    receipts.write(kernel, PAGE)
    assert receipts.path_of(kernel) == tmp_path / "page" / "fitasks-receipt.json"
    assert receipts.read(kernel) == PAGE
    assert receipts.read(replace(kernel, name="rope")) is None
    assert [path.name for path in kernel.build_dir.iterdir()] == ["fitasks-receipt.json"]


def test_one_can_be_read_by_people_and_ends_with_a_seal() -> None:
    lines = receipts.to_json(PAGE).splitlines()
    assert lines[:3] == ["{", ' "name": "page",', ' "flashinfer": "0.7.4",']
    assert lines[-2].startswith(' "seal": "')
    assert lines[-1] == "}"


def test_a_digit_that_is_another_is_told_by_the_seal(tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(receipts.to_json(PAGE).replace('"sealed_ns": 12', '"sealed_ns": 13'))
    assert receipts.read_file(file, "page") is None


def test_one_of_an_earlier_fitasks_has_no_seal(tmp_path: Path) -> None:
    assert read(tmp_path) == PAGE


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"name": "rope"},
        {"outputs": asdict(PAGE)["outputs"] | {"page.so": None}},
        {"outputs": {name: asdict(output) for name, output in MADE.items() if name != "page.so"}},
        {"sealed_ns": -1},
        {"peak_rss": -1},
        {"seconds": -0.5},
        {"seconds": float("inf")},
        {"cpu_seconds": -0.5},
        {"cpu_seconds": float("nan")},
        {"outputs": asdict(PAGE)["outputs"] | {"page_0.o": asdict(Output(ONE, -1, 11))}},
        {"outputs": asdict(PAGE)["outputs"] | {"page_0.o": asdict(Output(ONE, 7, -1))}},
        {"notes": {"adopted": True}},
        {"notes": {"split_compile": 1.5}},
        {"notes": {"a": None}},
        {"inputs": ""},
        {"outputs": asdict(PAGE)["outputs"] | {"evil.sh": asdict(MADE["page.so"])}},
    ],
    ids=str,
)
def test_what_no_build_writes_is_no_receipt(tmp_path: Path, change: dict[str, Any]) -> None:
    assert read(tmp_path, change) is None


def test_nothing_measured_is_no_lie(tmp_path: Path) -> None:
    """A clock of a file system that has no times, an empty object, a kernel that was only adopted."""
    empty = dict.fromkeys(MADE, Output(ONE, 0, 0))
    none = replace(PAGE, sealed_ns=0, peak_rss=0, seconds=0, cpu_seconds=0, outputs=empty, notes={})
    assert read(tmp_path, asdict(none)) == none


def test_a_receipt_is_of_the_module_that_is_asked_for(tmp_path: Path) -> None:
    assert read(tmp_path, name="rope") is None
    outputs = {name: asdict(output) for name, output in MADE.items()}
    of_rope = {"name": "rope", "outputs": outputs | {"rope.so": outputs["page.so"]}}
    assert read(tmp_path, of_rope, "rope") is None, "it has another module's library as an output"


def test_what_a_file_says_can_be_asked_before_it_is_judged(tmp_path: Path) -> None:
    """A bundle is refused in a sentence, which `read_file` has none of."""
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(asdict(PAGE) | {"inputs": ""}))
    said = receipts.said(file, "page")
    assert said
    assert unmade(said) == "has no input"


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (MADE, ""),
        ({"page.so": MADE[LOG], LOG: MADE[LOG], DEPS: MADE[LOG]}, ""),
        (MADE | {"../page.o": MADE[LOG]}, "has '../page.o' as an output, which no build makes"),
        (MADE | {"evil.sh": MADE[LOG]}, "has 'evil.sh' as an output, which no build makes"),
        (MADE | {"rope.so": MADE[LOG]}, "has 'rope.so' as an output, which no build makes"),
        (MADE | {"x" * 999: MADE[LOG]}, f"has '{'x' * 299} as an output, which no build makes"),
        ({"page.so": MADE[LOG], LOG: MADE[LOG]}, "knows nothing of ninja's logs"),
        ({"page.so": MADE[LOG], DEPS: MADE[LOG]}, "knows nothing of ninja's logs"),
    ],
    ids=["all", "no objects", "elsewhere", "a script", "another library", "too long", "no deps", "no log"],
)
def test_what_no_build_makes_is_said(outputs: dict[str, Output], told: str) -> None:
    assert unmade(replace(PAGE, outputs=outputs)) == told


# ---- fingerprints and inputs: a store is found by them, and lost where they change


def test_a_fingerprint_is_what_it_was() -> None:
    """Whoever changes this has every store and every bundle compiled again."""
    assert fingerprint("", {}, "") == "e242c845adf76c951a02f0fe3840f4989485fc555c6ad3f194c14d6f11d94a31"
    assert (
        fingerprint(PAGE.commands, PAGE.toolchain, PAGE.inputs)
        == "5967e736f0a7280943162df1bde7250a485188636668a87f15eca7ffd9c0b3bc"
    )


def test_a_fingerprint_depends_on_every_part_and_on_no_order_of_tools() -> None:
    tools = {"nvcc": "1", "c++": "2"}
    one = fingerprint("a", tools, "b")
    assert one == fingerprint("a", dict(reversed(tools.items())), "b")
    others = (fingerprint("A", tools, "b"), fingerprint("a", tools | {"nvcc": "3"}, "b"), fingerprint("a", tools, "B"))
    assert len({one, *others}) == 4


def test_inputs_are_sorted_by_path_and_each_is_there_once() -> None:
    text = input_lines(iter([("{CACHE}/b.cu", ONE), ("/a b.h", TWO), ("{CACHE}/b.cu", ONE)]))
    assert text == f"{TWO} /a b.h\n{ONE} {{CACHE}}/b.cu"
    assert parse_inputs(text) == [("/a b.h", TWO), ("{CACHE}/b.cu", ONE)]


def test_no_inputs_are_an_empty_text() -> None:
    assert input_lines([]) == ""
    assert parse_inputs("") == []
    assert parse_inputs(f"\n{ONE} /a\n\n") == [("/a", ONE)]


def test_a_line_break_in_a_path_is_told_with_the_path() -> None:
    with pytest.raises(ValueError, match=r"^a line break in the name of an input: 'a\\nb'$"):
        input_lines([("ok", ONE), ("a\nb", TWO)])
