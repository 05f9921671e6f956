"""Traces, logs and caches as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.trace.sources import read_sources

LINE = {"version": 1, "name": "page", "generator": "g:f", "how": "compiled", "kind": "nvcc", "pid": 1}
LOG = """\
2026-01-01 INFO flashinfer.jit: Building JIT module sampling; this can take several minutes on first use
2026-01-01 INFO flashinfer.jit: Building JIT module norm; this can take several minutes on first use
ninja: error: loading '/root/.cache/flashinfer/0.7.2/90a/cached_ops/rope/build.ninja': no such file
  lock /root/.cache/flashinfer/0.7.2/90a/cached_ops/tmp/rope.lock
flashinfer.jit.core.MissingJITCacheError: JIT compilation is disabled via FLASHINFER_DISABLE_JIT environment variable
"""


def test_a_cache_directory(tmp_path: Path) -> None:
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


def test_a_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LOG)
    found = read_sources([log])
    assert [one.name for one in found.requested] == ["sampling", "norm", "rope"]
    note = f"{log}: MissingJITCacheError 1 times; FlashInfer's message doesn't say of which module, a trace does"
    assert found.notes == (note,)


def test_a_log_that_names_nothing_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LOG.splitlines()[-1])
    with pytest.raises(EnvironmentProblem) as error:
        read_sources([log])
    assert str(error.value) == (
        f"{log} names no FlashInfer module\n"
        f"{log}: MissingJITCacheError 1 times; FlashInfer's message doesn't say of which module, a trace does\n"
        "  remedy: record the server: python -m fitasks.record -o trace.jsonl -- <its command>"
    )


def test_a_trace_tells_more_than_a_name(tmp_path: Path) -> None:
    trace, log = tmp_path / "trace.jsonl", tmp_path / "server.log"
    trace.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE)[:30])
    log.write_text("Building JIT module page; wait\n")
    found = read_sources([log, trace])
    assert [(one.name, one.generator) for one in found.requested] == [("page", "g:f")]
    assert found.notes == (f"{trace}: 1 lines that are no whole trace lines were left out",)


WORKSPACE = "/root/.cache/flashinfer/0.7.4/90a"
DSL = "gdn_qk_l2norm_sm90a_cute_dsl/l2norm_bf16_128"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"ninja: Entering directory '{WORKSPACE}/cached_ops/sampling'", "sampling"),
        (f"ninja: Entering directory `{WORKSPACE}/cached_ops/sampling'", "sampling"),  # as ninja up to 1.10 has it
        (f"Command '['ninja', '-C', '{WORKSPACE}/cached_ops/page', '-v']' returned non-zero exit status 1.", "page"),
        (f"cd {WORKSPACE}/cached_ops/rope && ninja", "rope"),
        (f"OSError: {WORKSPACE}/cached_ops/norm: No space left on device", "norm"),
        (f"in {WORKSPACE}/cached_ops/cascade", "cascade"),
        (f"FAILED: {WORKSPACE}/cached_ops/page/page.cuda.o", "page"),
        (f"core.py:9 - flashinfer.jit: Compiling CuTe-DSL kernel {DSL}", DSL),
        (f"flashinfer.jit: Persisted CuTe-DSL kernel to {WORKSPACE}/cached_ops/{DSL}.o", DSL),
        (f"Unable to load TIRx KDA cache {WORKSPACE}/cached_ops/kda_tirx_00ff/kernel.so: x", "kda_tirx_00ff"),
    ],
)
def test_every_way_in_which_a_line_names_a_module(tmp_path: Path, line: str, name: str) -> None:
    (log := tmp_path / "server.log").write_text(f"{line}\n")
    assert [one.name for one in read_sources([log]).requested] == [name]


@pytest.mark.parametrize(
    "line",
    [
        f"{WORKSPACE}/cached_ops/flashinfer_jit.ninja\n",
        f"{WORKSPACE}/cached_ops/tmp/page.lock\n",
        f"ninja: Entering directory '{WORKSPACE}/cached_ops/samp",  # torn
        f"Invalidating {WORKSPACE}/cached_ops/gdn_qk_l2norm_sm90a_cute_dsl/meta.json\n",  # a family, no kernel
    ],
)
def test_what_names_none(tmp_path: Path, line: str) -> None:
    (log := tmp_path / "server.log").write_text(line)
    with pytest.raises(EnvironmentProblem, match="names no FlashInfer module"):
        read_sources([log])


def built(toolchain: str, name: str, seconds: float, pid: int = 7) -> str:
    return json.dumps({"toolchain": toolchain, "name": name, "seconds": seconds, "pid": pid, "time": 1795901000.5})


BUILDS = [
    built("nvcc", "page", 25.1),
    built("nvcc", "page", 0.03, 8),
    built("nvcc", "cascade", 0.02),
    built("cute_dsl", DSL, 0.7),
    built("tirx", "kda_tirx_00ff", 9.5),
    built("nvcc", "prebuild[8 modules]", 140.0),
]


def test_a_build_log(tmp_path: Path) -> None:
    log = tmp_path / "builds.jsonl"
    log.write_text("\n".join([*BUILDS, BUILDS[0][:40]]))
    found = read_sources([log])
    assert [(one.name, one.kind, sorted(one.how), one.seconds, len(one.processes)) for one in found.requested] == [
        ("page", "nvcc", ["cached", "compiled"], 25.1, 2),
        ("cascade", "nvcc", ["cached"], 0.02, 1),
        (DSL, "cute-dsl", ["compiled"], 0.7, 1),
        ("kda_tirx_00ff", "tirx", ["compiled"], 9.5, 1),
    ]
    assert found.notes == (
        f"{log}: 1 lines that are no whole trace lines were left out",
        f"{log}: 1 builds of several modules at once, which it doesn't name",
    )


def test_every_toolchains_modules_of_a_cache(tmp_path: Path) -> None:
    ops = tmp_path / "flashinfer" / "0.7.4" / "90a" / "cached_ops"
    for file in (
        "page/build.ninja",
        f"{DSL}.o",
        f"{DSL.split('/', maxsplit=1)[0]}/meta.json",
        "kda_tirx_0/kernel.so",
        "kda_tirx_0/kernel.json",
    ):
        (ops / file).parent.mkdir(parents=True, exist_ok=True)
        (ops / file).touch()
    assert [(one.name, one.kind) for one in read_sources([ops]).requested] == [
        (DSL, "cute-dsl"),
        ("kda_tirx_0", "tirx"),
        ("page", "nvcc"),
    ]


def test_five_asked_for_are_five(tmp_path: Path) -> None:
    from fitasks.trace.coverage import coverage

    (log := tmp_path / "server.log").write_text(
        LOG + "".join(f"ninja: Entering directory '{WORKSPACE}/cached_ops/{name}'\n" for name in ("page", "topk"))
    )
    assert coverage(read_sources([log]).requested, {}, None).total == 5


def test_nothing_given() -> None:
    with pytest.raises(EnvironmentProblem, match="nothing to import"):
        read_sources([])
