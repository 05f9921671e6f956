"""What a recorded process notes, with the real FlashInfer of several versions and a ninja that makes no modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from planner_runs import environment

from fitasks.record import HOOK, variables
from fitasks.trace.model import read_trace
from tests.doit_project import Project

ROOT = Path(__file__).parents[2]
VERSIONS = ["0.6.7.post3", "0.6.18.post1", "0.7.0.post1", "0.7.2.post1"]

# A stand-in for a server: the getters that FlashInfer's wrappers call. The first lines only let FlashInfer be imported
# on a torch without CUDA; loading a module that ninja "made" is left out.
SERVER = """
import os, sys
sys.path.insert(0, {serving!r})
import load_flashinfer
load_flashinfer.load()
import torch, tvm_ffi
tvm_ffi.load_module = lambda path: "module"
from flashinfer.jit import gen_batch_decode_module
from flashinfer.jit.page import gen_page_module
def ask():
    gen_page_module().build_and_load()
    half = torch.float16
    gen_batch_decode_module(half, half, half, torch.int32, 128, 128, 0, False, False).build_and_load()
print("before")
{body}
print("after")
"""
NINJA = """\
#!/bin/sh
case "$*" in *--version*) echo 1.13.0; exit;; esac
while [ $# -gt 0 ]; do [ "$1" = -C ] && directory="$2"; shift; done
test -e "$directory/up-to-date" && exit 0
test -e "$FAIL" && exit 1
echo module > "$directory/$(basename "$directory").so"
"""
NAME = (
    "batch_decode_with_kv_cache_dtype_q_f16_dtype_kv_f16_dtype_o_f16_dtype_idx_i32_head_dim_qk_128_head_dim_vo_128_"
    "posenc_0_use_swa_False_use_logits_cap_False"
)


class Server:
    """A command, its environment, and the trace that it leaves."""

    def __init__(self, base: Path, version: str) -> None:
        pytest.importorskip("torch")
        self.base = base
        self.trace = base / "trace.jsonl"
        (base / "bin").mkdir()
        (base / "bin" / "ninja").write_text(NINJA)
        (base / "bin" / "ninja").chmod(0o755)
        self.env = environment(base, version, PATH=f"{base}/bin:{os.environ['PATH']}", FAIL=str(base / "fail"))
        self.env.pop("RANK", None)

    def run(self, body: str = "ask()", *, recorded: bool = True, **more: str) -> str:
        script = self.base / "server.py"
        script.write_text(SERVER.format(serving=str(ROOT / "fitasks" / "serving"), body=body))
        env = self.env | more | (variables(self.trace, self.env | more) if recorded else {})
        done = subprocess.run(
            [sys.executable, str(script)], env=env, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        self.stderr = done.stderr
        return done.stdout

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.trace.read_text().splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
def test_name_generator_arguments_and_what_became_of_it(tmp_path: Path, version: str) -> None:
    server = Server(tmp_path, version)
    assert server.run() == "before\nafter\n"
    compiled = [line for line in server.lines() if line["how"] == "compiled"]
    assert [(line["name"], line["generator"]) for line in compiled] == [
        ("page", "flashinfer.jit.page:gen_page_module"),
        (NAME, "flashinfer.jit.attention.modules:gen_batch_decode_module"),
    ]
    assert compiled[1]["arguments"] == {
        "dtype_q": "float16",
        "dtype_kv": "float16",
        "dtype_o": "float16",
        "dtype_idx": "int32",
        "head_dim_qk": 128,
        "head_dim_vo": 128,
        "pos_encoding_mode": 0,
        "use_sliding_window": False,
        "use_logits_soft_cap": False,
    }
    one = compiled[0]
    assert (one["kind"], one["unsaid"], one["flashinfer"], one["architectures"]) == ("nvcc", "", version, "90a")
    assert {line["how"] for line in server.lines() if line["name"] == "page"} == {"generated", "compiled"}
    for cached in tmp_path.glob(".cache/flashinfer/*/*/cached_ops/*/"):
        (cached / "up-to-date").touch()
    server.trace.unlink()
    server.run()
    assert {line["how"] for line in server.lines()} == {"generated", "cached"}
    assert all(request.loaded for request in read_trace(server.trace.read_text().splitlines()).requested)


def test_spawned_and_forked_workers(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.7.2.post1")
    body = """
import multiprocessing
if __name__ == "__main__":
    os.environ["RANK"] = "3"
    forked = multiprocessing.get_context("fork").Process(target=ask)
    forked.start(); forked.join()
    os.environ["RANK"] = "5"
    spawned = multiprocessing.get_context("spawn").Process(target=ask)
    spawned.start(); spawned.join()
"""
    server.run(body)
    lines = server.lines()
    assert {line["rank"] for line in lines} == {"3", "5"}
    assert len({line["pid"] for line in lines}) == 2
    loads = {(line["rank"], line["name"]) for line in lines if line["how"] != "generated"}
    assert loads == {(rank, name) for rank in "35" for name in ("page", NAME)}


def test_a_failed_build_is_noted_and_still_fails(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.7.2.post1")
    (tmp_path / "fail").touch()
    assert server.run("try: ask()\nexcept RuntimeError as error: print('failed')") == "before\nfailed\nafter\n"
    assert [line["how"] for line in server.lines()] == ["generated", "failed"]


def test_arguments_that_cannot_be_said(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.7.2.post1")
    body = """
from flashinfer.jit import core
from pathlib import Path
def gen_own_module(what, n=3):
    return core.gen_jit_spec("own", [])
gen_own_module.__globals__["__name__"] = "flashinfer.own"
gen_own_module(object())
gen_own_module("x" * 5000)
core.gen_jit_spec("bare", [])
"""
    server.run(body)
    told = [(line["name"], line["arguments"], line["unsaid"]) for line in server.lines()]
    assert told == [
        ("own", {"n": 3}, "what is a object"),
        ("own", {}, "its arguments are too long to be noted"),
        ("bare", {}, "it was not generated by a function named gen_…_module"),
    ]


@pytest.mark.parametrize("trouble", ["unwritable", "sabotaged"])
def test_whatever_fails_here_the_server_does_not_notice(tmp_path: Path, trouble: str) -> None:
    server = Server(tmp_path, "0.7.2.post1")
    body = "ask()"
    if trouble == "unwritable":
        server.trace = tmp_path / "no" / "such" / "directory"
    else:
        body = "from flashinfer.jit import env\ndel env.FLASHINFER_WORKSPACE_DIR\n" + body
    plain = server.run("ask()", recorded=False)
    assert server.run(body) == plain
    assert "Traceback" not in server.stderr


def test_a_flashinfer_unlike_those_we_know(tmp_path: Path) -> None:
    package = tmp_path / "flashinfer" / "jit"
    package.mkdir(parents=True)
    (tmp_path / "flashinfer" / "__init__.py").write_text("from .jit import core\n")
    (package / "__init__.py").touch()
    (package / "core.py").write_text("answer = 42\n")
    env = os.environ | variables(tmp_path / "trace", {"PYTHONPATH": str(tmp_path)})
    script = "import flashinfer; print(flashinfer.core.answer)"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
    assert "this FlashInfer can't be recorded" in done.stderr


def test_the_environments_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.customized = __name__\n")
    env = os.environ | variables(tmp_path / "trace", {"PYTHONPATH": str(tmp_path)})
    script = "import sitecustomize; print(customized, sitecustomize.__file__)"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"sitecustomize {tmp_path}/sitecustomize.py\n"


def launch(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fitasks.record", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_launcher_becomes_the_command(tmp_path: Path) -> None:
    script = "import os; print(os.environ['FITASKS_RECORD'], os.environ['PYTHONPATH']); raise SystemExit(7)"
    done = launch("-o", "trace.jsonl", "--", sys.executable, "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, f"{tmp_path}/trace.jsonl {HOOK}:{ROOT}\n")


def test_the_launchers_variables(tmp_path: Path) -> None:
    done = launch("-o", "trace.jsonl", "--print-env", cwd=tmp_path)
    assert done.stdout == f"export FITASKS_RECORD={tmp_path}/trace.jsonl\nexport PYTHONPATH={HOOK}:{ROOT}\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--", "true"], 2, "the following arguments are required: -o/--output"),
        (["-o", "trace"], 2, "no command; write it after --"),
        (["-o", "no/where", "--", "true"], 2, "no/where: No such file or directory"),
        (["-o", "trace", "--", "no-such-server"], 127, "no-such-server: no such command"),
    ],
)
def test_the_launchers_errors(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    done = launch(*words, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_from_a_server_to_kernels_yaml_and_back(tmp_path: Path) -> None:
    """Recorded, imported into a file without kernels, compiled (by a stand-in for nvcc): nothing asked for is missing."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server", "0.7.2.post1")
    server.run()
    project = Project.make(tmp_path, 'targets: ["9.0a"]\nkernels: {}\n')
    assert "2 of 2 requested modules are not covered" in project.doit("check", "--trace", str(server.trace), status=1)
    assert "nothing written yet" in project.doit("import_trace", str(server.trace))
    project.doit("import_trace", "--write", str(server.trace))
    project.doit()
    out = project.doit("check", "--trace", str(server.trace))
    assert "0 of 2 requested modules are not covered" in out
    assert "Found 2 compiled kernel(s) of 2" in out
    assert project.library(NAME).exists()
