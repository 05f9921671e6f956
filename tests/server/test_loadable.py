"""Libraries that a server's process takes or refuses: the prediction beside the dynamic loader itself, LD_BIND_NOW=1.

Made with the host compiler, in the real serving interpreter with its torch and tvm-ffi; stand-ins have versions and
symbols that the real libraries lack.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fitasks.base.answers import Opened
from fitasks.cuda.audit import refusal
from fitasks.cuda.loader import Answer, Loader, Needs
from fitasks.cuda.toolkit import Toolkit
from fitasks.graph.session import Session
from fitasks.plan.kernel import Kernel
from fitasks.plan.server import Server
from fitasks.server.loadable import loadable, provisos
from fitasks.server.verdict import State, Verdict
from tests.sessions import NO_CUDART, plan_at, session_of

pytestmark = pytest.mark.usefixtures("tvm_ffi")

# What a server does, with every symbol bound at once: {library: what the loader says, "" if it takes it}.
_JUDGE = """
import ctypes, json, os, sys
import torch, tvm_ffi
said = {}
for path in sys.argv[1:]:
    try:
        ctypes.CDLL(path, os.RTLD_LAZY | os.RTLD_LOCAL)
        said[path] = ""
    except OSError as error:
        said[path] = str(error)
print(json.dumps(said))
"""


def env(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LD_")} | more


def compiled(path: Path, source: str, *words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed", "-o", str(path)]
    subprocess.run([*command, *words], input=source, text=True, check=True)
    return path


@dataclass(frozen=True)
class World:
    """Kernels of every kind in one directory; `judge` is what the loader says of each, `loader` what we say."""

    root: Path
    kernels: dict[str, Path]
    said: dict[str, str]
    session: Session

    def predicted(self, name: str, state: State = "cached", reason: str = "") -> Verdict:
        return loadable(self.session, Verdict(name, name, "9.0a", state, reason, str(self.kernels[name])))


def session(root: Path, kernels: list[Path], **variables: str) -> Session:
    python, site = Path(sys.executable), root / "site"
    server = Server(python, "none", Path(sys.prefix), (site,), env(**variables), ())
    toolkit = Toolkit(root, "none", root, "13.0", "V13.0.88", root / "toolkit" / "libcudart.so")
    plan = replace(plan_at(root, {}), server=server, toolkit=toolkit, kernels=tuple(map(planned, kernels)))
    loader = Loader(python, server.env, root / "loader.json")
    return session_of(plan, runtime=replace(NO_CUDART, reached=False), loader=loader)


def planned(library: Path) -> Kernel:
    return Kernel(library.stem, library.stem, "op", "9.0a", "kernels.yaml:1:1", {}, library=library)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    kernels = made(root)
    command = [sys.executable, "-c", _JUDGE, *map(str, kernels.values())]
    done = subprocess.run(command, env=env(LD_BIND_NOW="1"), capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    heard = {name: said[str(path)] for name, path in kernels.items()}
    return World(root, kernels, heard, session(root, list(kernels.values())))


def made(root: Path) -> dict[str, Path]:
    kernels = root / "kernels"

    def stand_in(soname: str, source: str, version: str = "") -> str:
        """A library to link against that the server's process won't have."""
        words = [f"-Wl,-soname,{soname}", "-nostdlib"]
        if version:
            script = root / "links" / f"{soname}.versions"
            script.parent.mkdir(exist_ok=True)
            script.write_text(f"{version} {{ global: *; }};\n")
            words.append(f"-Wl,--version-script={script}")
        return str(compiled(root / "links" / soname, source, *words))

    def kernel(name: str, source: str, *words: str) -> tuple[str, Path]:
        return name, compiled(kernels / f"{name}.so", source, *words)

    call = "void {0}(void); void run(void) {{ {0}(); }}".format
    absent = stand_in("libnvfitasks.so.13", "void nvFitasks(void) {}")
    below = compiled(root / "deep" / "libbelow.so", call("nvFitasks"), absent, "-Wl,-soname,libbelow.so")
    near = compiled(root / "near" / "libnear.so", "void near(void) {}", "-Wl,-soname,libnear.so")
    rpath = f"-Wl,--enable-new-dtags,-rpath,{near.parent}"
    origin = f"-Wl,-rpath,$ORIGIN/../{below.parent.name}"
    cuda = stand_in("libcuda.so.1", "void cuInit(void) {}")
    return dict(
        [
            kernel("good", call("TVMFFIEnvGetStream"), "-lm"),
            kernel("of the interpreter", call("PyLong_FromLong")),
            kernel("weak", "void nobody(void) __attribute__((weak)); void run(void) { if (nobody) nobody(); }"),
            kernel("tvm-ffi lacks it", call("TVMFFINoSuchThing")),
            kernel(
                "libstdc++ is too old",
                call("standing"),
                stand_in("libstdc++.so.6", "void standing(void) {}", "GLIBCXX_9.9"),
            ),
            kernel(
                "glibc is too old",
                call("standing"),
                stand_in("libc.so.6", "void standing(void) {}", "GLIBC_9.9"),
                "-nostdlib",
            ),
            kernel(
                "a version without a symbol",
                "void odd(void) __attribute__((weak)); void run(void) { if (odd) odd(); }",
                stand_in("libm.so.6", "void odd(void) {}", "GLIBC_9.8"),
                "-nostdlib",
            ),
            kernel(
                "the version is there",
                call("odd"),
                stand_in("libgcc_s.so.1", "void odd(void) {}", "GCC_3.0"),
                "-nostdlib",
            ),
            kernel("a library is missing", call("nvFitasks"), absent),
            kernel(
                "nvrtc", call("nvrtcCompileProgram"), stand_in("libnvrtc.so.13", "void nvrtcCompileProgram(void) {}")
            ),
            kernel("cublas", call("cublasCreate"), stand_in("libcublas.so.13", "void cublasCreate(void) {}")),
            kernel("a library's library is missing", call("run"), str(below), origin),
            kernel("beside it", call("near"), str(near), rpath),
            kernel("driver", call("cuInit"), cuda),
            kernel("driver and more", "void cuInit(void); void more(void); void run(void) { cuInit(); more(); }", cuda),
        ]
    )


REFUSED = {
    "tvm-ffi lacks it": (
        "tvm-ffi lacks it.so needs TVMFFINoSuchThing, which no library beside {process} has: compile it again, or "
        "install the apache-tvm-ffi that it was compiled with"
    ),
    "libstdc++ is too old": (
        "libstdc++ is too old.so needs GLIBCXX_9.9 of libstdc++.so.6, not in {libstdcxx}: compile where that "
        "library is as old as the server's"
    ),
    "glibc is too old": "glibc is too old.so needs GLIBC_9.9 of libc.so.6, not in {libc}: compile where",
    "a version without a symbol": "a version without a symbol.so needs GLIBC_9.8 of libm.so.6, not in {libm}: ",
    "the version is there": "the version is there.so needs odd, which no library beside {process} has",
    "a library is missing": (
        "a library is missing.so needs libnvfitasks.so.13, which the server's dynamic loader doesn't find ({process}): "
        "install a CUDA build of torch for {python}, or name the server's own interpreter as serving.python"
    ),
    "a library's library is missing": (
        "a library's library is missing.so needs libbelow.so, which the server's dynamic loader refuses: "
        "libnvfitasks.so.13: cannot open shared object file"
    ),
}
TAKEN = ("good", "of the interpreter", "weak", "beside it")


def test_every_prediction_is_the_loaders(world: World) -> None:
    """Whichever of the stand-ins' real libraries this machine has; but for the driver's, which may be missing."""
    names = [name for name in world.kernels if not name.startswith("driver")]
    assert {name: world.predicted(name).good for name in names} == {name: not world.said[name] for name in names}
    assert {name for name in names if world.said[name]} >= set(REFUSED)
    assert not any(world.said[name] for name in TAKEN)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(world: World, name: str) -> None:
    verdict = world.predicted(name)
    answer = world.session.loader.answer(Needs(), list)
    known = {key.partition(".")[0].replace("+", "x"): found.path for key, found in answer.libraries.items()}
    said = REFUSED[name].format(process=answer.process, python=sys.executable, **known)
    assert (verdict.state, verdict.reason[: len(said)]) == ("would fail", said)


def test_what_is_loaded_though_it_is_not_what_was_built_is_asked_of_too(world: World) -> None:
    """Its contents are one thing, and what the loader makes of it another."""
    refused = next(name for name, said in world.said.items() if said)
    taken = next(name for name, said in world.said.items() if not said)
    for state in ("outdated", "altered"):
        assert world.predicted(taken, state, "changed").state == state
        found = world.predicted(refused, state, "changed")
        assert found.state == "would fail"
        assert found.reason.endswith("; changed")


def test_one_process_is_asked_for_all_and_its_answer_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.predicted("tvm-ffi lacks it")
    world.session.loader.save()
    monkeypatch.setattr("fitasks.cuda.loader._ask", lambda *_: pytest.fail("asked again"))
    again = replace(world, session=session(world.root, list(world.kernels.values())))
    assert again.predicted("tvm-ffi lacks it") == before
    assert not again.predicted("glibc is too old").good


def test_a_library_that_was_replaced_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever decided the answer: here a directory of the loader's, a library that it found, and a variable."""
    world.session.loader.answer(Needs(("libm.so.6",)), list)
    world.session.loader.save()
    asked: list[str] = []

    def ask(*_: object) -> dict[str, str]:
        asked.append("again")
        return {"problem": "asked"}

    monkeypatch.setattr("fitasks.cuda.loader._ask", ask)
    memo = world.root / "loader.json"
    text = memo.read_text()
    found = world.session.loader.answer(Needs(("libm.so.6",)), list).libraries["libm.so.6"].path
    known = json.loads(text)["files"]
    for changed in (found, "/usr/lib"):
        memo.write_text(text.replace(f'"{changed}": {json.dumps(known[changed])}', f'"{changed}": [1, 2, 3, 4]'))
        assert session(world.root, []).loader.answer(Needs(("libm.so.6",)), list).problem == "asked"
    memo.write_text(text)
    assert session(world.root, [], LD_PRELOAD="").loader.answer(Needs(("libm.so.6",)), list).problem == "asked"
    assert not session(world.root, []).loader.answer(Needs(("libm.so.6",)), list).problem
    assert asked == ["again"] * 3


