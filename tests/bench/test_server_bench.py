"""The bench of real servers, without an engine: that it sees every compiler, keeps ways apart, and tells it honestly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import server, server_engines
from bench.server_processes import Compiler, Family, Ran, compiler_name, module_of, run, unseen
from bench.server_tables import compilers, foretold, heard, latest, modules, tables
from fitasks.config.load import load_config

ROOT = Path(__file__).parent.parent.parent
LINGER = "0.15"  # seconds that a stand-in lives: many looks

# Compilers' stand-ins start each other as the real ones do, through shells.
STANDINS = {
    "ninja": 'cd "$2" && sh -c "nvcc -c a.cu -o a.o" && sh -c "c++ a.o; true"',
    "nvcc": f'case "$1" in --version) sleep {LINGER}; exit;; esac; (sleep {LINGER}); sh -c "cicc a.cu; true"; ptxas a.ptx',
    "cicc": f"sleep {LINGER}",
    "ptxas": f"sleep {LINGER}",
    "c++": f"sleep {LINGER}",
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Of a process that finds the stand-ins first."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, script in STANDINS.items():
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)
    return os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}


def ran(script: str, env: dict[str, str], cwd: Path, limit: float = 20) -> Ran:
    return run(["sh", "-c", f"{script}\ntrue"], env, cwd, cwd / "log.txt", limit)


def found(one: Ran) -> list[tuple[str, str]]:
    return sorted((each.name, each.module) for each in one.compilers if not each.question)


def test_compilers_are_counted_however_far_below_and_by_the_module_of_their_ninja(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "page").mkdir()
    done = ran(f"sh -c 'ninja -C {tmp_path}/page; true'", env, tmp_path)
    assert done.status == 0
    assert found(done) == [(name, "page") for name in ("c++", "cicc", "ninja", "nvcc", "ptxas")]


def test_the_module_of_flashinfers_ninja_is_its_file_s_directory(env: dict[str, str], tmp_path: Path) -> None:
    done = ran(f"ninja -C {tmp_path} -f cached_ops/norm/build.ninja", env, tmp_path)
    assert {module for _, module in found(done)} == {"norm"}


def test_one_whose_parent_has_died_is_counted_and_ended(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "ptxas").write_text("#!/bin/sh\nsleep 100; true\n")
    begin = time.monotonic()
    done = ran("(setsid sh -c 'ptxas x; true' &)\nsleep 0.3", env, tmp_path)
    assert found(done) == [("ptxas", tmp_path.name)]
    assert "sleep" in done.left
    assert time.monotonic() - begin < 30


def test_a_question_is_no_compile(env: dict[str, str], tmp_path: Path) -> None:
    done = ran("nvcc --version", env, tmp_path)
    assert found(done) == []
    assert [one.name for one in done.compilers] == ["nvcc"]


def test_a_fork_of_one_that_wrote_into_its_own_arguments_is_not_counted_again(
    env: dict[str, str], tmp_path: Path
) -> None:
    """As nvcc does: it cuts "--flag=value" in two."""
    (tmp_path / "bin" / "nvcc").write_text(f"""#!{sys.executable} -S
import ctypes, os, time
time.sleep({LINGER})
begin, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[45:47])
ctypes.memset(end - 3, 0, 1)
if os.fork():
    os.wait()
