"""Which variables of the builder's environment a server must have too: told by the installed packages' own sources."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.cudart import Cudart
from fitasks.graph.session import Session
from fitasks.plan.server import Package, Server
from fitasks.server import buildlog
from fitasks.server.conditions import conditions
from fitasks.server.exports import export_lines, exports
from fitasks.server.variables import in_choices, in_commands, package, read_by_nobody, variables_of_commands
from fitasks.server.verdict import Verdict
from tests.cuda.fake_toolkit import put
from tests.sessions import NO_CUDART, session_of
from tests.workshop import Workshop

AHEAD = Verdict("page", "page", "9.0a", "ahead-of-time")

_CPP_EXT = """
def parse_env_flags(env_var_name):
    return os.environ.get(env_var_name)

def flags():
    env_extra = parse_env_flags("FLASHINFER_EXTRA_CUDAFLAGS")
    name = "FLASHINFER_NVCC_THREADS"
    return os.environ.get(name), os.environ["CXX"], os.getenv('CC'), "FLASHINFER_LINEINFO" in os.environ
"""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A site-packages with a FlashInfer whose sources read some variables."""
    root = tmp_path / "site" / "flashinfer"
    put(root / "__init__.py", "SHOWN = {'FLASHINFER_JIT_DIR': FLASHINFER_JIT_DIR}\n")
    put(root / "jit" / "cpp_ext.py", _CPP_EXT)
    put(root / "jit" / "env.py", "os.getenv(\n    'FLASHINFER_WORKSPACE_BASE', home())\nos.environ.get('MAX_JOBS')\n")
    put(root / "norm.py", "USE = os.environ.get('FLASHINFER_USE_CUDA_NORM', '0') == '1'\n")
    put(root / "data" / "csrc" / "moe.cu", 'static bool v = std::getenv("FLASHINFER_MOE_LOG");\n')
    return Server(tmp_path / "python", "none", tmp_path, (tmp_path / "site",), {"HOME": str(tmp_path)}, ())


def with_env(server: Server, **env: str) -> Server:
    return replace(server, env=server.env | env)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CC", "gcc"),
        ("CXX", "g++"),
        ("FLASHINFER_EXTRA_CUDAFLAGS", "-g -DX='a b'"),
        ("FLASHINFER_NVCC_THREADS", "4"),
        ("FLASHINFER_LINEINFO", "1"),
        ("FLASHINFER_WORKSPACE_BASE", "/srv/cache"),
    ],
)
def test_what_is_part_of_the_commands(server: Server, name: str, value: str) -> None:
    assert in_commands(with_env(server, **{name: value})) == {name: value}


@pytest.mark.parametrize("name", ["FLASHINFER_NVCC_LAUNCHER", "MAX_JOBS", "CUDA_HOME", "FLASHINFER_LOGLEVEL", "LANG"])
def test_what_this_flashinfer_does_not_read_or_is_no_part_of_them(server: Server, name: str) -> None:
    assert in_commands(with_env(server, **{name: "1"})) == {}


def test_without_its_source_every_variable_of_flashinfers_counts(server: Server) -> None:
    bare = replace(with_env(server, CC="gcc", FLASHINFER_NVCC_LAUNCHER="ccache", LANG="C"), site_packages=())
    assert in_commands(bare) == {"CC": "gcc", "FLASHINFER_NVCC_LAUNCHER": "ccache"}


def test_what_decides_which_module_is_loaded(server: Server) -> None:
    found = with_env(server, FLASHINFER_USE_CUDA_NORM="1", CC="gcc", FLASHINFER_JIT_DIR="/x")
    assert in_choices(found) == {"FLASHINFER_USE_CUDA_NORM": "1"}


def test_python_path_where_flashinfer_comes_from_it(server: Server, tmp_path: Path) -> None:
    assert in_commands(with_env(server, PYTHONPATH=str(tmp_path))) == {}
    given = {"PYTHONPATH": f"{tmp_path}:{tmp_path / 'site'}"}
    assert in_commands(with_env(server, **given)) == given