def test_where_it_lies_the_remedy_that_is_named_works(world: World) -> None:
    place = world.root / "site" / "nvidia" / "cu13" / "lib"
    compiled(place / "libnvfitasks.so.13", "void nvFitasks(void) {}", "-Wl,-soname,libnvfitasks.so.13")
    kernel = world.kernels["a library is missing"]
    reason = world.predicted("a library is missing").reason
    variable = f"LD_LIBRARY_PATH: {place} "
    assert f", or write {variable}below `serving: env:` in kernels.yaml" in reason
    with_it = replace(world, session=session(world.root, [kernel], LD_LIBRARY_PATH=str(place)))
    assert with_it.predicted("a library is missing").good
    command = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(kernel)]
    subprocess.run(command, env=env(LD_BIND_NOW="1", LD_LIBRARY_PATH=str(place)), check=True)


def test_the_driver_alone_may_be_missing(world: World) -> None:
    """It comes with the GPU; what else a kernel needs is looked for all the same."""
    made = session(world.root, list(world.kernels.values()))
    afresh = replace(world, session=made)
    assert provisos(made) == []
    assert afresh.predicted("driver").good
    assert afresh.predicted("driver and more").reason.startswith("driver and more.so needs more, which no library ")
    if world.said["driver"]:
        assert provisos(made) == ["the server has the driver's libcuda.so.1, which isn't here"]


