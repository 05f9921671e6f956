"""Judging modules that SGLang keeps by content, and what a server does with each: no SGLang is needed.

That the leaves are judged as SGLang judges them is tried in tests/serving/test_sglang_keyed.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.errors import EnvironmentProblem, KernelFailure
from fitasks.base.files import sha256_file
from fitasks.compile import cute, keyed
from fitasks.compile.judge import engine_receipt
from fitasks.compile.judge.contents import Contents
from fitasks.compile.judge.engine_receipt import EngineReceipt
from fitasks.compile.judge.keyed import judge, key_of
from fitasks.compile.keyed import link
from fitasks.delivery.collect import unpackaged
from fitasks.plan.kernel import Kernel, as_record, from_record, impossible
from fitasks.processes import interpreter
from fitasks.server.check import check, predict
from fitasks.server.conditions import conditions
from fitasks.server.exports import exports
from fitasks.server.place import Place
from fitasks.server.user import User
from tests.processes.test_process import is_gone
from tests.sessions import session_of
from tests.workshop import TARGET

if TYPE_CHECKING:
    from fitasks.graph.session import Session
    from tests.workshop import Workshop

NAME = "sgl_kernel_jit_clamp"
USER = User("server", 1000, 1000, frozenset({1000}))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = tmp_path_factory.mktemp("library") / "x.so"
    subprocess.run(["cc", "-shared", "-x", "c", "-", "-o", str(made)], input=b"int x;", check=True)
    return made.read_bytes()


@pytest.fixture
def clamp(shop: Workshop, library: bytes) -> Kernel:
    """One that is there, as a build leaves it."""
    made = shop.keyed_module(NAME)
    (header,) = made.sources
    header.parent.mkdir(parents=True)
    header.write_text("// clamps\n")
    vouch(made, publish(made, library))
    return made


def publish(kernel: Kernel, library: bytes, *paths: str) -> Path:
    """A leaf, as SGLang makes it of what the sources are now."""
    roots = json.loads(kernel.meta)["roots"]
    named = [("kernels", path) for path in paths or ("clamp.cuh",)]
    entries = [(root, path, sha256_file(Path(roots[root], path))) for root, path in named]
    hashed = hashlib.sha256(b"".join(repr(entry).encode() + b"\0" for entry in entries))
    leaf = kernel.build_dir / f"deps-{hashed.hexdigest()[:16]}"
    leaf.mkdir(parents=True)
    (leaf / "sgl_deps.json").write_text(json.dumps(entries))
    (leaf / f"{NAME}.so").write_bytes(library)
    return leaf / f"{NAME}.so"


def vouch(kernel: Kernel, library: Path) -> None:
    link(kernel.library, library)
    size, meta = library.stat().st_size, json.dumps(key_of(library))
    engine_receipt.write(kernel, EngineReceipt(NAME, sha256_file(library), size, meta, 1.5, "2026-11-29"))


def edit(kernel: Kernel, text: str = "// clamps otherwise\n") -> None:
    kernel.sources[0].write_text(text)


def leaf(kernel: Kernel) -> Path:
    return kernel.library.resolve().parent


def why(kernel: Kernel, tmp_path: Path) -> str:
    judged = judge(kernel, Contents.load(tmp_path / "contents.json"))
    return f"{judged.verdict}: {'; '.join(map(str, judged.reasons))}"


def session(shop: Workshop, kernel: Kernel, **env: str) -> Session:
    plan = shop.plan()
    server = replace(plan.server, env=plan.server.env | {"HOME": str(shop.root / "home")} | env)
    return session_of(replace(plan, server=server, kernels=(kernel,)), ninja=shop.ninja, judges={TARGET: shop.judge()})


def said(shop: Workshop, kernel: Kernel, **env: str) -> str:
    (verdict,) = check(session(shop, kernel, **env))
    return f"{verdict.state}: {verdict.reason}"


def test_a_fresh_one(shop: Workshop, clamp: Kernel, tmp_path: Path) -> None:
    assert why(clamp, tmp_path) == "fresh: "
    assert said(shop, clamp) == "cached: "
    assert said(shop, clamp, SGLANG_CRASH_ON_JIT_COMPILE="1") == "cached: "
    (verdict,) = check(session(shop, clamp))
    assert (verdict.library, verdict.bytes) == (str(leaf(clamp) / f"{NAME}.so"), clamp.library.stat().st_size)


def test_one_that_is_not_there(shop: Workshop, clamp: Kernel, tmp_path: Path) -> None:
    (leaf(clamp) / f"{NAME}.so").unlink()
    assert why(clamp, tmp_path) == f"stale: {NAME}.so is missing"
    engine_receipt.path_of(clamp).unlink()
    assert said(shop, clamp) == "would compile: new: never built"
    assert said(shop, clamp, SGLANG_CRASH_ON_JIT_COMPILE="Yes").startswith("refused: SGLANG_CRASH_ON_JIT_COMPILE")


def test_a_changed_header(shop: Workshop, clamp: Kernel, tmp_path: Path) -> None:
    edit(clamp)
    assert why(clamp, tmp_path).startswith("stale: kernels:clamp.cuh changed (")
    assert said(shop, clamp).startswith("would compile: kernels:clamp.cuh changed (")
    clamp.sources[0].unlink()
    assert why(clamp, tmp_path) == "stale: kernels:clamp.cuh, which it was compiled from, is gone"
    edit(clamp, "// clamps\n")
    assert said(shop, clamp) == "cached: "


def test_one_that_was_built_under_another_key(clamp: Kernel, tmp_path: Path) -> None:
    other = clamp.build_dir.with_name("build-fedcba9876543210")
    there = replace(clamp, build_dir=other, library=other / clamp.library.name)
    told = "SGLang's key of sources, flags, compilers and packages changed (0123456789ab → fedcba987654)"
    assert why(there, tmp_path) == f"stale: {told}"


def test_one_that_a_server_compiled(shop: Workshop, clamp: Kernel, library: bytes, tmp_path: Path) -> None:
    """Beside ours, which was made from other sources: that is what SGLang loads, and nothing vouches for it."""
    edit(clamp)
    newer = publish(clamp, library)
    told = f"incomplete: {NAME}.so in {newer.parent.name} has no receipt, another has"
    assert why(clamp, tmp_path) == f"stale: {told}"
    assert said(shop, clamp) == f"cached: compiled by a server: {told}"


def test_the_newest_that_holds_is_taken(clamp: Kernel, library: bytes, tmp_path: Path) -> None:
    other = clamp.sources[0].with_name("other.cuh")
    other.write_text("// another\n")
    newer = publish(clamp, library, "clamp.cuh", "other.cuh").parent
    now = leaf(clamp).stat().st_mtime
    os.utime(newer, (now + 5, now + 5))
    assert f"in {newer.name} has no receipt" in why(clamp, tmp_path)
    os.utime(newer, (now - 5, now - 5))
    assert why(clamp, tmp_path) == "fresh: "
    for number in range(3):  # as many as SGLang looks at, all of them newer
        (clamp.build_dir / f"deps-{number}").mkdir()
        os.utime(clamp.build_dir / f"deps-{number}", (now + 5, now + 5))
    assert why(clamp, tmp_path) == f"stale: {NAME}.so is missing"


def test_altered_contents(shop: Workshop, clamp: Kernel, tmp_path: Path) -> None:
    file = leaf(clamp) / f"{NAME}.so"
    file.write_bytes(file.read_bytes().replace(b"GCC", b"gcc"))
    assert f"{NAME}.so is not what was built" in why(clamp, tmp_path)
    assert said(shop, clamp).startswith("altered: ")
    assert "SGLang loads it as it is" in said(shop, clamp)


@pytest.mark.parametrize(
    ("kept", "state"), [(0, "would compile"), (20, "would compile"), (4000, "would fail"), (-1, "unknown")]
)
def test_a_torn_library(shop: Workshop, clamp: Kernel, kept: int, state: str) -> None:
    """The loader refuses what is no library, maps what lacks a part, and may not miss the end."""
    file = leaf(clamp) / f"{NAME}.so"
    file.write_bytes(file.read_bytes()[:kept])
    assert said(shop, clamp).partition(":")[0] == state


@pytest.mark.parametrize(
    "text", ["", "{}", "[[1]]", "[" * 100_000, '[["kernels", "other.cuh", "0"]]', '[["x", "y", "z"]]']
)
def test_a_list_that_gives_another_name(shop: Workshop, clamp: Kernel, tmp_path: Path, text: str) -> None:
    """SGLang passes over it, whatever is beside it."""
    (leaf(clamp) / "sgl_deps.json").write_text(text)
    assert why(clamp, tmp_path).startswith("stale: ")
    assert said(shop, clamp).startswith("would compile: ")


@pytest.mark.parametrize("text", ["", "{}", "{", "[]", '{"version": 1}'])
def test_a_receipt_that_cannot_be_believed(shop: Workshop, clamp: Kernel, tmp_path: Path, text: str) -> None:
    engine_receipt.path_of(clamp).write_text(text)
    assert why(clamp, tmp_path) == f"stale: incomplete: {NAME}.so has no receipt"
    assert said(shop, clamp).startswith("cached: compiled by a server: ")


def test_a_link_that_is_lost(clamp: Kernel, tmp_path: Path) -> None:
    clamp.library.unlink()
    assert why(clamp, tmp_path).endswith("has no receipt, another has")


def test_a_moved_cache_is_as_fresh(clamp: Kernel, tmp_path: Path) -> None:
    moved = clamp.build_dir.rename(tmp_path / clamp.build_dir.name)
    assert why(replace(clamp, build_dir=moved, library=moved / clamp.library.name), tmp_path) == "fresh: "


def test_what_makes_a_server_look_elsewhere(shop: Workshop, clamp: Kernel) -> None:
    assert said(shop, clamp, SGLANG_JIT_FORCE_RECOMPILE="true") == "would compile: SGLANG_JIT_FORCE_RECOMPILE is set"
    assert said(shop, clamp, SGLANG_JIT_FORCE_RECOMPILE="0") == "cached: "
    for name in ("no-such-compiler", "ccache c++", ""):
        told = f"SGLang's key has what the host compiler says of its version, and there is no {name!r}"
        assert said(shop, clamp, CXX=name) == f"would fail: {told}"


def test_without_a_toolkit_nothing_is_known(shop: Workshop, clamp: Kernel) -> None:
    made = session(shop, clamp)
    made.problem = EnvironmentProblem("there is no CUDA toolkit")
    (verdict,) = check(made)
    assert (verdict.state, verdict.reason) == ("unknown", "its key has what compilers say: there is no CUDA toolkit")


@pytest.mark.parametrize("denied", [f"{NAME}.so", "sgl_deps.json"])
def test_one_that_the_servers_user_may_not_read(shop: Workshop, clamp: Kernel, denied: str) -> None:
    place = Place(USER, lambda path, mode: Path(path).name != denied)
    verdict = predict(session(shop, clamp), clamp, place)
    assert verdict.state == "would compile"
    assert f"may not read {leaf(clamp) / denied}" in verdict.reason


def test_a_server_that_may_not_write_there(shop: Workshop, clamp: Kernel) -> None:
    place = Place(USER, lambda path, mode: "jit" not in Path(path).parts or mode == os.R_OK)
    made = session(shop, clamp)
    assert predict(made, clamp, place).state == "cached"
    edit(clamp)
    assert predict(session(shop, clamp), clamp, place).state == "would fail"


def test_where_a_server_has_to_look_is_said(shop: Workshop, clamp: Kernel) -> None:
    cache = str(shop.root / "jit")
    plan = session(shop, clamp).plan
    assert "SGLANG_JIT_CACHE_DIR" not in exports(plan, shop.root), "the user's home tells"
    elsewhere = session(shop, clamp, SGLANG_JIT_CACHE_DIR=cache)
    assert exports(elsewhere.plan, shop.root)["SGLANG_JIT_CACHE_DIR"] == cache
    assert f"the server has SGLANG_JIT_CACHE_DIR={cache} (" in "\n".join(conditions(elsewhere))


def test_no_package_can_hold_it(shop: Workshop, clamp: Kernel) -> None:
    made = session(shop, clamp)
    (told,) = unpackaged(made.plan)
    assert told.startswith(f"left out: kernel:clamp: SGLang loads it from {shop.root / 'jit'} alone, under a key ")


BUILDS = """
import json, sys
request = json.load(open(sys.argv[1]))
said = json.loads({said!r})
if said["how"] == "compiled":
    import os
    os.makedirs(os.path.dirname(said["library"]))
    open(said["library"], "w").write("a library")