def test_what_sglang_sets_by_itself_is_not_asked_of_its_server(server: Server) -> None:
    sglang = replace(server, engine="sglang")
    own = with_env(sglang, FLASHINFER_WORKSPACE_BASE=f"{sglang.env['HOME']}/.cache/sglang")
    assert in_commands(own) == {}
    moved = {"SGLANG_CACHE_DIR": "/srv/sglang"}
    assert in_commands(with_env(sglang, FLASHINFER_WORKSPACE_BASE="/srv/sglang", **moved)) == moved
    assert in_commands(with_env(sglang, FLASHINFER_WORKSPACE_BASE="/x")) == {"FLASHINFER_WORKSPACE_BASE": "/x"}


def test_what_nobody_reads(server: Server, tmp_path: Path) -> None:
    names = (
        "JIT_DIR",
        "JIT_THREADS",
        "USE_CUDA_NORM",
        "NVCC_THREADS",
        "MOE_LOG",
        "LOGLEVEL",
        "VLLM_ONE",
        "DISABLE_SM90",
    )
    given = with_env(server, **{f"FLASHINFER_{name}": "1" for name in names})
    assert read_by_nobody(given) == ["FLASHINFER_JIT_DIR", "FLASHINFER_JIT_THREADS", "FLASHINFER_VLLM_ONE"]
    put(tmp_path / "site" / "vllm" / "__init__.py", 'os.environ["FLASHINFER_VLLM_ONE"]\n')
    assert read_by_nobody(given) == ["FLASHINFER_JIT_DIR", "FLASHINFER_JIT_THREADS"]
    assert read_by_nobody(replace(given, site_packages=())) == [], "where nothing can be read, nothing is claimed"


def test_the_installed_flashinfer_is_understood(flashinfer: Path) -> None:
    """Would notice a FlashInfer that reads its variables in a way that isn't seen here."""
    expected = {"CC", "CXX", "FLASHINFER_NVCC", "FLASHINFER_NVCC_THREADS", "FLASHINFER_WORKSPACE_BASE"}
    expected |= {f"FLASHINFER_EXTRA_{name}" for name in ("CFLAGS", "CUDAFLAGS", "LDFLAGS")}
    expected |= {f"FLASHINFER_{name}_LAUNCHER" for name in ("CXX", "NVCC")}
    expected |= {f"FLASHINFER_JIT_{name}" for name in ("DEBUG", "VERBOSE", "LINEINFO")}
    read = variables_of_commands(flashinfer)
    assert expected <= read
    assert not {"FLASHINFER_JIT_DIR", "FLASHINFER_CACHE_DIR", "FLASHINFER_JIT_THREADS"} & read


def session(workshop: Workshop, server: Server, **changes: Any) -> Session:
    plan = workshop.plan()
    env = {"HOME": "/h", "CUDA_HOME": str(plan.toolkit.home), "PATH": str(workshop.ninja.executable.parent)}
    target = replace(workshop.target(), root=server.site_packages[0] / "flashinfer", workspace=Path("/cache"))
    plan = replace(plan, server=with_env(server, **env), targets={"9.0a": target}, **changes)
    return session_of(plan, ninja=workshop.ninja)


@pytest.fixture
def own_path(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workshop.ninja.executable.parent))


@pytest.mark.usefixtures("own_path")
def test_a_ninja_that_every_shell_finds_needs_no_line(
    workshop: Workshop, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "ninja").chmod(0o755)
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    plan = session(workshop, server).plan
    assert "PATH" not in exports(plan, tmp_path)
    assert "PATH" in exports(plan, workshop.ninja.executable.parent)


