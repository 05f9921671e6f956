"""Runs the planner, and scripts like it, as the doit process does: another interpreter, its environment, JSON files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.serving.flashinfer_wheels import directory_of

HERE = Path(__file__).resolve().parent
PLAN = HERE.parents[1] / "fitasks" / "serving" / "plan" / "plan.py"
_OWN = ("FLASHINFER_", "CUDA_", "NVCC_", "MAX_JOBS")


def fake_toolkit(directory: Path) -> Path:
    """A CUDA_HOME whose nvcc can only say its release: all that planning asks of a toolkit."""
    nvcc = directory / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    return directory


def environment(base: Path, version: str = "0.7.4", **more: str) -> dict[str, str]:
    """The environment of one target; nothing of the developer's own settings leaks in."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    paths = [str(HERE), *filter(None, [str(directory_of(version) or "")])]
    return {
        **clean,
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_HOME": str(fake_toolkit(base / "cuda")),
        "FLASHINFER_WORKSPACE_BASE": str(base),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        **more,
    }


def run(
    script: Path, request: Any, directory: Path, env: dict[str, str], python: str = sys.executable
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run a script with request (unless that is None) and response files in `directory`; what it said, its response."""
    directory.mkdir(parents=True, exist_ok=True)
    response = directory / "response.json"
    first = [request] if isinstance(request, str) else []
    if not first and request is not None:
        (directory / "request.json").write_text(json.dumps(request))
        first = [str(directory / "request.json")]
    words = [str(script), *first, str(response)]
    if python == sys.executable and warm.starts_alike(env):
        process = warm.run(warm.TORCH, words, directory, env)
    else:
        process = subprocess.run([python, *words], env=env, cwd=directory, capture_output=True, text=True, check=False)
    if not response.exists():
        pytest.fail(f"no response, exit status {process.returncode}:\n{process.stderr[-4000:]}")
    return process, json.loads(response.read_text())


def request_of(*kernels: tuple[str, dict[str, Any] | None], sm90: bool = True, **more: Any) -> dict[str, Any]:
    wanted = [{"id": index, "op": op, "params": params} for index, (op, params) in enumerate(kernels)]
    return {"version": 1, "sm90": sm90, "kernels": wanted, **more}