time.sleep({LINGER})
""")
    assert [name for name, _ in found(ran("nvcc --flag=ab", env, tmp_path))] == ["nvcc"]


def test_a_ninja_that_starts_nothing_is_idle(env: dict[str, str], tmp_path: Path) -> None:
    busy = ran(f"ninja -C {tmp_path}", env, tmp_path)
    assert not any(one.idle for one in busy.compilers)
    (tmp_path / "bin" / "ninja").write_text(f"#!/bin/sh\nsh -c 'sleep {LINGER}; true'\n")
    idle = ran(f"ninja -C {tmp_path}", env, tmp_path)
    assert [(one.name, one.idle) for one in idle.compilers] == [("ninja", True)]


def test_no_process_beside_the_server_is_counted(env: dict[str, str], tmp_path: Path) -> None:
    beside = subprocess.Popen(["ptxas", "-c", "x"], env=env, start_new_session=True)
    done = ran(f"sleep {LINGER}", env, tmp_path)
    beside.wait()
    assert done.compilers == ()


def test_a_server_is_ended_at_its_limit_with_all_below_it(env: dict[str, str], tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/below; exec sleep 100"
    done = ran(f"sh -c '{script}' & wait", env, tmp_path, limit=0.5)
    assert done.status is None
    assert done.seconds < 5
    below = int((tmp_path / "below").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(below, 0)


def test_output_is_kept_and_nothing_is_left_to_be_waited_for(env: dict[str, str], tmp_path: Path) -> None:
    ran("echo said; (true &)", env, tmp_path)
    assert "said" in (tmp_path / "log.txt").read_text()
    assert Family().alive() == {}


@pytest.mark.parametrize(
    ("comm", "words", "name"),
    [
        ("nvcc", ["/usr/local/cuda/bin/nvcc", "-c"], "nvcc"),
        ("x86_64-linux-gn", ["x86_64-linux-gnu-g++-13", "-c"], "x86_64-linux-gnu-g++-13"),
        ("cudafe++", ["cudafe++"], "cudafe++"),
        ("ninja", ["/bin/sh", "/opt/bin/ninja", "-v"], "ninja"),
        ("python3", ["python3", "-m", "ninja"], ""),
        ("nvcc", ["sh", "-c", "cicc x"], ""),  # what comm was before it executed sh
        ("which", ["which", "nvcc"], ""),
        ("nvcc_reader", ["nvcc_reader"], ""),
        ("ld", ["/usr/bin/ld", "-o", "x"], "ld"),
    ],
)
def test_what_a_process_is_called(comm: str, words: list[str], name: str) -> None:
    assert compiler_name(comm, words) == name


@pytest.mark.parametrize(
    ("words", "inherited", "module"),
    [
        (["ninja", "-v", "-C", "/c/90a", "-f", "/c/90a/cached_ops/page/build.ninja"], "", "page"),
        (["ninja", "-v"], "", "here"),
        (["ninja", "-C", "/c/page"], "", "page"),
        (["nvcc", "-c", "x.cu"], "page", "page"),
        (["nvcc", "-c", "x.cu"], "", "here"),
        (["/site/triton/backends/nvidia/bin/ptxas", "x"], "page", "triton"),
        (["g++", "/tmp/torchinductor_root/ab/cd.cpp"], "", "inductor"),
    ],
)
def test_what_a_compiler_compiles(words: list[str], inherited: str, module: str) -> None:
    assert module_of(words[0], words, "/some/where/here", inherited) == module


def test_what_python_heard_and_nobody_saw_is_counted() -> None:
    seen = [Compiler("ninja", "page", 5.0, idle=True), Compiler("ninja", "norm", 15.0), Compiler("nvcc", "norm", 16.0)]
    trace = [{"kind": "compiler", "name": f"ninja {number}"} for number in range(3)]
    assert heard(trace) == ["ninja"] * 3
    assert unseen(seen, heard(trace)) == {"ninja": 1}
    rows = compilers([*seen, Compiler("nvcc", "", 17.0, question=True)], 10.0, [*heard(trace), "ptxas"])
    assert {(row["when"], row["module"], row["name"], row["idle"]): row["number"] for row in rows} == {
        ("starting", "page", "ninja", True): 1,
        ("answering", "norm", "ninja", False): 1,
        ("answering", "norm", "nvcc", False): 1,
        ("", "(too short to be seen)", "ninja", True): 1,
        ("", "(too short to be seen)", "ptxas", False): 1,
    }


def line(name: str, how: str, kind: str = "nvcc") -> str:
    return json.dumps({"name": name, "how": how, "kind": kind, "seconds": 2.0}) + "\n"


def test_what_check_foretold_is_held_against_what_the_server_did(tmp_path: Path) -> None:
    checked, trace = tmp_path / "check.json", tmp_path / "trace.jsonl"
    states = {"page": "cached", "norm": "cached", "rope": "would compile", "odd": "unknown"}
    states |= {"sgl_kernel_jit_rope_true_0123abcd": "cached", "sgl_kernel_jit_rope_true_128_0123abcd": "would compile"}
    checked.write_text(json.dumps({"kernels": [{"name": name, "state": state} for name, state in states.items()]}))
    trace.write_text(
        line("page", "generated") + line("page", "cached") + line("norm", "compiled") + line("rope", "compiled")
        + line("odd", "cached") + line("new", "compiled") + line("sgl_kernel_jit_rope_true", "cached", "sglang-jit")
        + line("ptxas x", "started", "compiler") + '{"torn'
    )  # fmt: skip
    assert foretold(checked, trace) == {
        "right": ["page", "rope", "sgl_kernel_jit_rope_true"],
        "wrong": ["norm"],
        "unknown": ["odd"],
        "not planned": ["new"],
    }


def test_modules_are_told_by_toolchain() -> None:
    trace = [json.loads(each) for each in (line("page", "cached"), line("page", "cached"), line("norm", "compiled"))]
    assert modules(trace) == {"nvcc": {"norm": 2.0, "found": 1}}


# The whole bench, with an engine that compiles what its HOME lacks.

ENGINE = """
import os, pathlib, subprocess, time

