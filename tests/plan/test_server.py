"""The serving environment as its own interpreter tells it: what it imports, from where, however that came there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.answers import Described
from fitasks.base.errors import EnvironmentProblem, NoCompiler
from fitasks.config.model import Config, Engine, Serving
from fitasks.cuda.probe import ProbeMemo
from fitasks.doctor.packages import examine
from fitasks.plan import choice
from fitasks.plan.server import UNKNOWN, Package, Server, as_imported, find_package, find_server
from fitasks.plan.target import Target
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION_PY = """\
try:
    from . import _build_meta
    __version__ = _build_meta.__version__
except ImportError:
    __version__ = "0.0.0+unknown"
"""


@dataclass
class Bench:
    """A virtual environment over an interpreter that has site-packages of its own."""

    root: Path
    site: Path
    base_site: Path
    state: Path

    def server(self, engine: Engine = "none", **env: str) -> Server:
        serving = Serving(python=str(self.root / "venv" / "bin" / "python"), engine=engine)
        config = Config("kernels.yaml", serving, ("9.0a",), sm90=True, cudart="patch", kernels=())
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.root / "home")}
        return find_server(config, ProbeMemo(self.state / "probe.json"), clean | env)

    def found(self, **env: str) -> tuple[str, str]:
        """Version of the FlashInfer that would be imported, and its directory."""
        server = self.server("none", **env)
        return server.version("flashinfer-python"), server.imported_from("flashinfer-python")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv over an interpreter of links, whose site-packages we may fill."""
    root = tmp_path_factory.mktemp("environment")
    base, name = root / "base", f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = base / "lib" / name
    library.mkdir(parents=True)
    for entry in Path(sysconfig.get_path("stdlib")).iterdir():
        if entry.name not in {"site-packages", "dist-packages"}:
            (library / entry.name).symlink_to(entry)
    (base / "bin").mkdir()
    (base / "bin" / name).symlink_to(Path(sys.executable).resolve())
    venv = root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(venv)], check=True)
    cfg = venv / "pyvenv.cfg"
    lines = [f"home = {base / 'bin'}" if line.startswith("home") else line for line in cfg.read_text().splitlines()]
    cfg.write_text("\n".join([*lines, ""]))
    return root


