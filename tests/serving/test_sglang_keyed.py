"""SGLang 0.5.23's own JIT, planned, compiled and judged by its own code: the real package, without a GPU.

What a build leaves behind is made by a stand-in for ninja; tests/test_real_sglang_keyed.py has a real one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fitasks.compile.judge.contents import Contents
from fitasks.compile.judge.keyed import Found, find
from fitasks.plan.kernel import Kernel
from tests.serving.keyed_sglang import CLAMP, INT64, NAME, Place, ask, image, saying, script, serving
from tests.serving.planner_runs import PLAN, run

INT32: tuple[str, dict[str, Any]] = (CLAMP, {"dtype": "int32"})  # which fails
CHANGING: tuple[str, dict[str, Any]] = (  # whose source changes meanwhile
    "sglang.kernels.ops.elementwise.add_constant:_jit_add_constant_module",
    {"constant": 7},
)
_REDUCE = "sglang.kernels.ops.communication.all_reduce"
ALL_REDUCE: tuple[tuple[str, dict[str, Any]], ...] = (
    (f"{_REDUCE}:get_all_reduce_module", {"dtype": "bfloat16", "world_size": 2}),
    (f"{_REDUCE}:_init_communicator", {}),
    (f"{_REDUCE}:_init_ipc_manager", {}),
)
# A function that calls itself through its own cache: by bytes of a row, and the number of threads, 0 for its own choice.
ROWS = {"2048_2048_128": (2048, 2048, 0), "12_12_32": (12, 12, 0), "2048_1024_64": (2048, 1024, 64)}
KVCACHE: tuple[tuple[str, dict[str, Any]], ...] = tuple(
    (
        "sglang.kernels.ops.kvcache.kvcache:_jit_kvcache_module",
        {"k_row_bytes": key, "v_row_bytes": value, "num_threads": threads},
    )
    for key, value, threads in ROWS.values()
)
MISTAKES: tuple[tuple[str, dict[str, Any], str], ...] = (
    (CLAMP.replace("_jit_clamp", "_jit_klamp"), {}, "(did you mean _jit_clamp_position_module?)"),
    (CLAMP, {"dtyp": "int64"}, "_jit_clamp_position_module takes dtype (did you mean dtype?)"),
    ("sglang.kernels.jit.utils.arch:_jit_cuda_version", {}, "makes 0 modules through load_jit, not one"),
)
# As SGLang's own ninja leaves a directory: the module, and what it was made from.
NINJA = """\
#!/bin/sh
grep -q int32 cuda.cu && { echo "x.cuh(12): error: nonsense"; exit 1; }
source=$(sed -n 's/^#include "\\(.*\\)"$/\\1/p' cuda.cu)
set -- $(sed -n 's/^build \\(sgl_[^ ]*[.]so\\).*/\\1/p' build.ninja)
echo 'int x;' | cc -shared -fPIC -x c - -o "$1"
echo "x.o: $source $CUDA_HOME/include/cuda.h /usr/include/stdio.h" > x.o.d
case $source in *add_constant*) echo // changed >> "$source"; esac
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> Place:
    root = tmp_path_factory.mktemp("sglang")
    script(root / "bin" / "ninja", NINJA)
    env = serving(root, PATH=f"{root}/bin:{os.environ['PATH']}", SGLANG_CRASH_ON_JIT_COMPILE="1")
    (root / "cuda" / "include").mkdir()
    (root / "cuda" / "include" / "cuda.h").write_text("// CUDA\n")
    forced = env | {"SGLANG_JIT_FORCE_RECOMPILE": "1"}
    wanted = (INT64, *(wrong[:2] for wrong in MISTAKES), *KVCACHE, *KVCACHE, *ALL_REDUCE)
    planned = ask("sglang_keyed_plan.py", root, forced, *wanted)
    assert not (root / ".cache" / "sglang").exists(), "planning writes nothing"
    return Place(root, env, planned, ask("sglang_keyed_build.py", root, forced, INT64, INT64, INT32, CHANGING))


def with_headers(place: Place, root: Path) -> dict[str, str]:
    env = image(place, root)
    shutil.copytree(place.root / "cuda" / "include", root / "cuda" / "include")
    return env