class Engine:
    def __init__(self, model_path, **flags):
        assert os.path.exists(model_path + "/config.json") and flags["extra"] == 3, flags
        self._compile("starting")

    def _compile(self, module):
        at = pathlib.Path.home() / ".cache" / module
        if not at.exists():
            at.mkdir(parents=True)
            subprocess.run(["ninja", "-C", str(at)], check=True)

    def generate(self, input_ids, sampling_params):
        if sampling_params.get("top_p"):
            self._compile("sampling")
        return [{"output_ids": [len(ids)]} for ids in input_ids]

    def shutdown(self):
        pass
"""


@pytest.fixture
def installed(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    entrypoints = tmp_path / "site" / "sglang" / "srt" / "entrypoints"
    entrypoints.mkdir(parents=True)
    (entrypoints / "engine.py").write_text(ENGINE)
    info = tmp_path / "site" / "sglang-0.5.16.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.16\n")
    return env | {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}


def bench(out: Path, env: dict[str, str], *words: str) -> tuple[int, str]:
    command = [sys.executable, "bench/server.py", "--engine", "sglang", "--out", str(out), "--requests", "10", *words]
    done = subprocess.run(
        [*command, "--flag", "extra=3"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_cold_and_a_warm_server(installed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said = bench(out, installed, "--ways", "warm,cold")
    assert status == 0, said
    cold, warm = latest(out / "results.jsonl", server.WAYS)
    assert (cold["way"], cold["version"], warm["way"]) == ("cold", "0.5.16", "warm")
    assert {(row["when"], row["module"]) for row in cold["compilers"]} == {
        ("starting", "starting"),
        ("answering", "sampling"),
    }
    assert {row["name"] for row in cold["compilers"]} == {"ninja", "nvcc", "cicc", "ptxas", "c++"}
    assert warm["compilers"] == []
    assert list(cold["steps"]) == ["import", "engine up", *server_engines.KINDS, "stopped"]
    assert cold["steps"]["top-p"] > 0.3 > warm["steps"]["top-p"]
    assert cold["later"]["requests"] == 10
    assert "first greedy answers: the same in all ways\n\ncaches that all ways share: none" in said
    assert "| sglang 0.5.16, cold | sampling | answering |" in said


def test_a_server_that_fails_has_a_row_a_log_and_an_exit_status(installed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said = bench(out, installed, "--ways", "cold", "--flag", "mem_fraction_static=1", "--flag", "extra=4")
    assert status == 0, said  # the last flag counts
    status, said = bench(out, installed | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, "--ways", "cold")
    assert status == 1
    assert "cold (failed: 1)" in said
    assert "ModuleNotFoundError" in (out / "log-sglang-cold.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ways", "cold,tepid"], "'tepid' is none of cold, warm, doit, delivered"),
        (["--keep", "triton,all"], "'all' is none of triton"),
        (["--ways", "warm"], "warm: no cold server has left its caches"),
        (["--ways", "doit", "--import"], "--import: no "),
        (["--flag", "eager"], "--flag eager: write NAME=VALUE"),
    ],
)
def test_a_wrong_word_is_told(words: list[str], said: str, tmp_path: Path) -> None:
    status, told = bench(tmp_path, dict(os.environ), *words)
    assert status
    assert said in told


def a_bench(tmp_path: Path, engine: str = "sglang", **more: Any) -> server.Bench:
    said: dict[str, Any] = {
        "flags": {}, "kernels": None, "imports": False, "target": "9.0a", "keep": (), "limit": 9.0, "requests": 7,
    } | more  # fmt: skip
    return server.Bench(engine=engine, out=tmp_path, **said)


def test_each_way_has_its_own_caches_but_what_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TVM_FFI_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "/somewhere/of/the/user")
    envs = {way: a_bench(tmp_path, keep=("triton",)).env(way) for way in server.WAYS}
    assert not any("/somewhere/of/the/user" in env.values() for env in envs.values())
    assert envs["cold"]["HOME"] == envs["warm"]["HOME"] != envs["doit"]["HOME"] == envs["delivered"]["HOME"]
    assert len({env["TRITON_CACHE_DIR"] for env in envs.values()}) == 1
    assert len({env["TORCHINDUCTOR_CACHE_DIR"] for env in envs.values()}) == 2


@pytest.mark.parametrize("engine", server_engines.ENGINES)
def test_the_project_is_one_that_fitasks_reads(engine: str, tmp_path: Path) -> None:
    made = a_bench(tmp_path, engine)
    server.write_model(made.project / "model")
    server.write_project(made)
    config = load_config(made.project / "kernels.yaml")
    assert config.serving.engine == engine
    assert [model.attention_backend for model in config.models] == ["flashinfer"]


def test_a_way_of_ours_that_compiles_is_not_good() -> None:
    row: dict[str, Any] = {"status": 0, "way": "cold", "compilers": [{"name": "nvcc", "idle": False}]}
    assert server.is_good(row)
    assert not server.is_good(row | {"way": "doit"})
    assert server.is_good(row | {"way": "doit", "compilers": [{"name": "ninja", "idle": True}]})
    assert not server.is_good(row | {"status": None})


def test_the_tables_show_the_last_of_each_way(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "engine": "vllm", "version": "0.26.0", "way": "doit", "status": None, "before": {"doit": 61.2}, "flags": {},
        "steps": {"import": 16.04, "engine up": 8.1, "greedy": 0.07, "top-k": 0.5}, "later": {"median": 0.0412},
        "compilers": [], "answers": {},
    }  # fmt: skip
    worse = {"when": "answering", "module": "norm", "name": "nvcc", "idle": False, "number": 3}
    row_before = row | {"compilers": [worse]}
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(each) + "\n" for each in (row_before, row | {"way": "cold"}, row)))
    told = tables(latest(results, server.WAYS))
    first = "| vllm 0.26.0, doit (ended at its limit) | doit 61 s | 16.0 s | 8.1 s | 0.070 s | 0.500 s | 0.041 s | 0 | 0 | 0 |"
    assert first in told
    assert told.index("vllm 0.26.0, cold") < told.index("vllm 0.26.0, doit")
    assert "norm" not in told
    assert "| norm | answering | nvcc 3 |" in tables([row_before])


def test_one_kind_of_request_alone_has_a_prefix_that_was_there_before() -> None:
    kinds = list(server_engines.requests(100))
    assert [kind for _, kind in kinds[: len(server_engines.KINDS)]] == list(server_engines.KINDS)
    asked = [(kind, prompt) for at, kind in kinds for prompt in server_engines.prompts(kind, at)]
    fresh = [tuple(prompt[:4]) for kind, prompt in asked if kind != "cached prefix"]
    assert len(set(fresh)) == len(fresh)
    assert len({tuple(prompt) for _, prompt in asked}) == len(asked)
    first = [prompt[:600] for prompt in server_engines.prompts(*kinds[0][::-1])]
    assert all(prompt[:600] in first for kind, prompt in asked if kind == "cached prefix")
    assert max(max(prompt) for _, prompt in asked) < 32000