@pytest.mark.usefixtures("own_path")
def test_check_names_them_and_env_prints_them(workshop: Workshop, server: Server) -> None:
    given = {"CC": "gcc", "CXX": "g++", "FLASHINFER_EXTRA_CUDAFLAGS": "-g -DX"}
    made = session(workshop, with_env(server, **given))
    without = "FlashInfer reads them: otherwise it would look elsewhere or compile again"
    listed = "CC=gcc, CXX=g++, FLASHINFER_EXTRA_CUDAFLAGS='-g -DX'"
    assert conditions(made) == [f"the server has {listed} as here ({without}); `doit env` prints the lines"]
    printed = printed_by(made)
    assert f"export PATH={workshop.ninja.executable.parent}:$PATH" in printed, "activated here, and not everywhere"
    assert {"export CC=gcc", "export CXX=g++", "export FLASHINFER_EXTRA_CUDAFLAGS='-g -DX'"} <= set(printed)
    assert conditions(made, [AHEAD]) == [], "nothing is compiled"


@pytest.mark.usefixtures("own_path")
def test_what_serving_env_says_is_the_servers_own(workshop: Workshop, server: Server) -> None:
    made = session(workshop, with_env(server, CC="gcc"))
    config = made.plan.config
    own = replace(config, serving=replace(config.serving, env={"CC": "gcc"}))
    made._plan = replace(made.plan, config=own)
    assert conditions(made) == []
    assert exports(made.plan, workshop.ninja.executable.parent)["CC"] == "gcc"


HOSTILE = [
    "/usr/bin:/bin; touch ran; : $(touch ran)",
    "`touch ran`",
    "a'; touch ran; '",
    "/opt/my tools/bin:$HOME",
    "a\ntouch ran\n",
]


@pytest.mark.usefixtures("own_path")
@pytest.mark.parametrize("value", HOSTILE)
def test_a_shell_that_evaluates_the_lines_runs_nothing(
    workshop: Workshop, server: Server, tmp_path: Path, value: str
) -> None:
    """Of serving.env, of the environment (a variable of any name), of directories, and of an engine's version."""
    asks = vllm(server, FLASHINFER_WORKSPACE_BASE=value, CC=value, **{f"FLASHINFER_A;{value}": "1"})
    renamed = next(server.site_packages[0].glob("vllm-*.dist-info"))
    if "/" not in value:
        renamed.rename(renamed.with_name(f"vllm-0\n{value}.dist-info"))
    made = session(workshop, asks)
    put(server.site_packages[0] / "flashinfer" / "jit" / "core.py", f'os.environ["{buildlog.VARIABLE}"]')
    targets = {"9.0a": replace(made.plan.first, workspace=Path("/cache", value))}
    config = made.plan.config
    config = replace(config, serving=replace(config.serving, env={"PATH": value, "OWN": value}))
    made._plan = replace(made.plan, config=config, targets=targets)
    printed = "\n".join(printed_by(made))
    assert printed.count(buildlog.VARIABLE) == 1
    names = ("OWN", "PATH", "CC", "FLASHINFER_WORKSPACE_BASE")
    shown = "; ".join(f'printf "%s\\0" "${name}"' for name in names)
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", f'eval "$1"; {shown}', "sh", printed], cwd=tmp_path / "empty", capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[:-1] == [value] * len(names)
    assert not [*(tmp_path / "empty").iterdir()]
    assert done.stderr == b""


