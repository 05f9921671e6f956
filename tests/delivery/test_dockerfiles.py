"""What the two Dockerfiles refuse, and why: their own lines of shell, run here. `make test-image` builds them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fitasks.delivery.deliver import PLACES

ROOT = Path(__file__).parents[2]


def instructions(file: str, stage: str) -> list[str]:
    """Of one stage, each on one line, as docker reads them: no comments, no continuations."""
    text = re.sub(r"^#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    stages = re.split(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE)
    return [line for line in dict(zip(stages[1::2], stages[2::2], strict=True))[stage].splitlines() if line]


def command(file: str, stage: str, beginning: str) -> str:
    """The one command of a stage's RUN that begins so."""
    found = [line.removeprefix("RUN ") for line in instructions(file, stage) if line.startswith(f"RUN {beginning}")]
    assert len(found) == 1
    return found[0]


def sh(line: str, *, path: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    words = {"PATH": str(path or "/usr/bin:/bin"), **env}
    return subprocess.run(["/bin/sh", "-c", line], env=words, capture_output=True, text=True, check=False)


# ---- Dockerfile: a base that has an environment of its own


@pytest.mark.parametrize(
    "there", ["usr/local/lib/python3.12/dist-packages/torch", "opt/venv/lib/python3.12/site-packages/flashinfer"]
)
def test_a_base_with_an_engines_environment_is_refused(tmp_path: Path, there: str) -> None:
    line = command("Dockerfile", "base", "found=").replace("find / ", f"find {tmp_path} ")
    assert str(tmp_path) in line
    (tmp_path / "opt/venv/lib/python3.11/site-packages/pip").mkdir(parents=True)
    assert sh(line).returncode == 0, "an environment, but nothing in it that would be hidden"
    (tmp_path / there / "include").mkdir(parents=True)
    name = "vllm/vllm-openai:v0.33.0"
    refused = sh(line, RUNTIME_BASE=name)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines() == [
        f"RUNTIME_BASE={name} has an environment of its own: {tmp_path / there}",
        f"use the other Dockerfile: docker build -f Dockerfile.engine --build-arg ENGINE_IMAGE={name} .",
    ]


def test_the_base_is_looked_at_before_anything_is_compiled() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert stages[0] == ("${RUNTIME_BASE}", "base")
    assert ("base", "runtime") in stages


# ---- Dockerfile.engine: the image's Python, and what the image lacks


def image(tmp_path: Path, version: str = "3, 12, 3", modules: str = "torch flashinfer") -> Path:
    """A PATH with a python3 that says so, c++, and an apt-get that notes what it is asked for."""
    (bin_ := tmp_path / "bin").mkdir()
    site = tmp_path / "site"
    for name in modules.split():
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").touch()
    prelude = f"import sys; sys.path[:] = [{str(site)!r}, *sys.path[:3]]; sys.version_info = ({version}); "
    script = f"""code={shlex.quote(prelude)}; exec {sys.executable} -IS -c "$code$2"\n"""
    for name, text in {"python3": script, "c++": "", "apt-get": f'echo "$@" >> {tmp_path}/apt\n'}.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{text}")
        (bin_ / name).chmod(0o755)
    for name in ("mkdir", "rm"):
        (bin_ / name).symlink_to(f"/bin/{name}")
    return bin_


def prepare(tmp_path: Path, bin_: Path, **env: str) -> subprocess.CompletedProcess[str]:
    line = command("Dockerfile.engine", "compiler", "set -e").replace("/opt/fitasks", f"{tmp_path}/opt")
    line = line.replace("/var/lib/apt", f"{tmp_path}/apt-lists")
    return sh(line, path=bin_, **{"PYTHON": "python3", "PACKAGES": ""} | env)


def test_the_images_python_is_noted_and_nothing_installed(tmp_path: Path) -> None:
    bin_ = image(tmp_path)
    done = prepare(tmp_path, bin_)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "opt/python").read_text() == f"{bin_ / 'python3'}\n"
    assert not (tmp_path / "apt").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"PYTHON": "python9"}, "the image has no python9: --build-arg PYTHON=…"),
        ({"modules": "torch"}, "has no flashinfer: --build-arg PYTHON= the interpreter that runs the server"),
        ({"modules": "flashinfer"}, "has no torch: --build-arg PYTHON= the interpreter that runs the server"),
        ({"version": "3, 10, 12"}, "; fitasks needs 3.11"),
    ],
)
def test_an_image_that_wont_do(tmp_path: Path, said: dict[str, str], why: str) -> None:
    env = {"PYTHON": said.pop("PYTHON")} if "PYTHON" in said else {}
    done = prepare(tmp_path, image(tmp_path, **said), **env)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(why)


