"""A trace into a project's kernels.yaml, planned by the real FlashInfer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fitasks.config.load import load_config
from fitasks.graph.actions.know import import_files
from fitasks.graph.session import Session
from fitasks.trace.importing import Proposal
from tests.doit_project import Project

pytestmark = pytest.mark.usefixtures("torch")  # planning needs it

MODULES = "flashinfer.jit.attention.modules"
ACT = "batch_prefill_with_kv_cache_dtype_q_bf16_dtype_kv_bf16_dtype_o_bf16_dtype_idx_i32"
DIMS = "head_dim_qk_{0}_head_dim_vo_{0}_posenc_0_use_swa_False_use_logits_cap_False_f16qk_False_kv_stride_equal"
HEAD = {"version": 1, "kind": "nvcc", "how": "compiled", "seconds": 2.5, "pid": 1, "architectures": "90a"}
RUN = """
import sys
from pathlib import Path
from fitasks.base.errors import FitasksError
from fitasks.graph.actions.ask import covers
from fitasks.graph.actions.know import import_files
from fitasks.graph.session import current
if sys.argv[1] == "check":
    sys.exit(0 if covers(current(), Path(sys.argv[2])) else 1)
import_files(current(), [Path(sys.argv[2])], to_write=sys.argv[1] == "write")
"""
KERNELS = """\
# my kernels
targets: ["9.0a"]   # one
kernels:
  page:             # of the KV cache
"""


def prefill(dim: int) -> dict[str, Any]:
    same = dict.fromkeys(("dtype_q", "dtype_kv", "dtype_o"), "bfloat16") | {"dtype_idx": "int32"}
    flags = dict.fromkeys(("use_sliding_window", "use_logits_soft_cap", "use_fp16_qk_reduction"), False)
    dims = {"head_dim_qk": dim, "head_dim_vo": dim, "pos_encoding_mode": 0}
    arguments = {"backend": "fa2"} | same | dims | flags
    generator = f"{MODULES}:_gen_batch_prefill_primary_module"
    return {"name": f"{ACT}_{DIMS.format(dim)}", "generator": generator, "arguments": arguments}


REQUESTS = [
    {"name": "page", "generator": "flashinfer.jit.page:gen_page_module"},
    prefill(64),
    prefill(128),
    {
        "name": "silu_and_mul",
        "generator": "flashinfer.jit.activation:gen_act_and_mul_module",
        "arguments": {"act_func_name": "silu"},
        "how": "begun",  # and its process was killed
    },
    {"name": "rmsnorm_dsl", "kind": "cute-dsl", "seconds": 7.5},
]
# No server asks for this: it is to run something.
HOSTILE = [
    {"name": "x", "generator": "subprocess:getoutput", "arguments": {"cmd": "touch ran"}},
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.make(tmp_path, KERNELS)
    (project.root / "trace.jsonl").write_text("".join(json.dumps(HEAD | one) + "\n" for one in REQUESTS + HOSTILE))
    return project


def run(project: Project, how: str, status: int = 0) -> str:
    command = [sys.executable, "-c", RUN, how, "trace.jsonl"]
    done = subprocess.run(command, cwd=project.root, env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


ADDED = """\
  prefill: {op: batch_prefill, backend: fa2, dtype_q: bfloat16, head_dim: [64, 128]}
  act_and_mul: {act_func_name: silu}
"""
REFUSED = """\
  not expressible: x: trace.jsonl:6: generator 'subprocess:getoutput' is no gen_… function of FlashInfer, nor a function of \
SGLang's JIT, and nothing else is called for a trace
"""
OUTSIDE = "not covered by precompilation: 1 module, 7.5 s in the server\n  rmsnorm_dsl (cute-dsl), 7.5 s\n"
WAITED = """\
what this server waited for, each module by the process that waited longest:
  FlashInfer, nvcc: 5 modules, 4 of them compiled in 10.0 s, 1 of them begun and never finished
  FlashInfer, CuTe-DSL: 1 module, 1 of them compiled in 7.5 s
"""


def test_written_and_then_nothing_more(project: Project) -> None:
    file: Path = project.root / "kernels.yaml"
    diff = "--- kernels.yaml\n+++ kernels.yaml (with the trace)\n@@ -2,3 +2,5 @@\n"
    context = "".join(f" {line}\n" for line in KERNELS.splitlines()[1:])
    plus = "".join(f"+{line}\n" for line in ADDED.splitlines())
    counts = "3 modules to add, 1 in kernels.yaml already, 1 not expressible\n" + REFUSED
    shown = diff + context + plus + counts + OUTSIDE
    assert run(project, "check", status=1).startswith("kernels.yaml covers 1 of 5 requested modules; not\n")
    assert run(project, "write") == shown + "kernels.yaml written; `doit` compiles\n"
    assert file.read_text() == KERNELS + ADDED
    left = "  x, 2.5 s\n`doit import_trace` adds what kernels.yaml can say\n"
    checked = "kernels.yaml covers 4 of 5 requested modules; not\n" + left + OUTSIDE + WAITED
    assert run(project, "check", status=1) == checked
    again = "0 modules to add, 4 in kernels.yaml already, 1 not expressible\n"
    assert run(project, "write") == again + REFUSED + OUTSIDE
    assert not (project.root / "ran").exists()


@pytest.mark.parametrize("to_write", [False, True])
def test_nothing_is_written_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, to_write: bool
) -> None:
    """What is proposed is given: to find it takes several plans."""
    (tmp_path / "kernels.yaml").write_text(KERNELS)
    (tmp_path / "trace.jsonl").write_text(json.dumps(HEAD | REQUESTS[0]))
    proposal = Proposal(tmp_path / "kernels.yaml", KERNELS, KERNELS + ADDED, (), (), (), (), ())
    monkeypatch.setattr("fitasks.trace.importing.propose", lambda *_: proposal)
    plan = SimpleNamespace(config=load_config(tmp_path / "kernels.yaml"))
    monkeypatch.setattr(Session, "plan", property(lambda _: plan))
    import_files(Session(tmp_path), [tmp_path / "trace.jsonl"], to_write=to_write)
    said = capsys.readouterr().out.splitlines()[-1]
    sentences = ["nothing written yet: kernels.yaml gets this with --write", "kernels.yaml written; `doit` compiles"]
    assert said == sentences[to_write]
    assert proposal.file.read_text() == KERNELS + ADDED * to_write
