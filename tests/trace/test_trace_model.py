"""Trace lines → requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fitasks.trace.entries import unsayable
from fitasks.trace.model import Requested
from fitasks.trace.sources import Sources, read_sources

if TYPE_CHECKING:
    from pathlib import Path

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


def read_trace(tmp_path: Path, lines: list[str]) -> Sources:
    (tmp_path / "trace").write_text("".join(lines))
    return read_sources([tmp_path / "trace"])


def test_processes_are_merged(tmp_path: Path) -> None:
    (one,) = read_trace(tmp_path, lines({}, {"pid": 8, "how": "cached", "seconds": 0.1})).requested
    assert one == Requested(
        "page",
        "flashinfer.jit.page:gen_page_module",
        how=frozenset({"compiled", "cached"}),
        seconds=30.5,
        times=2,
        total=30.6,
        processes=frozenset({7, 8}),
        flashinfer="0.7.2.post1",
        architectures="90a",
        place=f"{tmp_path}/trace:1",
        time=1.7e9,
        ended=1.7e9,
    )


def test_torn_and_foreign_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    whole = lines({})[0]
    torn = [whole[:40] + "\n", "\n", "[]\n", '{"version": 2}\n', "server ready\n", *lines({"pid": "x"})]
    trace = read_trace(tmp_path, [whole, *torn])
    assert [one.name for one in trace.requested] == ["page"]
    assert trace.notes == (f"{tmp_path}/trace: 3 lines that are no whole trace lines were left out",)


def test_other_arguments_or_architectures_are_other_requests(tmp_path: Path) -> None:
    trace = read_trace(
        tmp_path, lines({}, {"arguments": {"a": 1}}, {"arguments": {"a": True}}, {"architectures": "80"})
    )
    assert len(trace.requested) == 4


def test_each_process_says_its_own_gpu_and_means_any(tmp_path: Path) -> None:
    devices = ({"arguments": {"dev": device}, "kind": "cute-dsl"} for device in ("cuda:0", "cuda:1", "cuda"))
    (one,) = read_trace(tmp_path, lines(*devices)).requested
    assert one.arguments == {"dev": "cuda"}
    assert unsayable(one) == ""
    (other,) = read_trace(tmp_path, lines({"arguments": {"dev": "cuda:x; rm"}})).requested
    assert "not one plain word" in unsayable(other)


def test_only_generated_is_not_loaded(tmp_path: Path) -> None:
    (one,) = read_trace(tmp_path, lines({"how": "generated"})).requested
    (other,) = read_trace(tmp_path, lines({"how": "generated"}, {"how": "failed"})).requested
    assert (one.loaded, other.loaded) == (False, True)