@pytest.mark.parametrize(
    ("has_compiler", "packages", "asked"),
    [
        (False, "", "g++"),
        (True, "libcublas-dev-12-9 libcurand-dev-12-9", "libcublas-dev-12-9 libcurand-dev-12-9"),
        (False, "python3-pip", "g++ python3-pip"),
    ],
)
def test_what_the_image_lacks_comes_from_apt(tmp_path: Path, has_compiler: bool, packages: str, asked: str) -> None:
    bin_ = image(tmp_path)
    if not has_compiler:
        (bin_ / "c++").unlink()
    done = prepare(tmp_path, bin_, PACKAGES=packages)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apt").read_text().splitlines()[-1] == f"install -yq --no-install-recommends {asked}"


# ---- what the two must have in common


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.engine"])
@pytest.mark.parametrize("wheels", [["fitasks_kernels-1-py3-none-any.whl"], []])
def test_an_image_goes_on_without_a_wheel(tmp_path: Path, file: str, wheels: list[str]) -> None:
    """Its hash is made by the builder's last words, and compared where the wheel, if there is one, is installed."""
    dist, opt, bin_ = tmp_path / "dist", tmp_path / "opt", tmp_path / "bin"
    for place in (dist / "engines", opt, bin_):
        place.mkdir(parents=True)
    for name in wheels:
        (dist / name).write_text("kernels")
    (built,) = [line for line in instructions(file, "builder") if "check --json dist/kernels.json" in line]
    assert sh(f"cd {tmp_path} && ({built.rpartition(' && (')[2]}").returncode == 0
    shutil.copy(dist / "wheel.sha256", opt)
    for name in ("pip", "python"):
        (bin_ / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
        (bin_ / name).chmod(0o755)
    (opt / "python").write_text(f"{bin_}/python\n")
    (line,) = [line for line in instructions(file, "runtime") if "target=/wheel" in line]
    put = re.sub(r"^RUN --mount=\S+ ", "", line).replace("/opt/fitasks", str(opt)).replace("cd /wheel", f"cd {dist}")
    done = sh(put.strip(), path=Path(f"{bin_}:/usr/bin:/bin"))
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().splitlines()[-1:] if wheels else []
    assert [words.split()[-1] for words in said] == wheels
    assert (tmp_path / "said").exists() == bool(wheels)


def test_both_end_with_the_gate_in_the_finished_image() -> None:
    ends = [instructions(file, "runtime")[-1] for file in ("Dockerfile", "Dockerfile.engine")]
    assert all(line.endswith("/opt/fitasks/ahead_of_time.py /opt/fitasks/kernels.json") for line in ends)
    assert ends[1].startswith('RUN "$(cat /opt/fitasks/python)" '), "by the image's own Python"


def test_the_engines_image_keeps_its_path_and_its_entry_point() -> None:
    """No ENTRYPOINT, CMD or WORKDIR of ours in it, and nothing on PATH unless COMPILERS asks for it."""
    kept = [line for line in instructions("Dockerfile.engine", "runtime") if not line.startswith(("RUN", "COPY"))]
    assert [line.split()[0] for line in kept] == ["USER", "ARG", "ARG", "ARG", "ENV", "USER"]
    (path,) = [word for line in kept for word in line.split() if word.startswith("PATH=")]
    assert path == "PATH=${COMPILERS:+/opt/engines/compilers/bin:}$PATH"
    assert "ARG COMPILERS=" in kept


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.engine"])
def test_what_no_wheel_can_hold_is_where_the_variables_say(file: str) -> None:
    """And the gate has the planner's scripts beside it, by which it asks the engines."""
    (built,) = [line for line in instructions(file, "builder") if "check --json dist/kernels.json" in line]
    assert re.search(r"&& (doit|fitasks) deliver ", built), "into dist/engines, by default"
    lines = instructions(file, "runtime")
    assert "COPY --from=builder /src/dist/engines /opt/engines" in lines
    assert "COPY --from=builder /src/fitasks/serving/plan/*.py /opt/fitasks/plan/" in lines
    (env,) = [line.split() for line in lines if line.startswith("ENV FLASHINFER_DISABLE_JIT")]
    assert f"FLASHINFER_WORKSPACE_BASE=/opt/engines/{PLACES['cute']}" in env
    assert f"TVM_FFI_CACHE_DIR=/opt/engines/{PLACES['sglang']}" in env
    assert f"SGLANG_JIT_CACHE_DIR=/opt/engines/{PLACES['sglang-keyed']}" in env
    assert sum("/opt/engines/compilers/bin:" in word for word in env) == 1