def test_a_plan_says_where_a_server_looks_and_what_its_key_rests_on(place: Place) -> None:
    one = place.planned["kernels"][0]
    assert one["name"] == NAME
    assert one["directory"] == f"{place.cache}/sm90a/{NAME}/build-{one['key']}"
    assert one["lock"] == f"{one['directory']}/.lock"
    assert one["sources"] == [place.env["SOURCE"]]
    assert (one["found"], one["library"], one["read"], one["other_keys"]) == (False, "", {}, [])
    assert one["forced"], "a server would compile it whatever is there"
    assert one["params"] == {"dtype": "int64"}
    needs = place.planned["needs"]
    assert needs["compilers"]["nvcc"] == {
        "path": f"{place.root}/cuda/bin/nvcc",
        "says": "Cuda compilation tools, release 13.0, V13.0.88\n",
    }
    assert needs["variables"] == {"CUDA_HOME": f"{place.root}/cuda", "CUDA_PATH": None, "CXX": os.environ.get("CXX")}
    assert not needs["linked"]
    assert needs["roots"]["toolkit"] == f"{place.root}/cuda"


@pytest.mark.parametrize("index", range(len(MISTAKES)))
def test_mistakes_are_named(place: Place, index: int) -> None:
    assert MISTAKES[index][2] in place.planned["kernels"][index + 1]["error"]["message"]


def test_functions_of_other_names_make_modules_as_well(place: Place) -> None:
    """All-reduce's, which models: gives for several GPUs."""
    assert [one["name"] for one in place.planned["kernels"][-len(ALL_REDUCE) :]] == [
        "sgl_kernel_jit_custom_all_reduce_bf16_t_2_true",
        "sgl_kernel_jit_communicator",
        "sgl_kernel_jit_cuda_ipc",
    ]


def test_two_entries_of_one_module_that_a_function_asks_itself_for(place: Place) -> None:
    """As two models have them, in one plan."""
    first = len(MISTAKES) + 1
    asked = place.planned["kernels"][first : first + 2 * len(KVCACHE)]
    assert [one.get("name") for one in asked] == [f"sgl_kernel_jit_kvcache_{row}_true" for row in (*ROWS, *ROWS)]


def test_what_was_planned_is_published_by_sglang(place: Place) -> None:
    one, planned = place.module, place.planned["kernels"][0]
    assert (one["how"], one["message"], one["found"], one["whole"]) == ("compiled", "", True, True)
    assert (one["directory"], one["key"]) == (planned["directory"], planned["key"])
    library = Path(one["library"])
    assert library.parents[1] == Path(one["directory"])
    assert one["sha256"] == hashlib.sha256(library.read_bytes()).hexdigest()
    assert one["read"] == {"kernels": 1, "toolkit": 1, "sys": 1}


def test_a_second_time_nothing_is_compiled(place: Place) -> None:
    _, second, *_ = place.made["kernels"]
    assert (second["how"], second["library"]) == ("cached", place.module["library"])


def test_a_failure_has_the_compilers_words(place: Place) -> None:
    _, _, one, _ = place.made["kernels"]
    assert (one["how"], one["found"], one["sha256"]) == ("failed", False, "")
    assert "Failed to build JIT module" in one["message"]
    assert "x.cuh(12): error: nonsense" in one["log"]
    assert [path.name for path in Path(one["directory"]).iterdir()] == [".lock"]


def test_what_changed_while_it_was_compiled_failed(place: Place) -> None:
    one = place.made["kernels"][-1]
    assert (one["how"], one["found"]) == ("failed", False)
    assert one["message"] == "SGLang doesn't find it: a file that it read has changed"
    assert one["changed"] == ["kernels:csrc/elementwise/add_constant.cuh"]


def test_a_torn_library_is_told_and_compiled_again(place: Place, tmp_path: Path) -> None:
    copy = shutil.copytree(place.cache, tmp_path / "jit")
    (library,) = copy.glob(f"*/{NAME}/*/*/*.so")
    library.write_bytes(library.read_bytes()[:-1])
    before = library.parent.stat().st_mtime_ns
    env = place.env | {"SGLANG_JIT_CACHE_DIR": str(copy)}
    (torn,) = ask("sglang_keyed_plan.py", place.root, env, INT64)["kernels"]
    assert (torn["found"], torn["whole"]) == (True, False), "SGLang's own judgement doesn't look at the library"
    assert library.parent.stat().st_mtime_ns == before, "planning doesn't mark it as used"
    (made,) = ask("sglang_keyed_build.py", place.root, env, INT64)["kernels"]
    assert (made["how"], made["whole"], made["library"]) == ("compiled", True, str(library))