def test_another_ninja_first_on_path(
    workshop: Workshop, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (told,) = conditions(session(workshop, server))
    ours = f"the server has {workshop.ninja.executable.parent} first on PATH, for its ninja"
    assert told == f"{ours} (without it there is none); `doit env` prints the line"
    other = put(tmp_path / "bin" / "ninja", "#!/bin/sh\necho 1.11.1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    (told,) = conditions(session(workshop, server))
    assert told == f"{ours} ({other} is 1.11.1 and would compile again); `doit env` prints the line"


@pytest.mark.usefixtures("own_path")
def test_a_libcudart_that_only_this_shell_leads_to(workshop: Workshop, server: Server) -> None:
    made = session(workshop, with_env(server, LD_LIBRARY_PATH="/opt/x:/opt/cuda/lib64"))
    found = Cudart("/opt/cuda/lib64/libcudart.so.13", "/opt/cuda/lib64/libcudart.so.13.0.96")
    made.runtime = replace(NO_CUDART, loaded=found)
    assert conditions(made) == ["the server has /opt/cuda/lib64 in LD_LIBRARY_PATH, where libcudart.so.13 is found"]
    found = Cudart("/site/nvidia/libcudart.so.13", "/site/nvidia/libcudart.so.13")
    made.runtime = replace(NO_CUDART, loaded=found)
    assert conditions(made) == []


# ---- the engines' own conditions

_VLLM = '''
def _path():
    return shutil.which(os.path.join(os.environ.get("CUDA_HOME"), "bin", "nvcc"))

def has_flashinfer_cubin():
    return envs.VLLM_HAS_FLASHINFER_CUBIN

def has_flashinfer() -> bool:
    """Says nvcc."""
    return has_flashinfer_cubin() or {test}
'''


def vllm(server: Server, test: str = "_path() is not None", **env: str) -> Server:
    site = server.site_packages[0]
    put(site / "vllm" / "__init__.py", "")
    put(site / "vllm" / "utils" / "flashinfer.py", _VLLM.replace("{test}", test))
    (site / "vllm-0.33.0.dist-info").mkdir(exist_ok=True)
    return replace(with_env(server, **env), engine="vllm", packages=(Package("vllm", "0.33.0", ""),))


def printed_by(made: Any) -> list[str]:
    return [*export_lines(made.plan, made.ninja.executable.parent)]


WANTED = (
    "the server has VLLM_HAS_FLASHINFER_CUBIN=1 (without it, and without nvcc, vLLM 0.33.0 leaves FlashInfer unused in "
    "places)"
)


@pytest.mark.usefixtures("own_path")
def test_vllm_wants_nvcc_or_to_be_told(workshop: Workshop, server: Server) -> None:
    made = session(workshop, vllm(server))
    assert conditions(made)[-1:] == [WANTED], "no nvcc in this CUDA_HOME"
    put(made.plan.toolkit.home / "bin" / "nvcc").chmod(0o755)
    assert conditions(made) == []
    assert conditions(made, [AHEAD]) == [WANTED], "what is delivered needs no nvcc, and may have none"
    line = "export VLLM_HAS_FLASHINFER_CUBIN=1"
    assert f"# vLLM 0.33.0, where there is no nvcc: {line}" in printed_by(made)
    made.plan.server.env["FLASHINFER_DISABLE_JIT"] = "1"
    assert line in printed_by(made)
    made.problem = EnvironmentProblem("no toolkit")
    assert conditions(made, [AHEAD]) == [WANTED], "a host that only serves"


@pytest.mark.usefixtures("own_path")
@pytest.mark.parametrize("case", ["told", "cubin", "asks nothing", "another engine", "not installed"])
def test_vllm_where_nothing_is_wanted(workshop: Workshop, server: Server, tmp_path: Path, case: str) -> None:
    found = vllm(server, "True" if case == "asks nothing" else "_path() is not None")
    if case == "told":
        found = with_env(found, VLLM_HAS_FLASHINFER_CUBIN="1")
    elif case == "cubin":
        put(tmp_path / "site" / "flashinfer_cubin" / "__init__.py")
    elif case == "another engine":
        found = replace(found, engine="sglang")
    elif case == "not installed":
        (tmp_path / "site" / "vllm" / "utils" / "flashinfer.py").unlink()
    assert conditions(session(workshop, found), [AHEAD]) == []


def test_packages_are_found_where_an_import_finds_them(server: Server, tmp_path: Path) -> None:
    put(tmp_path / "first" / "flashinfer" / "__init__.py")
    both = replace(server, site_packages=(tmp_path / "first", *server.site_packages))
    assert package(both, "flashinfer") == tmp_path / "first" / "flashinfer"
