"""Whatever a trace or a log holds: modules, or our error; without waiting, and in memory that doesn't grow with it."""

from __future__ import annotations

import json
import math
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.server import buildlog
from fitasks.server.jitlog import is_compressed, read_log
from fitasks.trace.model import parse
from fitasks.trace.sources import read_sources
from tests.mutants import JSON
from tests.trace.test_trace_model import LINE

BUILD: dict[str, Any] = {"toolchain": "nvcc", "name": "page", "seconds": 25.1, "pid": 7, "time": 1795901000.25}
WHOLE = json.dumps(LINE) + "\n" + json.dumps(BUILD) + "\n"
LOG = """\
2026-01-01 00:00:00,1 - INFO - flashinfer.jit: Building JIT module page; wait
flashinfer.jit: Building JIT module norm; wait
"""
once = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def read(file: Path) -> None:
    """As `doit import_trace`, `check --trace` and `jitlog` do."""
    found = []
    try:
        found = list(read_sources([file]).requested)
    except EnvironmentProblem as error:
        said = str(error)
        assert str(file) in said
    for one in found:
        assert one.name.isprintable()
        assert math.isfinite(one.seconds)
    for logged in read_log(file):
        assert logged.name.isprintable()
        assert math.isfinite(logged.seconds)


@once
@given(changes=st.dictionaries(st.sampled_from([*LINE, *BUILD]), JSON, max_size=3))
def test_any_value_in_any_field(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(f"{json.dumps(LINE | changes)}\n{json.dumps(BUILD | changes)}\n", encoding="utf-8")
    read(file)


@once
@given(data=st.binary(max_size=40), at=st.integers(0, len(WHOLE + LOG)))
def test_any_bytes_anywhere(tmp_path: Path, data: bytes, at: int) -> None:
    text = (WHOLE + LOG).encode()
    (tmp_path / "trace.jsonl").write_bytes(text[:at] + data + text[at + len(data) :])
    read(tmp_path / "trace.jsonl")


TRACE_LINES = {
    "pid": '"pid": Infinity',
    "pid, a text": '"pid": "7"',
    "pid, half": '"pid": 7.5',
    "seconds": '"seconds": 1e400',
    "seconds, none": '"seconds": NaN',
    "seconds, negative": '"seconds": -1',
    "seconds, of many digits": f'"seconds": {"9" * 400}',
    "digits that Python doesn't read": f'"pid": {"9" * 5000}',
    "name, a list": '"name": ["page"]',
    "name, empty": '"name": ""',
    "name, two lines": '"name": "page\\nkernel:page: fresh"',
    "name, escapes": '"name": "page\\u001b[2J"',
    "name, turned around": '"name": "page\\u202e"',
    "name, half a character": '"name": "\\ud800"',
    "name, a zero byte": '"name": "page\\u0000"',
    "how": '"how": {}',
    "arguments": '"arguments": [1]',
    "arguments, deep": f'"arguments": {"[" * 5000}{"]" * 5000}',
    "arguments, not so deep": f'"arguments": {{"a": {"[" * 100}{"]" * 100}}}',
}


@pytest.mark.parametrize("case", TRACE_LINES)
def test_what_no_recorder_writes_is_no_trace_line(tmp_path: Path, case: str) -> None:
    line = json.dumps(LINE)[:-1] + ", " + TRACE_LINES[case] + "}\n"
    assert parse(line) is None
    (tmp_path / "trace.jsonl").write_text(json.dumps(LINE) + "\n" + line)
    found = read_sources([tmp_path / "trace.jsonl"])
    assert [one.name for one in found.requested] == ["page"]
    assert found.notes == (f"{tmp_path}/trace.jsonl: 1 lines that are no whole trace lines were left out",)


@pytest.mark.parametrize("line", ["[" * 5000, "{" * 5000, "7", "null", "[]", '{"a": ' * 300, '{"version": 1}'])
def test_lines_that_are_something_else(line: str) -> None:
    assert parse(line) is None
    assert buildlog.parse(line) is None


@pytest.mark.parametrize(
    "change",
    [{"seconds": math.inf}, {"pid": math.inf}, {"time": math.nan}, {"seconds": -1}, {"time": 10**400}, {"name": 3}]
    + [{"name": name} for name in ("a\nb", "a\x1b[m", "../../x", "", "a" * 300, "a\0b")]
    + [{"toolchain": "\u202e"}, {"pid": True}],
)
def test_what_flashinfer_never_logs(change: dict[str, Any]) -> None:
    assert buildlog.parse(json.dumps(BUILD)) is not None
    assert buildlog.parse(json.dumps(BUILD | change)) is None


def test_what_a_sentence_says_stays_on_its_line() -> None:
    one = parse(json.dumps(LINE | {"unsaid": "a\nkernel:page: fresh"}))
    assert one is not None
    assert one.unsaid == r"'a\nkernel:page: fresh'"


@pytest.mark.parametrize(
    "reading", [read_sources, lambda paths: read_log(paths[0]), lambda paths: is_compressed(paths[0])]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "missing"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, reading: Any, kind: str) -> None:
    file = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "missing": tmp_path / "none"}[kind]
    if kind == "pipe":
        os.mkfifo(file)
    with pytest.raises((BadInput, FileNotFoundError), match=str(file)):
        reading([file])


GARBAGE = {
    "x": b"x",
    "brackets": b"[",
    "braces": b"{",
    "zeros": b"\0",
    "paths": b"/cached_ops/",
    "a name": b"a/cached_ops/a",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_megabytes_without_an_end_of_line(tmp_path: Path, garbage: str) -> None:
    """4 MB; in time that grows with the size, which is some seconds for 300 MB."""
    file = tmp_path / "server.log"
    block = GARBAGE[garbage] * (4_000_000 // len(GARBAGE[garbage]))
    file.write_bytes(block + b"\n" + LOG.encode())
    begin = time.process_time()
    tracemalloc.start()
    found = {one.name for one in read_sources([file]).requested}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {"page", "norm"} <= found
    assert {one.name for one in read_log(file)} >= {"page"}
    assert peak < 16 << 20
    assert time.process_time() - begin < 10


def test_many_processes_and_many_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "server.log"
    file.write_text("".join(json.dumps(LINE | {"pid": pid}) + "\n" for pid in range(2_000)))
    assert len(read_sources([file]).requested[0].processes) == 1024
    monkeypatch.setattr("fitasks.trace.sources._MOST_MODULES", 1000)
    file.write_text("".join(f"Building JIT module m{number}; wait\n" for number in range(1001)))
    with pytest.raises(BadInput, match="names more than 1,000 modules"):
        read_sources([file])