@pytest.fixture
def bench(environment: Path, tmp_path: Path) -> Bench:
    import shutil

    told = subprocess.run(
        [environment / "venv" / "bin" / "python", "-c", "import site; print(*site.getsitepackages(), sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    sites = [next(Path(one) for one in told if Path(one).is_relative_to(environment / at)) for at in ("venv", "base")]
    for site in sites:
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir(parents=True)
    site, base_site = sites
    return Bench(environment, site, base_site, tmp_path)


def install(site: Path, version: str, *, info: bool = True) -> Path:
    """FlashInfer as a wheel leaves it, or a copy of its package alone; `version` "" is a checkout."""
    package = site / "flashinfer"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("raise SystemExit('imported where nobody may import it')\n")
    (package / "version.py").write_text(VERSION_PY)
    if version:
        (package / "_build_meta.py").write_text(f'__version__ = "{version}"\n')
    if info and version:
        (site / f"flashinfer_python-{version}.dist-info").mkdir()
    return package


def test_a_wheel(bench: Bench) -> None:
    package = install(bench.site, "0.7.4")
    assert bench.found() == ("0.7.4", str(package))
    assert bench.server().site_directories[0] == bench.site


def test_a_venv_over_an_interpreter_that_has_it(bench: Bench) -> None:
    package = install(bench.base_site, "0.7.2")
    assert bench.found() == ("0.7.2", str(package))
    assert bench.base_site in bench.server().site_packages
    own = install(bench.site, "0.7.4")
    assert bench.found() == ("0.7.4", str(own)), "its own come first"


def test_a_copy_without_metadata_on_a_pth_file(bench: Bench, tmp_path: Path) -> None:
    package = install(tmp_path / "copy", "0.7.1", info=False)
    assert bench.found() == ("", "")
    (bench.site / "copy.pth").write_text(f"{package.parent}\n")
    assert bench.found() == ("0.7.1", str(package))


def test_a_checkout_before_a_wheel(bench: Bench, tmp_path: Path) -> None:
    install(bench.site, "0.7.2.post1")
    package = install(tmp_path / "checkout", "")
    assert bench.found() == ("0.7.2.post1", str(bench.site / "flashinfer"))
    assert bench.found(PYTHONPATH=str(package.parent)) == ("0.0.0+unknown", str(package))


def test_the_doctor_says_what_is_imported_and_from_where(bench: Bench, tmp_path: Path) -> None:
    install(bench.site, "0.7.2.post1")
    package = install(tmp_path / "checkout", "")
    for server, said in (
        (bench.server(), "0.7.2.post1"),
        (bench.server(PYTHONPATH=str(package.parent)), f"0.0.0+unknown, imported from {package}"),
    ):
        values = {found.subject: found.value for found in examine(server, None)}
        assert values["flashinfer-python"] == said


def test_an_editable_installation(bench: Bench, tmp_path: Path) -> None:
    """Its finder is a module that a .pth file imports; the metadata lies elsewhere than the package."""
    package = install(tmp_path / "src", "", info=False)
    (bench.site / "flashinfer_python-0.7.4.dist-info").mkdir()
    (bench.site / "__editable__.pth").write_text("import _editable_finder\n")
    (bench.site / "_editable_finder.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'flashinfer':\n"
        f"            return importlib.util.spec_from_file_location(name, {str(package / '__init__.py')!r})\n"
        "sys.meta_path.append(Finder)\n"
    )
    assert bench.found() == ("0.0.0+unknown", str(package))


def test_an_upgrade_in_place_is_seen(bench: Bench) -> None:
    """What the interpreter said is remembered; a version doesn't stand for contents there either."""
    package = install(bench.site, "0.7.2")
    assert bench.found()[0] == "0.7.2"
    (package / "_build_meta.py").write_text('__version__ = "0.7.2.post1"\n')
    assert bench.found()[0] == "0.7.2.post1"


def test_a_package_that_tells_no_version(bench: Bench) -> None:
    package = install(bench.site, "")
    (package / "version.py").unlink()
    assert bench.found()[0] == UNKNOWN
    (bench.site / "flashinfer_python-0.7.4.dist-info").mkdir()
    assert bench.found()[0] == "0.7.4"


def forbid_system(bench: Bench) -> None:
    cfg = bench.root / "venv" / "pyvenv.cfg"
    cfg.write_text(cfg.read_text().replace("include-system-site-packages = true", "include-system-site-packages = no"))


def allow_system(bench: Bench) -> None:
    cfg = bench.root / "venv" / "pyvenv.cfg"
    cfg.write_text(cfg.read_text().replace("include-system-site-packages = no", "include-system-site-packages = true"))


def test_a_changed_pyvenv_cfg_is_seen(bench: Bench) -> None:
    install(bench.base_site, "0.7.2")
    assert bench.found()[0] == "0.7.2"
    forbid_system(bench)
    try:
        assert bench.found() == ("", "")
    finally:
        allow_system(bench)
    assert bench.found()[0] == "0.7.2"


def test_it_is_asked_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    install(bench.site, "0.7.4")
    bench.server()
    monkeypatch.setattr("fitasks.processes.interpreter.ask", lambda *_, **__: pytest.fail("asked again"))
    assert bench.found()[0] == "0.7.4"
    (bench.state / "interpreter.json").write_text('{"key": [], "reads": 3}')
    with pytest.raises(pytest.fail.Exception):
        bench.server()


@pytest.mark.parametrize(
    ("version", "base"), [("0.5.17", ""), ("0.5.18", "/home/.cache/sglang"), ("", "/home/.cache/sglang")]
)
def test_sglangs_directory_goes_by_what_is_imported(bench: Bench, tmp_path: Path, version: str, base: str) -> None:
    """Also of a checkout on PYTHONPATH, in front of an installed one of another version."""
    package = tmp_path / "python" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    if version:
        (package / "version.py").write_text(f'__version__ = "{version}"\n')
    (bench.site / "sglang").mkdir()
    (bench.site / "sglang" / "__init__.py").write_text("")
    (bench.site / "sglang-0.5.17.dist-info").mkdir()
    found = bench.server("sglang", PYTHONPATH=str(package.parent)).env.get("FLASHINFER_WORKSPACE_BASE", "")
    assert found == (f"{bench.root}{base}" if base else "")


@pytest.mark.parametrize(
    ("engine", "env", "base"),
    [
        ("none", {}, None),
        ("vllm", {"SGLANG_CACHE_DIR": "/cache"}, None),
        ("sglang", {"SGLANG_CACHE_DIR": "/cache"}, "/cache"),
        ("sglang", {"SGLANG_CACHE_DIR": "/cache", "FLASHINFER_WORKSPACE_BASE": "/base"}, "/base"),
        ("vllm", {"FLASHINFER_WORKSPACE_BASE": "/base"}, "/base"),
    ],
)
def test_sglang_alone_moves_the_directory_and_only_where_it_is_not_set(
    bench: Bench, engine: Engine, env: dict[str, str], base: str | None
) -> None:
    assert bench.server(engine, **env).env.get("FLASHINFER_WORKSPACE_BASE") == base


def says(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(0o755)

    return write


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (says("#!/bin/sh\necho 'Fatal Python error: no encodings' >&2; exit 1\n"), "Fatal Python error: no encodings"),
        (says("#!/bin/sh\necho 3.11\n"), "3.11"),
    ],
)
def test_what_is_no_interpreter_says_so_itself(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "python")
    config = Config("kernels.yaml", Serving(python=str(tmp_path / "python")), ("9.0a",), True, "patch", ())
    with pytest.raises(EnvironmentProblem) as caught:
        find_server(config, ProbeMemo(tmp_path / "probe.json"))
    assert caught.value.message.startswith(
        f"{tmp_path / 'python'} can't say where it looks for packages: it ended without"
    )
    assert said in caught.value.message
    assert caught.value.remedy == interpreter.REMEDY


def test_a_script_that_starts_the_interpreter_is_looked_at(bench: Bench, tmp_path: Path) -> None:
    package = install(tmp_path / "checkout", "", info=False)
    script = tmp_path / "serving-python"
    real = bench.root / "venv" / "bin" / "python"

    def server() -> Server:
        config = Config("kernels.yaml", Serving(python=str(script)), ("9.0a",), True, "patch", ())
        return find_server(config, ProbeMemo(tmp_path / "probe.json"), {"PATH": os.environ["PATH"]})

    says(f'#!/bin/sh\nexec {real} "$@"\n')(script)
    assert server().version("flashinfer-python") == ""
    says(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {real} "$@"\n')(script)
    assert server().version("flashinfer-python") == "0.0.0+unknown"


# ---- what is made of an answer, and of what the configuration says; no interpreter is started


@dataclass
class Answering:
    """In place of the interpreter: `answer` is what it says; each question is kept, with its environment."""

    directory: Path
    answer: dict[str, Any]
    questions: list[tuple[Path, dict[str, str]]]

    def server(self, python: str = "", environ: dict[str, str] | None = None, **serving: Any) -> Server:
        config = Config("kernels.yaml", Serving(python=python, **serving), ("9.0a",), True, "patch", ())
        probe = ProbeMemo(self.directory / "probe.json")
        return find_server(config, probe, {"HOME": "/home/me", "PATH": "/usr/bin"} if environ is None else environ)

    def executable(self, name: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
        return path


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answering:
    empty = {"prefix": "/venv", "path": [], "site": [], "packages": {}}
    made = Answering(tmp_path, empty, [])

    def ask(
        python: Path, script: Path, shape: type[Any], env: dict[str, str], what: str, *, remedy: str
    ) -> dict[str, Any]:
        assert (script.name, shape, what) == ("describe.py", Described, "where it looks for packages")
        assert remedy == interpreter.REMEDY
        made.questions.append((python, dict(env)))
        return made.answer | {"reads": {"files": [], "looked": []}}

    monkeypatch.setattr("fitasks.processes.interpreter.ask", ask)
    return made


def test_what_an_interpreter_says_is_the_server(answering: Answering) -> None:
    python = answering.executable("bin/python")
    answering.answer = {
        "prefix": "/opt/venv",
        "path": ["/opt/more", "/opt/site"],
        "site": ["/opt/site"],
        "packages": {"torch": {"root": "/opt/site/torch", "version": "2.13.0"}},
    }
    server = answering.server(str(python), engine="vllm")
    torch = Package("torch", "2.13.0", "", "/opt/site/torch")
    assert server == Server(
        python,
        "vllm",
        Path("/opt/venv"),
        (Path("/opt/more"), Path("/opt/site")),
        {"HOME": "/home/me", "PATH": f"{python.parent}:/usr/bin"},
        (torch,),
        (Path("/opt/site"),),
    )
    assert (server.version("torch"), server.imported_from("torch")) == ("2.13.0", "/opt/site/torch")
    assert (server.version("vllm"), server.imported_from("vllm")) == ("", "")


@pytest.mark.parametrize("name", ["nothing", "a directory", "a text"])
def test_what_cannot_be_started_is_no_interpreter(answering: Answering, name: str) -> None:
    path = answering.directory / name
    if name == "a directory":
        path.mkdir()
    elif name == "a text":
        path.write_text("")
    with pytest.raises(EnvironmentProblem) as caught:
        answering.server(str(path))
    assert caught.value.message == f"kernels.yaml: serving.python: {path} is not an executable file"
    assert caught.value.remedy == (
        "name the server's interpreter, e.g. /opt/venv/bin/python, or leave it out for this one"
    )


def test_a_name_without_a_directory_is_looked_up_on_path(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    python = answering.executable("bin/python3.11")
    monkeypatch.setenv("PATH", str(python.parent))
    monkeypatch.chdir(python.parent)
    assert answering.server("python3.11").python == python
    with pytest.raises(EnvironmentProblem, match="python2 is not an executable file"):
        answering.server("python2")
    assert answering.server("./python3.11").python == Path("python3.11"), "a path is taken as it is written"


def test_an_image_names_its_python_whatever_kernels_yaml_says(answering: Answering) -> None:
    python = answering.executable("bin/python3.12")
    said = {"HOME": "/root", "PATH": "/usr/bin", "FITASKS_PYTHON": str(python)}
    assert answering.server("/opt/another/python", said).python == python
    with pytest.raises(EnvironmentProblem) as caught:
        answering.server(str(python), said | {"FITASKS_PYTHON": "/nowhere/python3"})
    assert caught.value.message == "FITASKS_PYTHON: /nowhere/python3 is not an executable file"
    assert answering.server(str(python), said | {"FITASKS_PYTHON": ""}).python == python, "an empty one says nothing"


@pytest.mark.parametrize("error", [EnvironmentProblem("no CUDA toolkit"), NoCompiler("no host compiler")])
def test_of_an_environment_with_nothing_the_interpreter_is_said(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, error: EnvironmentProblem
) -> None:
    """A small one of fitasks' own: a toolkit there would be of no use."""

    def none_is_there(*_: object) -> None:
        raise error

    monkeypatch.setattr(choice, "toolkit_of", none_is_there)
    python = answering.executable("bin/python")
    probe = ProbeMemo(answering.directory / "probe.json")
    with pytest.raises(EnvironmentProblem) as caught:
        choice.choice_of(answering.server(str(python)), {}, probe)
    assert caught.value.message == f"{python} has no FlashInfer"
    answering.answer["packages"] = {"flashinfer": {"root": "/opt/site/flashinfer", "version": "0.7.4"}}
    (answering.directory / "interpreter.json").unlink(missing_ok=True)
    with pytest.raises(EnvironmentProblem, match=error.message):
        choice.choice_of(answering.server(str(python)), {}, probe)


def test_without_a_name_it_is_the_one_that_runs_doit(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python` also where that is called `python3`, but not where it is another one."""
    python3 = answering.executable("bin/python3")
    monkeypatch.setattr(sys, "executable", str(python3))
    assert answering.server().python == python3, "there is no python"
    plain = python3.with_name("python")
    plain.symlink_to(python3)
    assert answering.server().python == plain
    plain.unlink()
    answering.executable("bin/python")
    assert answering.server().python == python3


def test_one_answer_is_remembered_of_one_interpreter_in_one_environment(answering: Answering) -> None:
    first, second = answering.executable("a/python"), answering.executable("b/python")
    link = answering.directory / "python"
    link.symlink_to(first)
    here: dict[str, str] = {"PATH": "/usr/bin"}
    for python, environ, times in (
        (first, here, 1),
        (first, here | {"FLASHINFER_LOGLEVEL": "3"}, 1),
        (first, here | {"PYTHONPATH": "/checkout"}, 2),
        (first, here | {"PYTHONPATH": ""}, 3),
        (first, here, 3),
        (link, here, 4),
        (second, here, 5),
        (link, here, 6),
    ):
        answering.server(str(python), environ)
        assert len(answering.questions) == times, (python, environ)
    link.unlink()
    link.symlink_to(second)
    answering.server(str(link), here)
    assert [python for python, _ in answering.questions] == [first, first, first, link, second, link, link]


@pytest.mark.parametrize(
    ("environ", "serving", "env"),
    [
        ({"PATH": "/usr/bin:/bin"}, {}, {"PATH": "{bin}:/usr/bin:/bin"}),
        ({"PATH": "/usr/bin:{bin}"}, {}, {"PATH": "/usr/bin:{bin}"}),
        ({"PATH": "/usr/bin:{bin}more"}, {}, {"PATH": "{bin}:/usr/bin:{bin}more"}),
        ({}, {}, {"PATH": f"{{bin}}:{os.defpath}"}),
        ({"PATH": ""}, {"PATH": "/mine"}, {"PATH": "/mine"}),
        ({"PATH": "{bin}", "A": "1", "B": "2"}, {"A": "3"}, {"PATH": "{bin}", "A": "3", "B": "2"}),
        ({"PATH": "{bin}", "MAKEFLAGS": "-j", "MFLAGS": "-j", "MAKELEVEL": "1"}, {}, {"PATH": "{bin}"}),
    ],
)
def test_the_environment_is_that_of_an_activated_one_without_makes(
    answering: Answering, environ: dict[str, str], serving: dict[str, str], env: dict[str, str]
) -> None:
    python = answering.executable("bin/python")

    def filled(texts: dict[str, str]) -> dict[str, str]:
        return {name: text.replace("{bin}", str(python.parent)) for name, text in texts.items()}

    server = answering.server(str(python), filled(environ), env=serving)
    assert server.env == filled(env)
    assert answering.questions == [(python, filled(env))], "in which it is asked, too"


@pytest.mark.parametrize("version", ["0.5.18", "0.6", "", "unknown"])
@pytest.mark.parametrize("engine", ["none", "vllm", "sglang"])
def test_only_a_server_of_sglang_has_its_directory(answering: Answering, engine: str, version: str) -> None:
    answering.answer["packages"] = {"sglang": {"root": "/x/sglang", "version": version}}
    env = answering.server(engine=engine).env
    assert env.get("FLASHINFER_WORKSPACE_BASE") == ("/home/me/.cache/sglang" if engine == "sglang" else None)


def test_which_variables_decide_what_a_module_is(answering: Answering) -> None:
    names = (
        *("CC", "CXX", "SGLANG_CACHE_DIR", "HOME", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONOPTIMIZE", "PYTHONPATH"),
        *("PYTHONUSERBASE", "FLASHINFER_WORKSPACE_BASE", "FLASHINFER_EXTRA_LDFLAGS", "SGLANG_JIT_CACHE_DIR"),
    )
    quiet = (
        *("PATH", "CUDA_HOME", "MY_FLASHINFER_", "FLASHINFER", "FLASHINFER_CUDA_ARCH_LIST", "FLASHINFER_LOGGING_LEVEL"),
        *("FLASHINFER_LOGLEVEL", "FLASHINFER_LOGDEST", "FLASHINFER_DISABLE_JIT", "FLASHINFER_DISABLE_SM90"),
        *("FLASHINFER_DISABLE_EAGLE_VERIFY_FP8KV_SM90", "SGLANG_JIT_FORCE_RECOMPILE"),
    )
    deciding = {name: f"/{name}" for name in names}
    found = answering.server(environ=deciding | dict.fromkeys(quiet, "1")).relevant_environment()
    assert found == deciding
    assert list(found) == sorted(deciding), "in one order, as it is part of a plan's key"


def test_a_toolkit_may_lie_with_the_servers_packages_or_with_ours(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering.answer["path"] = ["/server/site-packages", "/both/site-packages"]
    monkeypatch.setattr(
        sys, "path", ["", "/ours/lib", "/ours/site-packages", "/both/site-packages", "/ours/dist-packages"]
    )
    assert answering.server().toolkit_places() == tuple(
        map(Path, ("/server/site-packages", "/both/site-packages", "/ours/site-packages", "/ours/dist-packages"))
    )


def test_planning_tells_the_versions_that_were_really_imported(answering: Answering) -> None:
    names = {"flashinfer": "0.7.4", "torch": "2.13.0", "tvm_ffi": "0.1.16", "vllm": "0.19"}
    answering.answer["packages"] = {name: {"root": f"/x/{name}", "version": said} for name, said in names.items()}
    server = answering.server()
    target = Target("90a", Path("/w"), Path("/x/flashinfer"), Path("/cuda"), "0.7.5", "2.14.0", "0.1.17")
    after = as_imported(server, {"9.0a": target, "8.0": replace(target, flashinfer="9")})
    assert {one.name: (one.version, one.root) for one in after.packages} == {
        "flashinfer-python": ("0.7.5", "/x/flashinfer"),
        "torch": ("2.14.0", "/x/torch"),
        "apache-tvm-ffi": ("0.1.17", "/x/tvm_ffi"),
        "vllm": ("0.19", "/x/vllm"),
    }
    assert replace(after, packages=server.packages) == server
    assert as_imported(server, {}) == server


def test_a_module_without_a_version_has_that_of_the_metadata_beside_it(answering: Answering) -> None:
    (answering.directory / "site" / "vllm-0.19.dist-info").mkdir(parents=True)
    root = answering.directory / "site" / "vllm"
    answering.answer["packages"] = {
        "vllm": {"root": str(root), "version": ""},
        "sglang": {"root": str(root.with_name("sglang")), "version": ""},
        "numpy": {"root": "/x/numpy", "version": "2"},
    }
    assert [(one.name, one.version, one.digest) for one in answering.server().packages] == [
        ("sglang", UNKNOWN, ""),
        ("vllm", "0.19", ""),
    ]


# ---- distributions on a path


def installed(site: Path, name: str, **files: str) -> Path:
    info = site / f"{name}.dist-info"
    info.mkdir(parents=True)
    for file, text in files.items():
        (info / file).write_text(text)
    return info


def test_kernels_that_are_installed_count_as_packages(answering: Answering) -> None:
    first, second = answering.directory / "first", answering.directory / "second"
    for site, name in (
        (first, "flashinfer_jit_cache_sm90a-0.7.4+cu130"),
        (second, "flashinfer_jit_cache_sm80-0.7.4"),
        (second, "flashinfer_jit_cache_sm90a-0.7.3"),
        (second, "flashinfer_jit_cache-0.7.4"),
        (first, "fitasks_kernels-1.2"),
        (first, "flashinfer_cubin-0.7.4"),
    ):
        installed(site, name, RECORD=name)
    answering.answer["path"] = [str(first), str(second)]
    assert [(one.name, one.version) for one in answering.server().packages] == [
        ("flashinfer-jit-cache", "0.7.4"),
        ("fitasks-kernels", "1.2"),
        ("flashinfer_jit_cache_sm80", "0.7.4"),
        ("flashinfer_jit_cache_sm90a", "0.7.4+cu130"),
    ]


def test_a_package_is_told_by_its_record(tmp_path: Path) -> None:
    assert find_package("some-package", (tmp_path, tmp_path / "nowhere")) is None
    info = installed(tmp_path, "some_package-1.0", RECORD="a,sha256=1,1\n", METADATA="Name: some-package\n")
    record = hashlib.sha256(b"a,sha256=1,1\n").hexdigest()[:16]
    assert find_package("some-package", (tmp_path / "nowhere", tmp_path)) == Package("some-package", "1.0", record)
    (info / "RECORD").unlink()
    metadata = hashlib.sha256(b"Name: some-package\n").hexdigest()[:16]
    assert find_package("some-package", (tmp_path,)) == Package("some-package", "1.0", metadata)
    (info / "METADATA").unlink()
    assert find_package("some-package", (tmp_path,)) == Package("some-package", "1.0", "")


def rewrite_at(path: Path, text: str, ns: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(ns, ns))


@pytest.mark.parametrize(
    "file",
    [
        "fitasks-kernels.pth",
        "fitasks_kernels/__init__.py",
        "fitasks_kernels/manifest.json",
        "fitasks_kernels/receipts.json",
        "fitasks_kernels/shim/flashinfer_jit_cache/__init__.py",
        "fitasks_kernels-1.0.dist-info/entry_points.txt",
    ],
)
def test_our_kernels_are_also_told_by_the_files_that_flashinfer_finds_them_by(tmp_path: Path, file: str) -> None:
    installed(tmp_path, "fitasks_kernels-1.0", RECORD="r")
    installed(tmp_path, "other-1.0", RECORD="r")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    digests, others = [], set()
    for change in (
        lambda: None,
        lambda: path.write_text("one"),
        lambda: os.utime(path, ns=(5, 5)),
        lambda: os.utime(path, ns=(6, 6)),
        lambda: rewrite_at(path, "three", 6),
        path.unlink,
    ):
        change()
        found, other = find_package("fitasks-kernels", (tmp_path,)), find_package("other", (tmp_path,))
        assert found
        assert other
        digests.append(found.digest)
        others.add(other.digest)
    assert len(set(digests)) == 5, "each change tells"
    assert digests[0] == digests[-1]
    assert {len(digest) for digest in digests} == {32}
    assert others == {hashlib.sha256(b"r").hexdigest()[:16]}