def answered(problem: str, library: str = "libx.so.1") -> Answer:
    return Answer("", "torch 9", "0.1.16", {library: Opened("", problem)}, {"": frozenset()}, frozenset())


def test_what_needs_the_driver_itself_is_unknown_without_it() -> None:
    problem = "libcuda.so.1: cannot open shared object file: No such file or directory"
    said = refusal("page.so", Needs(("libx.so.1",)), answered(problem), str)
    assert said
    assert not said.certain
    assert said.sentence == "page.so needs libx.so.1, of which nobody can tell without the driver's libcuda.so.1"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("raise SystemExit(3)", "it ended without an answer (exit status 3)"),
        ("import os; os.kill(os.getpid(), 11)", "it ended without an answer (killed by signal 11)"),
        ("nonsense", "it ended without an answer (exit status 1): NameError: name 'nonsense' is not defined"),
    ],
)
def test_an_interpreter_that_cannot_answer_makes_it_unknown(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    """As where a library kills the process that loads it; asked once a run, and not remembered."""
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr("fitasks.cuda.loader.SCRIPT", tmp_path / "script.py")
    made = session(tmp_path, [])
    for _ in range(2):
        verdict = replace(world, session=made).predicted("good")
        assert verdict.state == "unknown"
        assert verdict.reason == f"the serving interpreter can't be asked what good.so would find: {why}"
    made.loader.save()
    assert json.loads((tmp_path / "loader.json").read_text())["answer"] is None


def test_an_interpreter_without_tvm_ffi(world: World, tmp_path: Path) -> None:
    (tmp_path / "tvm_ffi.py").write_text("raise ImportError('libtvm_ffi.so is torn')")
    made = session(tmp_path, [], PYTHONPATH=str(tmp_path))
    verdict = replace(world, session=made).predicted("good")
    assert (verdict.state, "ImportError: libtvm_ffi.so is torn" in verdict.reason) == ("unknown", True)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1}', '{"version": 1, "needs": {"x": 1}, "answer": 3}'])
def test_a_damaged_memo_is_an_empty_one(world: World, tmp_path: Path, damage: str) -> None:
    (tmp_path / "loader.json").write_text(damage)
    needs = Loader(Path(sys.executable), env(), tmp_path / "loader.json").needs(world.kernels["good"])
    assert "TVMFFIEnvGetStream" in needs.symbols