answer = {{"kernels": [{{"id": 0, **said}}], "reads": {{"files": [], "looked": []}}}}
json.dump(answer if request["anew"] else {{}}, open(sys.argv[2], "w"))
"""


def build(shop: Workshop, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, **said: object) -> str:
    """Of a script that answers this; what fitasks says."""
    file = shop.root / "script.py"
    sha = hashlib.sha256(b"a library").hexdigest()
    made: dict[str, object] = {
        "directory": str(kernel.build_dir),
        "library": str(kernel.build_dir / "deps-1" / f"{NAME}.so"),
    }
    made |= {"how": "compiled", "seconds": 1.5, "message": "", "log": "", "size": 9, "sha256": sha} | said
    file.write_text(BUILDS.format(said=json.dumps(made)))
    monkeypatch.setattr(keyed, "_SCRIPT", file)
    try:
        return str(shop.build(kernel))
    except KernelFailure as error:
        return str(error)


@pytest.fixture
def stale(clamp: Kernel) -> Kernel:
    edit(clamp)
    return clamp


def test_what_was_built_is_linked_and_vouched_for(
    shop: Workshop, stale: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(shop, stale, monkeypatch) == "Done(outcome='compiled', seconds=1.5)"
    assert stale.library.readlink() == Path("deps-1", f"{NAME}.so")
    receipt = engine_receipt.read(stale)
    assert receipt
    assert (receipt.size, receipt.meta, receipt.seconds) == (9, '{"leaf": "deps-1"}', 1.5)


def test_two_that_build_it_at_once_build_it_once(
    shop: Workshop, stale: Kernel, library: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would throw away what the first has just made, for which it knows no receipt."""
    made = publish(stale, library)
    made.parent.rename(shop.root / "made")
    said = {
        "library": str(made),
        "sha256": sha256_file(shop.root / "made" / made.name),
        "directory": str(stale.build_dir),
    }
    one = {"id": 0, "how": "compiled", "seconds": 1, "message": "", "log": "", "size": 1} | said
    answer = {"kernels": [one], "reads": {"files": [], "looked": []}}
    script = shop.root / "script.py"
    lines = [
        "import json, shutil, sys, time",
        "time.sleep(1)",
        f"shutil.copytree({str(shop.root / 'made')!r}, {str(made.parent)!r})",
        f"json.dump({answer!r}, open(sys.argv[2], 'w'))",
    ]
    script.write_text("\n".join(lines))
    monkeypatch.setattr(keyed, "_SCRIPT", script)
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(shop.builder().build, stale) for _ in range(2)]
    assert sorted(one.result().outcome for one in done) == ["compiled", "fresh"]


