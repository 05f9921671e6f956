"""The trial: ten lines of CUDA compiled, linked, loaded and, where there is a GPU, run, as FlashInfer would."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.build.diagnose import diagnose
from fitasks.plan import planner
from fitasks.runtime.doctor.finding import Finding
from fitasks.runtime.loadable import remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server

SCRIPT = planner.SCRIPT.parent / "trial.py"
_SECTION = "trial"
_ABSENT = re.compile(r"(\S+): cannot open shared object file")
_TIMEOUT = 300  # seconds; takes 10 to 15 on two cores


def examine(server: Server, toolkit: Toolkit, target: str) -> list[Finding]:
    """One finding per step; the first that fails says what the compiler or the loader said."""
    with tempfile.TemporaryDirectory(prefix="fitasks-doctor-") as directory:
        response = Path(directory, "response.json")
        env = planner.environment(server, toolkit.home, target) | {"FLASHINFER_WORKSPACE_BASE": directory}
        env.pop("FLASHINFER_DISABLE_JIT", None)
        command = [str(server.python), str(SCRIPT), str(response)]
        told = ""
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
            )
            told = done.stderr[-500:]
            answer: dict[str, Any] = json.loads(response.read_bytes())
        except subprocess.TimeoutExpired:
            return [Finding(_SECTION, "compile", f"not done within {_TIMEOUT} s", "problem")]
        except (OSError, ValueError) as error:
            return [Finding(_SECTION, "import", told or str(error), "problem", "doit env")]
    return _findings(answer, target, functools.partial(remedy, server, toolkit))


def _findings(answer: dict[str, Any], target: str, bring: Callable[[str], str]) -> list[Finding]:
    """`bring` says how a library comes into the loader's reach."""
    findings = [
        Finding(_SECTION, f"{step['name']} for {target}", f"{step['value']} ({step['seconds']} s)")
        for step in answer["steps"]
    ]
    if answer["failed"]:
        told = diagnose(answer["output"], 1)
        subject = f"{answer['failed']} for {target}"
        absent = _ABSENT.search(answer["output"]) if answer["failed"] == "load" else None
        advice = bring(absent[1]) if absent else told.hint or ""
        findings.append(Finding(_SECTION, subject, told.first_error, "problem", advice))
    return findings
