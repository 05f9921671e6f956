"""What the recorder notes of toolchains beside FlashInfer's: SGLang's real load_jit, packages of Triton's and CuTe's shape."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.record import variables
from fitasks.trace.coverage import coverage
from fitasks.trace.sources import read_sources
from fitasks.ui.trace_table import covered
from tests import warm
from tests.serving.flashinfer_wheels import wheel_of
from tests.serving.planner_runs import fake_toolkit
from tests.serving.sglang_stubs import stubbed

if TYPE_CHECKING:
    from fitasks.trace.model import Requested

OLD = """
import os, pathlib, torch, tvm_ffi, tvm_ffi.cpp
def load_inline(name, build_directory, **more):
    if killed:
        os.kill(os.getpid(), 9)
    if os.environ.get("FAIL"):
        raise RuntimeError("nvcc says no")
    library = pathlib.Path(build_directory, name + ".so")
    library.parent.mkdir(parents=True)
    library.touch()
tvm_ffi.cpp.load_inline, tvm_ffi.load_module = load_inline, lambda path: "module"
from sglang.jit_kernel.utils.arch import override_jit_cuda_arch
from sglang.jit_kernel.clamp_position import _jit_clamp_position_module
from sglang.jit_kernel.all_reduce import get_all_reduce_module
killed = "FAIL" in os.environ and os.fork() == 0
if "FAIL" in os.environ and not killed:
    os.wait()
with override_jit_cuda_arch(9, 0, "a"):
    _jit_clamp_position_module(torch.int64)
    _jit_clamp_position_module(dtype=torch.int64)
    get_all_reduce_module(torch.bfloat16, world_size=2)
"""


def recorded(tmp_path: Path, script: str, *paths: Path, **more: str) -> tuple[list[dict[str, Any]], str]:
    """The lines of a process, and what it said on stderr; with FAIL it ends with 1, with KILLED by SIGKILL."""
    trace = tmp_path / "trace.jsonl"
    trace.unlink(missing_ok=True)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HOME": str(tmp_path)} | more
    file = tmp_path / "server.py"
    file.write_text(textwrap.dedent(script))
    env |= variables(trace, env)
    if "torch" in script and "KILLED" not in more:  # the real one, of which nothing is noted
        done = warm.run(warm.TORCH, [str(file)], Path.cwd(), env)
    else:
        command = [sys.executable, str(file)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if "KILLED" in more else int("FAIL" in more)), done.stderr[-3000:]
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [json.loads(line) for line in lines], done.stderr


def ends(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of waits that ended; before each there is one of its beginning, which says the same of the module."""
    begun, ended = lines[::2], lines[1::2]
    assert [line["how"] for line in begun] == ["begun"] * len(ended)
    told = ("name", "kind", "generator", "arguments", "unsaid", "pid")
    assert [[line[key] for key in told] for line in begun] == [[line[key] for key in told] for line in ended]
    return ended


@pytest.mark.usefixtures("torch")
def test_sglangs_own_jit_until_0_5_16(tmp_path: Path) -> None:
    real = wheel_of("sglang", "sglang==0.5.16")
    place = stubbed(tmp_path, real)
    lines, said = recorded(tmp_path, OLD, place)
    line, second, other = ends(lines)
    assert "fitasks" not in said
    assert line["name"] == "sgl_kernel_jit_clamp_position_int64_t"
    assert (line["kind"], line["how"], line["unsaid"]) == ("sglang-jit", "compiled", "")
    assert line["generator"] == "sglang.jit_kernel.clamp_position:_jit_clamp_position_module"
    assert line["arguments"] == {"dtype": "int64"}
    assert second["how"] == "cached", "SGLang itself asks again, for it was called in other words"
    assert other["generator"] == "sglang.jit_kernel.all_reduce:get_all_reduce_module"
    assert other["arguments"] == {"dtype": "bfloat16", "world_size": 2}
    assert [line["how"] for line in ends(recorded(tmp_path, OLD, place)[0])] == ["cached"] * 3
    (library,) = tmp_path.glob(".cache/tvm-ffi/*clamp*/*.so")
    library.unlink()
    library.parent.rmdir()
    (killed, *lines), _ = recorded(tmp_path, OLD, place, FAIL="1")
    assert [line["how"] for line in ends(lines)] == ["failed"]
    (one,) = traced(tmp_path, json.dumps(killed))
    assert (one.generator, one.arguments, one.unfinished) == (line["generator"], {"dtype": "int64"}, True)


