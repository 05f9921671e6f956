"""Traces, logs and caches as files."""

import json

import pytest

from fitasks.errors import EnvironmentProblem
from fitasks.trace.sources import read_sources

LINE = {"version": 1, "name": "page", "generator": "g:f", "how": "compiled", "kind": "nvcc", "pid": 1}
LOG = """\
2026-01-01 INFO flashinfer.jit: Building JIT module sampling; this can take several minutes on first use
Loading JIT ops: norm
ninja: error: loading '/root/.cache/flashinfer/0.7.2/90a/cached_ops/rope/build.ninja': no such file
  lock /root/.cache/flashinfer/0.7.2/90a/cached_ops/tmp/rope.lock
flashinfer.jit.core.MissingJITCacheError: JIT compilation is disabled via FLASHINFER_DISABLE_JIT environment variable
"""


def test_a_cache_directory(tmp_path):
    ops = tmp_path / "flashinfer" / "0.7.2" / "80_90a" / "cached_ops"
    for name in ("page", "rope", "tmp", "empty"):
        (ops / name).mkdir(parents=True)
    (ops / "page" / "build.ninja").touch()
    (ops / "rope" / "rope.so").touch()
    (ops / "tmp" / "build.ninja").touch()
    for directory in (ops, ops.parent):
        found = read_sources([directory])
        said = [(one.name, one.generator, one.flashinfer, one.architectures) for one in found.requested]
        assert said == [("page", "", "0.7.2", "80_90a"), ("rope", "", "0.7.2", "80_90a")]
    with pytest.raises(EnvironmentProblem, match="holds no FlashInfer modules"):
        read_sources([ops / "empty"])


def test_a_log(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(LOG)
    found = read_sources([log])
    assert [one.name for one in found.requested] == ["sampling", "norm", "rope"]
    note = f"{log}: MissingJITCacheError 1 times; FlashInfer's message doesn't say of which module, a trace does"
    assert found.notes == (note,)


def test_a_log_that_names_nothing_is_an_error_that_says_what_to_do(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(LOG.splitlines()[-1])
    with pytest.raises(EnvironmentProblem) as error:
        read_sources([log])
    assert str(error.value) == (
        f"{log} names no FlashInfer module\n"
        f"{log}: MissingJITCacheError 1 times; FlashInfer's message doesn't say of which module, a trace does\n"
        "  remedy: record the server: python -m fitasks.record -o trace.jsonl -- <its command>"
    )


def test_a_trace_tells_more_than_a_name(tmp_path):
    trace, log = tmp_path / "trace.jsonl", tmp_path / "server.log"
    trace.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE)[:30])
    log.write_text("Building JIT module page; wait\n")
    found = read_sources([log, trace])
    assert [(one.name, one.generator) for one in found.requested] == [("page", "g:f")]
    assert found.notes == (f"{trace}: 1 lines that are no whole trace lines were left out",)


def test_nothing_given():
    with pytest.raises(EnvironmentProblem, match="nothing to import"):
        read_sources([])
