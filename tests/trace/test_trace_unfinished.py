"""What a process was busy with when it was killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.trace import unfinished
from fitasks.trace.coverage import coverage
from fitasks.trace.sources import read_sources
from fitasks.ui.trace_table import covered
from tests.trace.test_trace_model import LINE, lines, read_trace

if TYPE_CHECKING:
    from pathlib import Path

# Of vLLM 0.26 with FlashInfer 0.6.14, as the recorder wrote it before waits had lines of their beginning: the server was
# killed while it compiled `sampling`.
OLD = """\
{"version": 1, "name": "xqa", "generator": "flashinfer.jit.xqa:gen_xqa_module", "arguments": {"head_dim": 128}, "unsaid": "", "kind": "nvcc", "how": "generated", "seconds": 0.0, "time": 1795996049.89, "pid": 910, "rank": "0", "flashinfer": "0.6.14", "architectures": "90a"}
{"version": 1, "name": "ninja xqa", "generator": "", "arguments": {}, "unsaid": "", "kind": "compiler", "how": "started", "seconds": 0.0, "time": 1795996049.894, "pid": 910, "rank": "0", "flashinfer": "0.6.14", "architectures": "90a"}
{"version": 1, "name": "xqa", "generator": "flashinfer.jit.xqa:gen_xqa_module", "arguments": {"head_dim": 128}, "unsaid": "", "kind": "nvcc", "how": "compiled", "seconds": 11.087, "time": 1795996060.977, "pid": 910, "rank": "0", "flashinfer": "0.6.14", "architectures": "90a"}
{"version": 1, "name": "topk", "generator": "flashinfer.jit.topk:gen_topk_module", "arguments": {}, "unsaid": "", "kind": "nvcc", "how": "generated", "seconds": 0.0, "time": 1795996068.3, "pid": 910, "rank": "0", "flashinfer": "0.6.14", "architectures": "90a"}
{"version": 1, "name": "sampling", "generator": "flashinfer.jit.sampling:gen_sampling_module", "arguments": {}, "unsaid": "", "kind": "nvcc", "how": "generated", "seconds": 0.0, "time": 1795996068.302, "pid": 910, "rank": "0", "flashinfer": "0.6.14", "architectures": "90a"}
{"version": 1, "name": "ninja sampling", "generator": "", "arguments": {}, "unsaid": "", "kind": "compiler", "how": "started", "seconds": 0.0, "time": 1795996068.305, "pid": 910, "rank": "0", "flashinfer": "0.6.14", "architectures": "90a"}
"""
BEGUN, COMPILED, OVER = {"how": "begun", "seconds": 0}, {"how": "compiled"}, {"how": "over", "seconds": 0}
GENERATED = {"how": "generated", "seconds": 0}
NINJA = {"name": "ninja page", "kind": "compiler", "how": "started", "generator": "", "seconds": 0}
ENDED = {
    "name": "server",
    "kind": "server",
    "how": "ended",
    "generator": "",
    "seconds": 0,
    "pid": 1,
    "time": 1.7e9 + 35,
}


def left(tmp_path: Path, *changes: dict[str, Any]) -> list[str]:
    return [one.name for one in read_trace(tmp_path, lines(*changes)).requested if one.unfinished]


def test_a_trace_of_an_earlier_recorder(tmp_path: Path) -> None:
    requested = read_trace(tmp_path, [OLD]).requested
    assert [(one.name, one.generator) for one in requested if one.unfinished] == [
        ("sampling", "flashinfer.jit.sampling:gen_sampling_module")
    ]
    found = coverage(requested, {"90a": frozenset({"xqa"})}, None)
    assert [one.name for one in found.missing] == ["sampling"]
    assert list(covered(found, "kernels.yaml")) == [
        "kernels.yaml covers 1 of 2 requested modules; not",
        "  sampling, not finished",
        "`doit import_trace` adds what kernels.yaml can say",
        "left out: 1 module, generated and never loaded",
        "what this server waited for, each module by the process that waited longest:",
        "  FlashInfer, nvcc: 2 modules, 1 of them compiled in 11.1 s, 1 of them begun and never finished",
        "  compilers that Python started: ninja 2",
    ]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([BEGUN], ["page"]),
        ([BEGUN, COMPILED], []),
        ([BEGUN, {"how": "failed"}], []),
        ([BEGUN, OVER], []),
        ([BEGUN, COMPILED, BEGUN], ["page"]),
        ([BEGUN, COMPILED | {"pid": 8}], ["page"]),
        ([BEGUN, COMPILED | {"kind": "triton"}], ["page"]),
        ([BEGUN, COMPILED | {"architectures": "90a_100a", "flashinfer": ""}], []),  # what a process learns meanwhile
        ([GENERATED, NINJA], ["page"]),
        ([GENERATED, NINJA, COMPILED], []),
        ([GENERATED, BEGUN, NINJA, COMPILED], []),
        ([GENERATED, COMPILED, NINJA], []),
        ([GENERATED | {"pid": 8}, NINJA], []),
        ([GENERATED, NINJA | {"name": "nvcc page"}], []),
        ([GENERATED, NINJA | {"how": "ran"}], []),
        ([BEGUN, ENDED], ["page"]),
        ([BEGUN, ENDED, COMPILED], []),  # as a server that goes on without the process that was started
        ([BEGUN, ENDED, BEGUN], ["page"]),
    ],
)
def test_what_is_left(tmp_path: Path, changes: list[dict[str, Any]], names: list[str]) -> None:
    assert left(tmp_path, *changes) == names


def test_a_short_wait_asks_for_no_module(tmp_path: Path) -> None:
    (one,) = read_trace(tmp_path, lines(BEGUN, OVER)).requested
    assert (one.loaded, one.unused, one.compiled) == (False, False, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([BEGUN], "1 module, 1 of them begun and never finished"),
        ([BEGUN, ENDED], "1 module, 1 of them not finished when the server ended, after 35.0 s"),
        (
            [BEGUN, ENDED, ENDED | {"time": 1.7e9 + 99}],
            "1 module, 1 of them not finished when the server ended, after 35",
        ),
        ([BEGUN | {"time": 0}, ENDED], "1 module, 1 of them begun and never finished"),
        (
            [BEGUN, BEGUN | {"name": "norm", "time": 1.7e9 + 5}, ENDED],
            "2 modules, 2 of them not finished when the server ended, after up to 35.0 s",
        ),
        (
            [COMPILED, BEGUN | {"pid": 8}, ENDED],
            "1 module, 1 of them compiled in 30.5 s, 1 of them not finished when the server ended, after 35.0 s",
        ),
    ],
)
def test_what_is_said_of_it(tmp_path: Path, changes: list[dict[str, Any]], said: str) -> None:
    table = covered(coverage(read_trace(tmp_path, lines(*changes)).requested, {}, None), "kernels.yaml")
    assert any(f"  FlashInfer, nvcc: {said}" in line for line in table)


def test_of_two_traces_the_longer_wait_counts(tmp_path: Path) -> None:
    for name, seconds in (("short", 5), ("long", 50)):
        (tmp_path / name).write_text("".join(lines(BEGUN, ENDED | {"time": 1.7e9 + seconds})))
    for names in (("short", "long"), ("long", "short")):
        assert [one.left for one in read_sources([tmp_path / name for name in names]).requested[:1]] == [50]


def test_the_servers_end_is_no_moment_at_which_it_answered(tmp_path: Path) -> None:
    assert not any(one.late for one in read_trace(tmp_path, lines(COMPILED, ENDED)).requested)


def test_no_more_is_remembered_than_servers_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "_MOST", 3)
    waits = unfinished.Waits()
    for pid in range(9):
        for change in (GENERATED | {"name": "rope"}, BEGUN):
            (one,) = read_trace(tmp_path, [json.dumps(LINE | change | {"pid": pid})]).requested
            waits.hear(one)
    assert len(list(waits.left())) == len(waits._generated) == 3