def other_nvcc(place: Place, root: Path) -> dict[str, str]:
    env = with_headers(place, root)
    saying(root / "cuda" / "bin" / "nvcc", "Cuda compilation tools, release 13.0, V13.0.48\n")
    return env


def no_compiler(place: Place, root: Path) -> dict[str, str]:
    env = with_headers(place, root)
    (root / "cuda" / "bin" / "nvcc").unlink()
    (root / "bin" / "c++").unlink()
    return env


def changed_header(place: Place, root: Path) -> dict[str, str]:
    env = with_headers(place, root)
    (root / "cuda" / "include" / "cuda.h").write_text("// another CUDA\n")
    return env


def linked(place: Place, root: Path) -> dict[str, str]:
    env = with_headers(place, root)
    (root / "link").symlink_to(root / "cuda")
    return env | {"CUDA_HOME": str(root / "link")}


def another_cache(place: Place, root: Path) -> dict[str, str]:
    """Of two files of each module."""
    build = Path(place.module["directory"]).relative_to(place.cache)
    leaf = Path(place.module["library"]).parent
    copy = root / "elsewhere" / build / leaf.name
    copy.mkdir(parents=True)
    for name in (f"{NAME}.so", "sgl_deps.json"):
        shutil.copy(leaf / name, copy)
    return {"HOME": "/nowhere", "SGLANG_JIT_CACHE_DIR": str(root / "elsewhere")}


def sglangs_cache(place: Place, root: Path) -> dict[str, str]:
    shutil.copytree(place.cache, root / "cache" / "jit")
    return {"HOME": str(root), "SGLANG_CACHE_DIR": str(root / "cache")}


FINDS: tuple[Callable[[Place, Path], dict[str, str]], ...] = (another_cache, with_headers)
MISSES: tuple[Callable[[Place, Path], dict[str, str]], ...] = (
    other_nvcc, no_compiler, changed_header, image, linked, sglangs_cache,
)  # fmt: skip


def test_what_sglang_finds_in_another_process_and_what_it_does_not(place: Place, tmp_path: Path) -> None:
    """Where a server has no compiler, programs that answer as they did stand for them; a copy of the headers does."""
    cases = [*FINDS, *MISSES]
    said = place.servers({}, *(case(place, tmp_path / case.__name__) for case in cases))
    told = dict(zip(["as it is", *(case.__name__ for case in cases)], said, strict=True))
    assert [name for name, one in told.items() if one == "found"] == ["as it is", *(case.__name__ for case in FINDS)]
    assert all("SGLANG_CRASH_ON_JIT_COMPILE forbids" in told[case.__name__] for case in MISSES), told


def torn_cache(place: Place, root: Path) -> Path:
    """The library in it."""
    (library,) = shutil.copytree(place.cache, root / "jit").glob(f"*/{NAME}/*/*/*.so")
    library.write_bytes(library.read_bytes()[:100])
    return library


def test_a_torn_library_is_thrown_away_by_a_server_that_may_compile(place: Place, tmp_path: Path) -> None:
    kept, gone = (torn_cache(place, tmp_path / name) for name in ("kept", "gone"))
    caches = [{"SGLANG_JIT_CACHE_DIR": str(tmp_path / name / "jit")} for name in ("kept", "gone")]
    crashed, compiles = place.servers(caches[0], caches[1] | {"SGLANG_CRASH_ON_JIT_COMPILE": "0"})
    assert "forbids compiling" in crashed
    assert compiles == "it starts ninja"
    assert (kept.exists(), gone.parent.exists()) == (True, False)


def test_a_changed_source_of_sglangs_is_seen(place: Place) -> None:
    source = Path(place.env["SOURCE"])
    text = source.read_text()
    try:
        source.write_text(f"{text}// changed\n")
        assert "forbids compiling" in place.servers({})[0]
    finally:
        source.write_text(text)