# As SGLang's own ninja leaves a directory: the module, and what it was made from.
NINJA = """\
#!/bin/sh
test -n "$FAIL" && exit 1
set -- $(sed -n 's/^build \\(sgl_[^ ]*[.]so\\).*/\\1/p' build.ninja)
touch "$1"
echo "x.o: $SOURCE" > x.o.d
"""
NEW = """
import torch, tvm_ffi
tvm_ffi.load_module = lambda path: "module"
from sglang.kernels.jit.utils import load_jit, override_jit_cuda_arch
def _jit_clamp_position_module(dtype):
    wrappers = [("clamp_position", "ClampPosition<int64_t>::run")]
    return load_jit("clamp_position", "int64_t", cuda_files=["elementwise/clamp_position.cuh"], cuda_wrappers=wrappers)
with override_jit_cuda_arch(9, 0, "a"):
    _jit_clamp_position_module(torch.int64)
    _jit_clamp_position_module(torch.int64)
"""


@pytest.mark.usefixtures("torch")
def test_sglangs_own_jit_from_0_5_23(tmp_path: Path) -> None:
    """Its kernels' modules import much of the server: its load_jit is called as they call it."""
    real = wheel_of("sglang", "sglang==0.5.23")
    toolkit = fake_toolkit(tmp_path / "cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ninja").write_text(NINJA)
    (tmp_path / "bin" / "ninja").chmod(0o755)
    source = real / "sglang" / "kernels" / "jit" / "csrc" / "elementwise" / "clamp_position.cuh"
    more = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CUDA_HOME": str(toolkit), "SOURCE": str(source)}
    paths = stubbed(tmp_path, real), wheel_of("msgspec", "msgspec==0.22.0")
    lines, said = recorded(tmp_path, NEW, *paths, **more)
    assert "fitasks" not in said
    told = [(line["name"], line["how"]) for line in ends([line for line in lines if line["kind"] == "sglang-jit"])]
    assert told == [("sgl_kernel_jit_clamp_position_int64_t", how) for how in ("compiled", "cached")]
    assert lines[-1]["unsaid"] == "no function of sglang that has a name made it"
    shutil.rmtree(tmp_path / ".cache" / "sglang")
    assert recorded(tmp_path, NEW, *paths, **more, FAIL="1")[0][-1]["how"] == "failed"


TRITON = """
class Source:
    name = "_fwd_kernel"
class Times:
    total = 1_500_000
heard = []
from triton import knobs
knobs.compilation.listener(src=Source, metadata={}, metadata_group={}, times=Times, cache_hit=False)
knobs.compilation.listener(src=Source, metadata={}, metadata_group={}, times=Times, cache_hit=True)
print(knobs.heard)
"""


