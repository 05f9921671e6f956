"""Trace lines → requests."""

from __future__ import annotations

import json
from typing import Any

from fitasks.trace.model import Requested, Trace, read_trace

LINE = {
    "version": 1,
    "name": "page",
    "generator": "flashinfer.jit.page:gen_page_module",
    "arguments": {},
    "unsaid": "",
    "kind": "nvcc",
    "how": "compiled",
    "seconds": 30.5,
    "time": 1.7e9,
    "pid": 7,
    "rank": "0",
    "flashinfer": "0.7.2.post1",
    "architectures": "90a",
}


def lines(*changes: dict[str, Any]) -> list[str]:
    return [json.dumps(LINE | change) + "\n" for change in changes]


def test_processes_are_merged() -> None:
    trace = read_trace(lines({}, {"pid": 8, "how": "cached", "seconds": 0.1}))
    assert trace == Trace(
        (
            Requested(
                "page",
                "flashinfer.jit.page:gen_page_module",
                how=frozenset({"compiled", "cached"}),
                seconds=30.5,
                processes=frozenset({7, 8}),
                flashinfer="0.7.2.post1",
                architectures="90a",
            ),
        )
    )


def test_torn_and_foreign_lines_are_skipped_and_counted() -> None:
    whole = lines({})[0]
    trace = read_trace(
        [whole, whole[:40] + "\n", "\n", "[]\n", '{"version": 2}\n', "server ready\n", *lines({"pid": "x"})]
    )
    assert [one.name for one in trace.requested] == ["page"]
    assert trace.skipped == 5


def test_other_arguments_or_architectures_are_other_requests() -> None:
    trace = read_trace(lines({}, {"arguments": {"a": 1}}, {"arguments": {"a": True}}, {"architectures": "80"}))
    assert len(trace.requested) == 4


def test_only_generated_is_not_loaded() -> None:
    (one,) = read_trace(lines({"how": "generated"})).requested
    (other,) = read_trace(lines({"how": "generated"}, {"how": "failed"})).requested
    assert (one.loaded, other.loaded) == (False, True)