@pytest.mark.parametrize(("ways", "kind"), [(keyed, "sglang-keyed"), (cute, "cute")])
def test_the_time_limit_of_kernels_yaml_holds_for_engines_too(
    shop: Workshop, stale: Kernel, monkeypatch: pytest.MonkeyPatch, ways: Any, kind: str
) -> None:
    """With what the engine has started: a compiler of its own goes as well."""
    kernel = stale if kind == "sglang-keyed" else shop.cute_object("{}")
    script = shop.root / "script.py"
    note = shop.root / "pid"
    script.write_text(
        f"import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\nchild.wait()\n"
    )
    monkeypatch.setattr(ways, "_SCRIPT", script)
    with pytest.raises(KernelFailure) as told:
        shop.builder(timeout=1.0).build(kernel)
    assert told.value.message == f"{kernel.label}: not finished after 1 s, and stopped"
    assert told.value.remedy == "raise `timeout:` in kernels.yaml (seconds; 0 is no limit)"
    assert is_gone(note.read_text())
    assert not engine_receipt.path_of(kernel).exists()


@pytest.mark.parametrize(("given", "limit"), [(None, 0), (0, 0), (7200, 7200)])
def test_no_other_limit_is_put_in_its_place(
    shop: Workshop, stale: Kernel, monkeypatch: pytest.MonkeyPatch, given: float | None, limit: float
) -> None:
    seen: dict[str, Any] = {}

    def ask(*_words: object, **options: object) -> dict[str, Any]:
        seen.update(options)
        raise KernelFailure("asked")

    monkeypatch.setattr(interpreter, "ask", ask)
    with pytest.raises(KernelFailure, match="asked"):
        shop.builder(timeout=given).build(stale)
    assert seen["limit"] == limit


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"directory": "/elsewhere"}, "SGLang keeps it under /elsewhere, and "),
        (
            {"how": "failed", "message": "a file that it read has changed\nmore"},
            "clamp: a file that it read has changed",
        ),
        ({"how": "failed", "log": "x.cuh(12): error: nonsense\nmore"}, "clamp: x.cuh(12): error: nonsense\n  log: "),
        ({"library": "/elsewhere/deps-1/x.so", "how": "cached"}, "SGLang says that it published '/elsewhere/"),
        ({"error": {"kind": "generator", "message": "no such function"}}, "clamp: no such function"),
        ({"sha256": "0"}, f"{NAME}.so was written by somebody else meanwhile"),
    ],
)
def test_a_build_that_failed(
    shop: Workshop, stale: Kernel, monkeypatch: pytest.MonkeyPatch, said: dict[str, object], told: str
) -> None:
    assert told in build(shop, stale, monkeypatch, **said)
    assert not engine_receipt.path_of(stale).exists()
    if "log" in said:
        assert (shop.plan().state / "logs" / "clamp.log").read_text() == said["log"]


def test_its_record_survives_json(clamp: Kernel) -> None:
    record = json.loads(json.dumps(as_record(clamp)))
    assert from_record(record) == clamp
    assert impossible([record], [TARGET]) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"name": "../x"},
        {"library": "/etc/passwd"},
        {"ninja_file": "/elsewhere/build.ninja"},
        {"lock": "/elsewhere/.lock"},
        {"meta": ""},
        {"meta": '{"roots": {"kernels": 1}, "leaves": 3}'},
        {"meta": '{"roots": {}}'},
        {"meta": "[" * 100_000},
    ],
)
def test_a_damaged_plan_names_no_file_elsewhere(clamp: Kernel, change: dict[str, str]) -> None:
    assert "with files that don't lie in" in impossible([as_record(clamp) | change], [TARGET])