def test_triton_by_its_own_listener_with_anothers_behind_it(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").touch()
    (tmp_path / "triton" / "knobs.py").write_text(
        "import types\nheard = []\n"
        "compilation = types.SimpleNamespace(listener=lambda **said: heard.append(said['cache_hit']))\n"
    )
    lines, said = recorded(tmp_path, TRITON + "assert knobs.heard == [False, True]", tmp_path)
    assert said == ""
    told = [(line["name"], line["kind"], line["how"], line["seconds"]) for line in lines]
    assert told == [("_fwd_kernel", "triton", "compiled", 1.5), ("_fwd_kernel", "triton", "cached", 1.5)]


CUTE = """
import cutlass
from cutlass import cute
assert repr(cute.compile.__class__)
@cute.jit
def twice(x: cutlass.Int32):
    cute.printf("%d", x * 2)
cute.compile(twice, 1)
try: cute.compile(len)
except Exception: pass
"""


@pytest.mark.skipif(importlib.util.find_spec("cutlass") is None, reason="nvidia-cutlass-dsl isn't installed")
def test_cute_compile_compiles_as_ever_and_is_noted(tmp_path: Path) -> None:
    """Without a GPU: the DSL's own check of the architecture is told one."""
    lines, said = recorded(tmp_path, CUTE, tmp_path, CUTE_DSL_ARCH="sm_90a")
    assert "fitasks" not in said
    assert [(line["name"], line["kind"], line["how"]) for line in ends(lines)] == [
        ("twice", "cute-dsl-in-memory", "compiled"),
        ("len", "cute-dsl-in-memory", "failed"),
    ]
    assert lines[1]["seconds"] > 0


def test_compilers_that_python_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.c").write_text("int x;\n")
    script = """
    import os, subprocess, sys
    subprocess.run(["cc", "-c", "x.c", "-o", os.devnull], check=True)
    subprocess.run(["cc", "--version"], check=True, stdout=-3)
    subprocess.run([b"/bin/true"], check=True)
    subprocess.run("true", shell=True, check=True)
    try: subprocess.run(["ninja", "-C", "/nowhere/fused_rope"], stdout=-3, stderr=-3)
    except OSError: pass
    """
    monkeypatch.chdir(tmp_path)
    lines, said = recorded(tmp_path, script, tmp_path)
    assert said == ""
    assert [(line["name"], line["kind"], line["how"]) for line in lines] == [
        ("cc x.c", "compiler", "started"),
        ("ninja fused_rope", "compiler", "started"),
    ]


NOTHING = "nothing compiles it beforehand yet, kept in"


def line_of(name: str, kind: str, how: str, seconds: float, pid: int = 1) -> str:
    return json.dumps({"version": 1, "name": name, "kind": kind, "how": how, "seconds": seconds, "pid": pid})


def traced(tmp_path: Path, *lines: str) -> tuple[Requested, ...]:
    (tmp_path / "trace.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return read_sources([tmp_path / "trace.jsonl"]).requested


def test_what_a_server_waited_for_is_told_by_toolchain(tmp_path: Path) -> None:
    lines = [
        line_of("norm", "nvcc", "compiled", 36.8),
        line_of("page", "nvcc", "cached", 0.1),
        line_of("sgl_kernel_jit_fused_rope", "sglang-jit", "compiled", 20.0, pid=1),
        line_of("sgl_kernel_jit_fused_rope", "sglang-jit", "cached", 19.0, pid=2),
        line_of("sgl_kernel_jit_clamp", "sglang-jit", "compiled", 21.0),
        line_of("rmsnorm", "cute-dsl-in-memory", "compiled", 1.5),
        *(line_of(f"kernel_{index}", "triton", "compiled", 0.1) for index in range(30)),
        line_of("x", "of-tomorrow", "compiled", 0.2),
        line_of("gdn_sm90a/norm", "cute_dsl", "compiled", 0.3),
        line_of("ninja norm", "compiler", "started", 0),
        line_of("ninja norm", "compiler", "started", 0, pid=2),
        line_of("ninja fused_rope", "compiler", "started", 0),
        line_of("nvcc page.cu", "compiler", "started", 0),
    ]
    found = coverage(traced(tmp_path, *lines), {"90a": frozenset({"page"})}, None)
    assert [one.name for one in found.missing] == ["norm", "sgl_kernel_jit_fused_rope", "sgl_kernel_jit_clamp"]
    said = list(covered(found, "kernels.yaml"))
    assert said[0] == "kernels.yaml covers 1 of 4 requested modules; not"
    begin = said.index("what this server waited for, each module by the process that waited longest:")
    assert said[begin + 1 :] == [
        "  SGLang's own JIT: 2 modules, 2 of them compiled in 41.0 s",
        "  FlashInfer, nvcc: 2 modules, 1 of them compiled in 36.8 s",
        f"  Triton: 30 modules, 30 of them compiled in 3.0 s; {NOTHING} TRITON_CACHE_DIR (~/.triton/cache)",
        "  CuTe-DSL, in memory: 1 module, 1 of them compiled in 1.5 s; each process compiles it anew",
        "  FlashInfer, CuTe-DSL: 1 module, 1 of them compiled in 0.3 s",
        "  of-tomorrow: 1 module, 1 of them compiled in 0.2 s; nothing compiles it beforehand yet",
        "  compilers that Python started: ninja 3, nvcc 1",
    ]
    assert "  sgl_kernel_jit_clamp, 21.0 s" in said
    assert "  and 13 more, 1.3 s" in said


def test_a_server_that_compiled_nothing_waited_for_nothing(tmp_path: Path) -> None:
    found = coverage(traced(tmp_path, line_of("page", "nvcc", "cached", 0.1)), {}, None)
    assert not any("waited" in line for line in covered(found, "kernels.yaml"))


def test_compilers_are_counted_by_process_and_timed(tmp_path: Path) -> None:
    """Those that were watched; what Python says that it started are the same ones."""
    later = {"how": "answering", "kind": "server", "name": "uvicorn", "time": 100.0}
    lines = [
        line_of("page", "nvcc", "compiled", 9.0),
        line_of("ninja page", "compiler", "started", 0),
        line_of("ninja page", "compiler", "ran", 5.0, pid=1),
        line_of("ninja page", "compiler", "ran", 4.0, pid=2),
        line_of("nvcc page.cu", "compiler", "ran", 8.5, pid=3),
        json.dumps(json.loads(line_of("nvcc rope.cu", "compiler", "ran", 2.0, pid=4)) | {"time": 101.0}),
        json.dumps(json.loads(line_of("x", "x", "x", 0)) | later),
    ]
    assert list(covered(coverage(traced(tmp_path, *lines), {}, None), "kernels.yaml"))[-3:] == [
        "  compilers' processes, each with the seconds of those that it started:",
        "    nvcc: 2 in 10.5 s, 2.0 s of it while it was already answering",
        "    ninja: 2 in 9.0 s",
    ]


def test_a_ninja_that_looked_is_no_wait(tmp_path: Path) -> None:
    lines = [line_of("page", "nvcc", "cached", 0.01), line_of("ninja page", "compiler", "ran", 0.06)]
    assert list(covered(coverage(traced(tmp_path, *lines), {}, None), "kernels.yaml"))[1:] == [
        "  page, 0.0 s",
        "`doit import_trace` adds what kernels.yaml can say",
    ]


COMPILED = """
import torch
@torch.compile
def squared(x):
    return x @ x
squared(torch.ones(8, 8))
torch._dynamo.reset()
squared(torch.ones(8, 8))
"""


@pytest.mark.usefixtures("torch")
def test_torch_compile_is_told_of_by_function_and_graph(tmp_path: Path) -> None:
    """By real torch on the CPU; the second time Inductor finds what it has kept."""
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    lines, said = recorded(tmp_path, COMPILED, **env, TORCHINDUCTOR_AUTOGRAD_CACHE="0")
    assert "fitasks" not in said
    told = [(line["kind"], line["name"], line["how"]) for line in lines]
    assert [one for one in told if one[2] != "over"][:4] == [
        ("torch-compile", "squared", "begun"),
        ("inductor", "graph 0", "begun"),
        ("inductor", "graph 0", "compiled"),
        ("torch-compile", "squared", "compiled"),
    ]
    assert not any(one.unfinished for one in read_sources([tmp_path / "trace.jsonl"]).requested)
    assert ("inductor", "graph 1", "cached") in told


# As flashinfer.autotuner and uvicorn.server are, as far as they are wrapped.
SEARCHED = """
import asyncio, time
from flashinfer.autotuner import AutoTuner
from uvicorn.server import Server
import triton.knobs
tuner = AutoTuner()
tuner.is_tuning_mode = False
tuner.choose_one("gemm")
tuner.is_tuning_mode = True
tuner.choose_one("gemm")
asyncio.run(Server(fails=True).startup())
tuner.choose_one("gemm again")
asyncio.run(Server(fails=False).startup())
tuner.choose_one("gemm late")
"""
UVICORN = """
class Server:
    def __init__(self, fails):
        self.fails, self.started = fails, False
    async def startup(self, sockets=None):
        self.started = not self.fails
"""
AUTOTUNER = """
import time, fitasks_lines
class AutoTuner:
    def choose_one(self, custom_op, runners=(), **more):
        time.sleep(0.06)
        fitasks_lines.write(fitasks_lines.os.environ["FITASKS_RECORD"], "tried", "nvcc", "compiled", seconds=0.01)
        return custom_op
"""


def test_searches_and_when_a_server_answers(tmp_path: Path) -> None:
    for name, text in (
        ("flashinfer/__init__.py", ""),
        ("uvicorn/__init__.py", ""),
        ("triton/__init__.py", ""),
        ("flashinfer/autotuner/__init__.py", "from .autotuner import AutoTuner"),
        ("flashinfer/autotuner/autotuner.py", AUTOTUNER),
        ("uvicorn/server.py", UVICORN),
        ("triton/knobs.py", "class compilation:\n    listener = None\n"),
    ):
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    lines, said = recorded(tmp_path, SEARCHED, tmp_path / "site")
    assert "fitasks" not in said
    told = [(line["kind"], line["name"]) for line in lines if line["how"] != "begun" and line["kind"] != "nvcc"]
    assert told == [
        ("autotuning", "gemm"), ("autotuning", "gemm again"), ("server", "uvicorn"), ("autotuning", "gemm late"),
    ]  # fmt: skip
    assert (
        0.04 < next(line["seconds"] for line in lines if line["how"] == "compiled" and line["name"] == "gemm") < 0.06
    ), "without the seconds of what was compiled meanwhile"
    found = read_sources([tmp_path / "trace.jsonl"]).requested
    assert {one.name for one in found if one.late} == {"tried", "gemm late"}
    table = list(covered(coverage(found, {}, None), "kernels.yaml"))
    assert any(
        line.startswith("  FlashInfer, autotuning: 3 modules, 3 of them compiled in 0.2 s, 0.1 s of it while")
        for line in table
    )
    assert not any("uvicorn" in line for line in table)


# As far as they are wrapped, those that compile and are never told of afterwards by a process that is killed.
DYING = {
    "dying.py": "import os\ndef die(*args, **more):\n    os.kill(os.getpid(), 9)\n",
    "torch/__init__.py": "class compiler:\n    is_compiling = staticmethod(lambda: False)\n",
    "torch/_dynamo/__init__.py": "",
    "torch/_dynamo/utils.py": "counters = {'inductor': {'fxgraph_cache_hit': 0}}",
    "torch/_dynamo/convert_frame.py": "from dying import die as _compile",
    "torch/_inductor/__init__.py": "",
    "torch/_inductor/compile_fx.py": "from dying import die as _compile_fx_inner",
    "tilelang/__init__.py": "",
    "tilelang/jit/__init__.py": "",
    "tilelang/jit/kernel.py": """
import dying
class JITKernel:
    _compile_and_create_adapter = dying.die
    @classmethod
    def from_database(cls, func): pass
""",
    "deep_gemm/__init__.py": """
import dying, functools, time, types
_C = types.SimpleNamespace(gemm=functools.partial(dying.die), quick=functools.partial(int))
""",
    "flashinfer/__init__.py": "",
    "flashinfer/autotuner.py": "import dying\nclass AutoTuner:\n    is_tuning_mode, choose_one = True, dying.die\n",
}
CUTE_ITSELF = """import fitasks_toolchains, os, types, dying
it = types.SimpleNamespace(compile=dying.die)
fitasks_toolchains.cute(it, os.environ["FITASKS_RECORD"])"""
TILELANG = "from tilelang.jit.kernel import JITKernel as It, dying as it; it.attrs = {'global_symbol': 'matmul'}"
KILLED = {
    "torch-compile": ("len", "from torch._dynamo import convert_frame as it; it._compile('len')"),
    "inductor": (
        "graph 0",
        "from torch._inductor import compile_fx as it; import torch._dynamo.utils; it._compile_fx_inner()",
    ),
    "autotuning": ("gemm", "from flashinfer.autotuner import AutoTuner as It; It().choose_one('gemm')"),
    "deep-gemm": ("gemm", "import deep_gemm as it; [it._C.quick() for _ in range(3)]; it._C.gemm()"),
    "cute-dsl-in-memory": ("len", f"{CUTE_ITSELF}; it.compile(len)"),
    "tilelang": ("matmul", f"{TILELANG}; It.from_database(it); It()._compile_and_create_adapter(it)"),
}


@pytest.mark.parametrize("kind", KILLED)
def test_what_a_killed_process_was_at_is_known(tmp_path: Path, kind: str) -> None:
    for name, text in DYING.items():
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    name, script = KILLED[kind]
    begin = time.time()
    _, said = recorded(tmp_path, script, tmp_path / "site", KILLED="1")
    assert said == ""
    found = read_sources([tmp_path / "trace.jsonl"]).requested
    assert [(one.kind, one.name) for one in found if one.unfinished] == [(kind, name)]
    said = "\n".join(covered(coverage(found, {}, None), "kernels.yaml"))
    assert ", 1 of them begun and never finished; " in said
    with (tmp_path / "trace.jsonl").open("a") as trace:  # as the launcher's watcher
        trace.write(line_of("server", "server", "ended", 0, pid=2).replace("{", f'{{"time": {begin + 100}, '))
    found = read_sources([tmp_path / "trace.jsonl"]).requested
    said = "\n".join(covered(coverage(found, {}, None), "kernels.yaml"))
    assert re.search(r", 1 of them not finished when the server ended, after (9[5-9]|100)\.\d s; ", said)
