"""The examples of docs/many-machines: each is what its tool takes, and together its machines compile everything once."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fitasks.compile.pool.shards import Shard
from tests.doit_project import ROOT

EXAMPLES = ROOT / "docs" / "many-machines"
COMPOSE = ROOT / "compose.yaml"
SLURM, JOB, WORKFLOW = (EXAMPLES / name for name in ("slurm.sh", "kubernetes.yaml", "github-actions.yml"))


def test_bash_and_shellcheck_take_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck isn't installed")
    done = subprocess.run([shellcheck, SLURM], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_kubernetes_takes_the_job() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(loaded(JOB), validate.latest_version(), strict=True)


def test_github_takes_the_workflow() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Those of the profile."""
    found = {name: one for name, one in loaded(COMPOSE)["services"].items() if "fleet" in one.get("profiles", ())}
    assert isinstance(found, dict)
    return found


def test_docker_takes_the_composition() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dask_takes_the_services_commands(services: dict[str, Any]) -> None:
    """As far as its own command line reads them, which starts nothing."""
    cli = pytest.importorskip("distributed.cli")
    for name in ("scheduler", "worker"):
        dask, kind, *words = services[name]["command"]
        assert (dask, kind) == ("dask", name)
        module = importlib.import_module(f"{cli.__name__}.dask_{name}")
        found = module.main.make_context(kind, words).params
        if name == "worker":
            assert found["scheduler"] == "tcp://scheduler:8786"
            (preloaded,) = found["preload"]
            hooks = vars(importlib.import_module(preloaded))
            assert {"dask_setup", "dask_teardown"} <= hooks.keys(), "what Dask calls"


def test_the_services_meet(services: dict[str, Any]) -> None:
    """By the scheduler's name and port; the asker and the workers share a cache, and no plan."""
    assert set(services) == {"scheduler", "worker", "fleet"}
    assert "--workers tcp://scheduler:8786 " in services["fleet"]["command"][-1]
    caches = {name: [one.split(":")[0] for one in services[name]["volumes"]] for name in ("worker", "fleet")}
    assert "kernels" in caches["worker"]
    assert "plan" not in caches["worker"]
    assert {"kernels", "plan"} <= set(caches["fleet"])
    assert all(services["scheduler"].get(key) is None for key in ("ports", "expose", "network_mode"))


def test_others_are_started_without_the_profile() -> None:
    found = loaded(COMPOSE)["services"]
    assert {name for name, one in found.items() if "profiles" not in one} == {"kernels", "server"}


def loaded(file: Path) -> dict[str, Any]:
    found = yaml.safe_load(file.read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with what the scripts want, and a fitasks that says what it was told, and where."""
    (tmp_path / "dodo.py").touch()
    (tmp_path / "kernels.yaml").touch()
    fitasks = tmp_path / "bin" / "fitasks"
    fitasks.parent.mkdir()
    fitasks.write_text(f'#!/bin/sh\n[ -e kernels.yaml ] && echo "$*" >> {tmp_path}/told\n')
    fitasks.chmod(0o755)
    return tmp_path


def run(command: list[Any], project: Path, **env: str) -> None:
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    subprocess.run(command, cwd=project, env={"HOME": str(project), "PATH": path, **env}, check=True)


def parts(project: Path) -> list[Shard]:
    found = [re.fullmatch(r"run --shard (\S+)", line) for line in (project / "told").read_text().splitlines()]
    return [Shard.of(one[1]) for one in found if one]


def whole(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(1, count + 1)]


def test_the_tasks_of_the_slurm_array_have_all_parts(project: Path) -> None:
    (numbers,) = re.findall(r"^#SBATCH --array=1-(\d+)$", SLURM.read_text(), re.MULTILINE)
    for number in range(1, int(numbers) + 1):
        run(["bash", SLURM], project, SLURM_ARRAY_TASK_ID=str(number), TMPDIR=str(project))
    assert parts(project) == whole(int(numbers))
    assert not list(project.glob("tmp.*")), "nothing is left where it compiled"


def test_the_pods_of_the_job_have_all_parts(project: Path) -> None:
    spec = loaded(JOB)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    for index in range(spec["completions"]):
        run(container["command"], project, JOB_COMPLETION_INDEX=str(index))
    assert parts(project) == whole(spec["completions"])


def test_the_jobs_of_the_matrix_have_all_parts(project: Path) -> None:
    job = loaded(WORKFLOW)["jobs"]["compile"]
    numbers = job["strategy"]["matrix"]["shard"]
    (line,) = (step["run"] for step in job["steps"] if "--shard" in step.get("run", ""))
    for number in numbers:
        values = {"matrix.shard": str(number), "strategy.job-total": str(len(numbers))}
        command = " ".join(values.get(word, word) for word in re.split(r"\$\{\{ (\S+) \}\}", line))
        run(["sh", "-ec", command.replace(" / ", "/")], project)
    assert parts(project) == whole(len(numbers))


def test_the_guide_names_every_example() -> None:
    text = (ROOT / "docs" / "many-machines.md").read_text()
    assert {name for _, name in re.findall(r"\]\((many-machines/(\S+))\)", text)} == {
        one.name for one in EXAMPLES.iterdir()
    }
