"""What a recorded process notes, with the real FlashInfer of several versions and a ninja that makes no modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fitasks.record import HOOK, variables
from fitasks.trace.sources import read_sources
from tests import warm
from tests.doit_project import Project
from tests.serving.planner_runs import environment

ROOT = Path(__file__).parents[2]
VERSIONS = ["0.6.7.post3", "0.7.2.post1", "0.7.4"]  # the oldest, one between, the newest

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
# As the real one, it leaves alone what is there.
NINJA = """\
#!/bin/sh
case "$*" in *--version*) echo 1.13.0; exit;; esac
test -n "$KILL" && kill -9 $PPID && exit 1
while [ $# -gt 0 ]; do [ "$1" = -C ] && directory="$2"; shift; done
test -e "$FAIL" && exit 1
library="$directory/$(basename "$directory").so"
test -e "$library" && exit 0
sleep "${SECONDS_TO_COMPILE:-0}"
echo module > "$library"
"""
NAME = (
    "batch_decode_with_kv_cache_dtype_q_f16_dtype_kv_f16_dtype_o_f16_dtype_idx_i32_head_dim_qk_128_head_dim_vo_128_"
    "posenc_0_use_swa_False_use_logits_cap_False"
)
# FlashInfer's own package of compiled modules, as 0.4.0 to 0.6.18 and as 0.7 ask for it.
PROVIDER = """\
import types
from pathlib import Path
HERE = Path(__file__).parent
__version__ = {version!r}
def get_jit_cache_dir(): return str(HERE)
def get_jit_cache_providers():
    return [types.SimpleNamespace(provider_id="test", distribution="flashinfer-jit-cache", version=__version__,
                            jit_cache_dir=HERE, cuda_architectures=("sm90a",), modules=frozenset(["page"]))]
"""
UNNAMED = "it was made by {}, which is no gen_… function of FlashInfer"

needs_torch = pytest.mark.usefixtures("torch")  # a server of FlashInfer does


class Server:
    """A command, its environment, and the trace that it leaves. It has torch, of which nothing is noted, beforehand."""

    def __init__(self, base: Path, version: str = "0.7.4") -> None:
        self.base = base
        self.trace = base / "trace.jsonl"
        (base / "bin").mkdir()
        (base / "bin" / "ninja").write_text(NINJA)
        (base / "bin" / "ninja").chmod(0o755)
        self.env = environment(base, version, PATH=f"{base}/bin:{os.environ['PATH']}", FAIL=str(base / "fail"))
        self.env.pop("RANK", None)

    def provide_page(self, version: str) -> None:
        """A module that this environment has ahead of time."""
        package = self.base / "site" / "flashinfer_jit_cache"
        (package / "page").mkdir(parents=True)
        (package / "page" / "page.so").touch()
        (package / "__init__.py").write_text(PROVIDER.format(version=version))
        self.env["PYTHONPATH"] += f":{package.parent}"

    def run(self, body: str = "ask()", *, recorded: bool = True, **more: str) -> str:
        script = self.base / "server.py"
        script.write_text(SERVER.format(serving=str(ROOT / "fitasks" / "serving" / "plan"), body=body))
        env = self.env | more | (variables(self.trace, self.env | more) if recorded else {})
        done = warm.run(warm.TORCH, [str(script)], Path.cwd(), env)
        assert done.returncode == 0, done.stderr[-3000:]
        self.stderr = done.stderr
        return done.stdout

    def lines(self) -> list[dict[str, Any]]:
        """Of modules; where they begin is in `begun`, the processes that were started in `compilers`."""
        return [line for line in self._all() if line["kind"] != "compiler" and line["how"] != "begun"]

    def begun(self) -> list[str]:
        return [line["name"] for line in self._all() if line["how"] == "begun"]

    def compilers(self) -> list[str]:
        return [line["name"] for line in self._all() if line["kind"] == "compiler"]

    def _all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.trace.read_text().splitlines()]

    def told(self, *fields: str) -> list[tuple[Any, ...]]:
        return [tuple(line[field] for field in fields) for line in self.lines()]


@needs_torch
@pytest.mark.parametrize("version", VERSIONS)
def test_name_generator_arguments_and_what_became_of_it(tmp_path: Path, version: str) -> None:
    server = Server(tmp_path, version)
    started = time.time()
    assert server.run("ask()\nask()\ngen_page_module().build(verbose=False)", LOCAL_RANK="4") == "before\nafter\n"
    assert server.told("name", "how") == [
        ("page", "generated"),
        ("page", "compiled"),
        (NAME, "generated"),
        (NAME, "compiled"),
        ("page", "generated"),
        ("page", "cached"),
        (NAME, "generated"),
        (NAME, "cached"),
        ("page", "generated"),
        ("page", "cached"),
    ]
    page, decode = server.lines()[1], server.lines()[3]
    assert 0 < page.pop("seconds") < 100
    assert started - 1 < page.pop("time") < time.time() + 1
    assert page.pop("pid") != os.getpid()
    assert page == {
        "version": 1,
        "name": "page",
        "generator": "flashinfer.jit.page:gen_page_module",
        "arguments": {"nvfp4_4over6": False} if version == "0.7.4" else {},
        "unsaid": "",
        "kind": "nvcc",
        "how": "compiled",
        "rank": "4",
        "flashinfer": version,
        "architectures": "90a",
    }
    assert decode["generator"] == "flashinfer.jit.attention.modules:gen_batch_decode_module"
    assert decode["arguments"] == {
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
    assert server.stderr.count("fitasks") == 0
    assert server.begun() == ["page", NAME, "page", NAME, "page"]
    asked = read_sources([server.trace]).requested
    assert [one.loaded for one in asked if one.kind != "compiler"] == [True, True]
    assert server.compilers()[0] == "ninja page"


@needs_torch
@pytest.mark.parametrize("version", ["0.6.7.post3", "0.7.4"])
def test_ahead_of_time_and_without_jit(tmp_path: Path, version: str) -> None:
    server = Server(tmp_path, version)
    server.provide_page(version)
    server.run("try: ask()\nexcept RuntimeError as error: print(type(error).__name__)", FLASHINFER_DISABLE_JIT="1")
    assert server.told("name", "how") == [
        ("page", "generated"),
        ("page", "ahead-of-time"),
        (NAME, "generated"),
        (NAME, "failed"),
    ]


@needs_torch
def test_an_artefact_that_does_not_load_is_compiled(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.provide_page("0.7.4")
    server.run("""
def load(path):
    if "jit_cache" in path: raise RuntimeError("damaged")
tvm_ffi.load_module = load
gen_page_module().build_and_load()
""")
    assert server.told("name", "how") == [("page", "generated"), ("page", "compiled")]


@needs_torch
@pytest.mark.parametrize("version", ["0.6.18.post1", "0.7.4"])
def test_cute_dsl_kernels_and_what_they_cost(tmp_path: Path, version: str) -> None:
    """FlashInfer's real JitSpecCuteDsl; only the kernel itself is a stand-in."""
    server = Server(tmp_path, version)
    body = """
import time
from pathlib import Path
from flashinfer.jit import cute_dsl_core
class Kernel:
    def export_to_c(self, path, function_name): Path(path).write_text(function_name)
def compile_it():
    time.sleep(0.2)
    return Kernel()
cute_dsl_core.JitSpecCuteDsl._load_from_disk = lambda self: "loaded"
cute_dsl_core._get_cute_dsl_version = lambda: "4.8.1"
def compiled_rmsnorm():
    cute_dsl_core.build_and_load_cute_dsl_kernel("rmsnorm", "bf16_4096", compile_it)
compiled_rmsnorm()
compiled_rmsnorm()
"""
    server.run(body, CUTE_DSL_ARCH="sm_90a")
    assert server.told("kind", "how", "generator", "arguments", "unsaid") == [
        ("cute-dsl", how, "", {}, UNNAMED.format("__main__:compiled_rmsnorm")) for how in ("compiled", "cached")
    ]
    assert server.told("name") == [("rmsnorm_sm90a_cute_dsl/bf16_4096",)] * 2
    compiled, cached = (seconds for (seconds,) in server.told("seconds"))
    assert 0.2 <= compiled < 10
    assert cached < 0.2


@needs_torch
def test_who_waits_for_another_process_compiles_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    body = """
import multiprocessing
load = gen_page_module().build_and_load
workers = [multiprocessing.get_context("fork").Process(target=load) for _ in range(2)]
for worker in workers: worker.start()
for worker in workers: worker.join()
"""
    server.run(body, SECONDS_TO_COMPILE="1")
    assert sorted(how for (how,) in server.told("how")) == ["cached", "compiled", "generated"]
    assert min(line["seconds"] for line in server.lines() if line["how"] == "compiled") >= 1


@needs_torch
def test_spawned_and_forked_workers(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.7.4")
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


@needs_torch
def test_a_failed_build_is_noted_and_still_fails(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.7.4")
    (tmp_path / "fail").touch()
    assert server.run("try: ask()\nexcept RuntimeError as error: print('failed')") == "before\nfailed\nafter\n"
    assert [line["how"] for line in server.lines()] == ["generated", "failed"]


DYING = """
from flashinfer.jit import cute_dsl_core
cute_dsl_core._get_cute_dsl_version = lambda: "4.8.1"
def die():
    os.kill(os.getpid(), 9)
def kernel():
    cute_dsl_core.build_and_load_cute_dsl_kernel("rmsnorm", "bf16_4096", die)
def page():
    os.environ["KILL"] = "by ninja"
    gen_page_module().build_and_load()
ask()
for call in kernel, page, gen_page_module(nvfp4_4over6=True).build:
    pid = os.fork()
    if pid == 0: call()
    assert os.waitpid(pid, 0)[1] == 9
    os.environ["KILL"] = "by ninja"
"""


@needs_torch
def test_what_a_killed_process_was_at_is_known(tmp_path: Path) -> None:
    """Killed by its ninja, and by its CuTe-DSL compiler; of modules that another process has, and of one that none has."""
    server = Server(tmp_path)
    server.run(DYING, CUTE_DSL_ARCH="sm_90a")
    found = [one for one in read_sources([server.trace]).requested if one.unfinished]
    assert [(one.name, one.kind, one.compiled, one.arguments) for one in found] == [
        ("page", "nvcc", True, {"nvfp4_4over6": False}),
        ("page_nvfp4_4over6", "nvcc", False, {"nvfp4_4over6": True}),
        ("rmsnorm_sm90a_cute_dsl/bf16_4096", "cute-dsl", False, {}),
    ]
    assert all(one.loaded and not one.unused for one in found)


@needs_torch
def test_arguments_as_kernels_yaml_says_them(tmp_path: Path) -> None:
    server = Server(tmp_path)
    body = """
import enum, functools
from flashinfer.jit import core, xqa
class Mode(enum.IntEnum): FAST = 1
def gen_own_modules(): return [gen_own_module(None), gen_own_with_module_inside(object())]
@functools.cache
def gen_own_module(what, n=3, mode: Mode = Mode.FAST, number: int = Mode.FAST, flags=(True, 1.5), left_out=None,
                   none=1, *rest, **more):
    return core.gen_jit_spec("own", [])
def gen_own_with_module_inside(what): return core.gen_jit_spec("inside", [])
def make(): return core.gen_jit_spec("made", [])
gen_own_module.__wrapped__.__globals__["__name__"] = "flashinfer.own"
gen_own_modules()
gen_own_module("x", number=5, none=None)
gen_own_module("x", 3, Mode.FAST, 1, (), None, 1, "nameless")
gen_own_module("x" * 5000)
gen_own_module("x", other=torch.float8_e4m3fn)
make()
xqa.gen_xqa_module_mla(torch.float8_e4m3fn, torch.float8_e4m3fn, 64, 576, 128, False)
"""
    server.run(body, FLASHINFER_CUDA_ARCH_LIST="12.0a")  # that XQA is for Blackwell
    usual = {"n": 3, "mode": "FAST", "number": 1, "flags": [True, 1.5], "none": 1}
    own = "flashinfer.own:gen_own_module"
    assert server.told("name", "generator", "arguments", "unsaid")[:-1] == [
        ("own", own, {"what": None, **usual}, ""),
        ("inside", "flashinfer.own:gen_own_with_module_inside", {}, "what is a object"),
        (
            "own",
            own,
            {"what": "x", **usual, "number": 5, "none": None},
            "",
        ),
        (
            "own",
            own,
            {"what": "x", "n": 3, "mode": "FAST", "number": 1, "flags": [], "none": 1},
            "it takes positional arguments without names",
        ),
        ("own", own, {}, "its arguments are too long to be noted"),
        ("own", own, {"what": "x", **usual, "other": "float8_e4m3fn"}, ""),
        ("made", "", {}, UNNAMED.format("flashinfer.own:make")),
    ]
    assert server.lines()[-1]["generator"] == "flashinfer.jit.xqa:gen_xqa_module_mla"
    assert server.lines()[-1]["arguments"]["head_dim"] == 576
    assert max(map(len, server.trace.read_text().splitlines())) <= 4000


@needs_torch
def test_the_rank_that_torch_distributed_says(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.run("""
import torch.distributed as dist
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
gen_page_module()
os.environ["RANK"] = "7"
gen_page_module()
""")
    assert server.told("rank") == [("0",), ("7",)]


@needs_torch
@pytest.mark.parametrize("trouble", ["unwritable", "sabotaged"])
def test_whatever_fails_here_the_server_does_not_notice(tmp_path: Path, trouble: str) -> None:
    server = Server(tmp_path)
    body = "ask()"
    if trouble == "unwritable":
        server.trace = tmp_path / "no" / "such" / "directory"
        expected = "FileNotFoundError"
    else:
        body = "import fitasks_origin\ndel fitasks_origin.origin\nask()"
        expected = "AttributeError"
    assert server.run(body) == "before\nafter\n", "as when nobody records"
    assert "Traceback" not in server.stderr
    assert [expected in line for line in server.stderr.splitlines() if "fitasks" in line] == [True]


STUBBORN_LOADER = """
import importlib.abc, importlib.machinery, sys
class Loader(importlib.abc.Loader):
    def create_module(self, spec): return None
    def exec_module(self, module): module.answer = 42
    def __setattr__(self, *_): raise AttributeError('no attributes')
class Finder:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, Loader()) if name == 'flashinfer.jit.core' else None
sys.meta_path.insert(1, Finder())
"""
FORGETFUL = "import sys; sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != '_Finder']\n"
UNLIKE = {  # before the import, and whether anything is said
    "nothing to wrap": ("", True),
    "found before it is imported": ("import importlib.util; importlib.util.find_spec('flashinfer.jit.core')\n", True),
    "a loader that takes no attributes": (STUBBORN_LOADER, True),
    "somebody removed our finder": (FORGETFUL, False),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_flashinfer_unlike_those_we_know(tmp_path: Path, case: str) -> None:
    before, complaint = UNLIKE[case]
    package = tmp_path / "flashinfer" / "jit"
    package.mkdir(parents=True)
    (tmp_path / "flashinfer" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "core.py").write_text("answer = 42")
    env = os.environ | variables(tmp_path / "trace", {"PYTHONPATH": str(tmp_path)})
    script = before + "import flashinfer.jit.core; print(flashinfer.jit.core.answer)"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert done.stderr.count("fitasks: not everything is recorded") == complaint
    assert len(done.stderr.splitlines()) == complaint


def test_a_flashinfer_that_does_not_import_fails_as_ever(tmp_path: Path) -> None:
    package = tmp_path / "flashinfer" / "jit"
    package.mkdir(parents=True)
    (tmp_path / "flashinfer" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "core.py").write_text("import no_such_module\n")
    plain = {"PYTHONPATH": str(tmp_path)}
    script = "try: import flashinfer.jit.core\nexcept ImportError as error: print(error)\nimport flashinfer.jit.core"
    ran = [
        subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
        for env in (os.environ | plain, os.environ | variables(tmp_path / "trace", plain))
    ]
    last = "ModuleNotFoundError: No module named 'no_such_module'"
    assert [(one.returncode, one.stdout, one.stderr.splitlines()[-1]) for one in ran] == [
        (1, "No module named 'no_such_module'\n", last)
    ] * 2


def test_two_recorders_write_one_line_each(tmp_path: Path) -> None:
    """As with a recorded script that records: another directory of ours comes first, then the one that it was given."""
    other = shutil.copytree(HOOK, tmp_path / "other")
    env = os.environ | variables(tmp_path / "trace", {"PYTHONPATH": str(other)})
    script = "import sys; print([type(one).__name__ for one in sys.meta_path].count('_Finder'))"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


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


def test_the_commands_own_words_reach_it(tmp_path: Path) -> None:
    words = ["-o", "its.jsonl", "--", "--print-env", "--", ""]
    done = launch(
        "-o", "trace.jsonl", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", *words, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, f"{words}\n")


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("#!/no/such/interpreter\n")
    (tmp_path / "server").chmod(0o755)
    done = launch("-o", "trace.jsonl", "--", "./server", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (126, "fitasks.record: ./server: No such file or directory\n")


def test_the_launchers_variables(tmp_path: Path) -> None:
    done = launch("-o", "trace.jsonl", "--print-env", cwd=tmp_path)
    assert done.stdout == f"export FITASKS_RECORD={tmp_path}/trace.jsonl\nexport PYTHONPATH={HOOK}:{ROOT}\n"
    assert launch("--print-env", cwd=tmp_path).stdout == done.stdout, "trace.jsonl is the trace unless another is named"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-o", "trace"], 2, "no command; write it after --"),
        (["-o", "no/where", "--", "true"], 2, "no/where: No such file or directory"),
        (["-o", "trace", "--", "no-such-server"], 127, "no-such-server: no such command"),
    ],
)
def test_the_launchers_errors(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    done = launch(*words, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


@needs_torch
def test_from_a_server_to_kernels_yaml_and_back(tmp_path: Path) -> None:
    """Recorded, imported into a file without kernels, compiled (by a stand-in for nvcc): nothing asked for is missing."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    # Its state_scale_dtype has no default, and None is what it is given: kernels.yaml says null.
    server.run("""
ask()
from flashinfer.jit.mamba import gen_selective_state_update_sm90_module
half, long = torch.bfloat16, torch.int64
gen_selective_state_update_sm90_module(half, half, half, torch.float32, long, None, 64, 128, 1, long, long).build_and_load()
""")
    state = server.lines()[-1]["name"]
    project = Project.make(tmp_path, 'targets: ["9.0a"]\nkernels: {}\n')
    assert "covers 0 of 3 requested modules" in project.doit("check", "--trace", str(server.trace), status=1)
    project.doit("import_trace", "--write", str(server.trace))
    project.doit()
    out = project.doit("check", "--trace", str(server.trace))
    assert "covers 3 of 3 requested modules" in out
    assert "3 of 3 kernels found" in out
    assert [project.library(name).exists() for name in ("page", NAME, state)] == [True] * 3
