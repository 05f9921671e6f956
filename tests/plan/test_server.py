"""The serving environment as its own interpreter tells it: what it imports, from where, however that came there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.model import Config, Serving
from fitasks.cuda.probe import ProbeMemo
from fitasks.doctor.packages import examine
from fitasks.plan.server import UNKNOWN, find_server
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.plan.server import Server

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

    def server(self, engine: str = "none", **env: str) -> Server:
        serving = Serving(python=str(self.root / "venv" / "bin" / "python"), engine=engine)
        config = Config("kernels.yaml", serving, ("9.0a",), sm90=True, cudart="patch", kernels=())
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.root / "home")}
        return find_server(config, ProbeMemo(self.state / "probe.json"), clean | env)

    def found(self, **env: str) -> tuple[str, str]:
        """Version of the FlashInfer that would be imported, and its directory."""
        server = self.server(**env)
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
    return Bench(environment, *sites, tmp_path)


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
    bench: Bench, engine: str, env: dict[str, str], base: str | None
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
