"""Any trace at all: what it asks for, or our error; and nothing is asked of the planner but FlashInfer's generators."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.generators import may_be_called
from fitasks.trace.entries import Entry, unsayable
from fitasks.trace.model import Requested
from fitasks.trace.resolve import resolve
from fitasks.trace.sources import read_sources
from tests.mutants import PLAIN, json_of

PAGE = "flashinfer.jit.page:gen_page_module"
LINE = {"version": 1, "name": "page", "generator": PAGE, "arguments": {}, "kind": "nvcc", "how": "compiled", "pid": 1}
NAMES = st.sampled_from(
    [PAGE, "subprocess:getoutput", "os:system", "flashinfer:os", "flashinfer.x:gen_a.b", "", "a:b:c"]
)
JSON = json_of(PLAIN | NAMES)
LINES = st.fixed_dictionaries(
    {"version": st.just(1), "name": st.text(max_size=6), "generator": NAMES | JSON, "kind": st.just("nvcc") | JSON},
    optional={"arguments": st.dictionaries(st.text(max_size=5), JSON, max_size=2), "how": JSON, "unsaid": JSON,
              "pid": st.just(1), "seconds": JSON, "architectures": JSON, "flashinfer": JSON},
)  # fmt: skip
few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, data: bytes) -> tuple[Requested, ...]:
    path.write_bytes(data)
    try:
        return read_sources([path]).requested
    except EnvironmentProblem as error:
        said = str(error)
    assert str(path) in said
    return ()


def asked_for(requested: Sequence[Requested]) -> list[Entry]:
    """Every op and all parameters that the planner would be asked about."""
    asked: list[Entry] = []

    def ask(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
        asked.extend(entries)
        return {"90a": [{"error": {"message": "no"}} for _ in entries]}

    resolve(requested, (), ask)
    return asked


@few
@given(st.lists(LINES, min_size=1, max_size=3))
@example([LINE | {"generator": "subprocess:getoutput", "arguments": {"cmd": "touch x"}}])
def test_only_generators_of_flashinfer_with_plain_words(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    requested = read(tmp_path / "trace.jsonl", "\n".join(map(json.dumps, lines)).encode(errors="surrogatepass"))
    for entry in asked_for(requested):
        assert may_be_called(entry.op)
        for name, value in entry.params.items():
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
            assert not isinstance(value, str) or not re.search(r"[^\w.+-]|^\.", value)


@few
@given(st.binary(max_size=300), st.integers(0, 200))
def test_bytes_and_torn_lines(tmp_path: Path, data: bytes, at: int) -> None:
    text = (json.dumps(LINE) + "\n").encode()
    asked_for(read(tmp_path / "trace.jsonl", text[:at] + data + text[at:]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"generator": "subprocess:getoutput", "arguments": {"cmd": "touch /tmp/x"}},
            "generator 'subprocess:getoutput' is no gen_… function of FlashInfer, nor a function of SGLang's JIT, and",
        ),
        ({"generator": "os:system"}, "generator 'os:system' is no"),
        ({"generator": "flashinfer.jit.core:subprocess.getoutput"}, "generator 'flashinfer.jit.core:subprocess.getout"),
        ({"generator": "flashinfer_fork:gen_page_module"}, "generator 'flashinfer_fork:gen_page_module' is no"),
        ({"generator": "sglang.srt:gen_x_module"}, "generator 'sglang.srt:gen_x_module' is no"),
        ({"arguments": {"uri": "../../../victim"}}, "arguments: uri is '../../../victim', not one plain word"),
        ({"arguments": {"decl": "struct X {};"}}, "arguments: decl is 'struct X {};', not one plain word"),
        ({"arguments": {"a b": 1}}, "arguments: 'a b' is no parameter's name"),
    ],
)
def test_a_refusal_names_the_line(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    trace = tmp_path / "trace.jsonl"
    requested = read(trace, "".join(json.dumps(one) + "\n" for one in (LINE, LINE | change)).encode())
    assert [unsayable(one) for one in requested[:1]] == [""]
    assert unsayable(requested[1]).startswith(f"{trace}:2: {reason}")
    assert [entry.op for entry in asked_for(requested)] == [PAGE]


def test_what_recorded_servers_say_is_none_of_that() -> None:
    said = {"backend": "fa2", "dtype_q": "bfloat16", "arch": "sm_90a", "cta_tile_q": 128, "flag": None, "key": ""}
    assert unsayable(Requested("x", "flashinfer.jit.attention.modules:_gen_batch_prefill_primary_module", said)) == ""