def test_a_plan_tells_what_changed_also_of_what_a_trace_names(place: Place, tmp_path: Path) -> None:
    env = place.env | changed_header(place, tmp_path)
    (one,) = ask("sglang_keyed_plan.py", place.root, env, INT64, recorded=True)["kernels"]
    assert (one["found"], one["changed"]) == (False, ["toolkit:include/cuda.h"])
    env = place.env | no_compiler(place, tmp_path / "none")
    (tmp_path / "link").symlink_to(env["CUDA_HOME"])
    answer = ask("sglang_keyed_plan.py", place.root, env | {"CUDA_HOME": str(tmp_path / "link")}, INT64)
    assert answer["needs"]["linked"]
    assert [one["says"] for one in answer["needs"]["compilers"].values()] == [None, None]
    (one,) = answer["kernels"]
    assert (one["found"], one["changed"], one["other_keys"]) == (False, [], [place.module["key"]])


def test_fitasks_finds_what_sglang_finds(place: Place, tmp_path: Path) -> None:
    """The doit process follows SGLang's rule without SGLang (compile/judge/keyed.py)."""
    assert found(place, {}).library == Path(place.module["library"])
    (tmp_path / "include").mkdir()
    missed = found(place, {"toolkit": str(tmp_path)})
    assert (missed.library, [str(one) for one in missed.changed]) == (
        None,
        ["toolkit:include/cuda.h, which it was compiled from, is gone"],
    )
    (tmp_path / "include" / "cuda.h").write_text("// another CUDA\n")
    (changed,) = found(place, {"toolkit": str(tmp_path)}).changed
    assert (changed.kind, changed.subject) == ("changed", "toolkit:include/cuda.h")
    shutil.copy(place.root / "cuda" / "include" / "cuda.h", tmp_path / "include" / "cuda.h")
    assert found(place, {"toolkit": str(tmp_path)}).library == Path(place.module["library"])


ANOTHER = """
import sys, types
sys.path.insert(0, {directory!r})
import plan_keyed, plan_errors
words = dict(_DEPS_KEY_PREFIX="deps-", _DEPS_FILE="sgl_deps.json", _LOCK_FILE=".lock", _DepEntry=lambda *words: words)
another = types.SimpleNamespace(**words, _deps_key=lambda entries: "another")
plan_keyed.part = lambda name: another
try:
    plan_keyed._refuse_another_rule()
except plan_errors.PlanError as error:
    print(error)
"""


def test_an_sglang_with_another_rule_is_not_planned_for() -> None:
    command = [sys.executable, "-c", ANOTHER.format(directory=str(PLAN.parent))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "this SGLang keeps its modules in a way that isn't known\n"


def found(place: Place, roots: dict[str, str]) -> Found:
    scope = Path(place.module["directory"])
    meta = json.dumps({"roots": place.planned["needs"]["roots"] | roots, "leaves": 100})
    kernel = Kernel("clamp", "clamp", CLAMP, "9.0a", "", {}, name=NAME, build_dir=scope, kind="sglang-keyed", meta=meta)
    return find(kernel, Contents(Path(os.devnull)))


def test_what_is_packed_needs_no_header_of_toolkit_and_system(place: Place, tmp_path: Path) -> None:
    """Two programs that say their version, and the cache, are all that a server without compilers gets."""
    into = tmp_path / "packed"
    kernels = ask("sglang_keyed_pack.py", place.root, place.env, INT64, INT32, into=str(into))["kernels"]
    packed = [Path(one["packed"]) for one in kernels if one["packed"]]
    files = {into / "compilers" / "nvcc", into / "compilers" / "c++", *packed, packed[0].with_name("sgl_deps.json")}
    assert len(packed) == 1
    assert {path for path in into.rglob("*") if path.is_file()} == files
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    nvcc = shutil.copy(into / "compilers" / "nvcc", tmp_path / "cuda" / "bin" / "nvcc")
    cache = {"SGLANG_JIT_CACHE_DIR": str(into / "jit")}
    env = {"CUDA_HOME": str(tmp_path / "cuda"), "PATH": str(into / "compilers")}
    unpacked, found = place.servers(env, env | cache)
    assert ("forbids compiling" in unpacked, found) == (True, "found")
    done = subprocess.run([nvcc, "-c", "x.cu"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{nvcc}: this says its version to SGLang, and compiles nothing\n")


def test_where_to_pack_is_asked_for(place: Place, tmp_path: Path) -> None:
    request = {"version": 1, "architecture": "9.0a", "kernels": [{"id": 0, "op": CLAMP, "params": {"dtype": "int64"}}]}
    _, answer = run(PLAN.with_name("sglang_keyed_pack.py"), request, tmp_path, place.env)
    assert answer["fatal"]["message"] == "`into` names no absolute directory"
