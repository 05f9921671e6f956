"""The trial: ten lines of CUDA compiled, linked, loaded and, where there is a GPU, run, as FlashInfer would.

In a directory of its own that goes again, but where the kernels will lie: on that file system, and, where we may become
the server's user, as that user.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any

from fitasks.base import answers, temporary
from fitasks.base.doing import doing
from fitasks.compile.failure.diagnose import diagnose
from fitasks.doctor.finding import Finding
from fitasks.plan import planner
from fitasks.plan.caches import used
from fitasks.processes import interpreter
from fitasks.server.loadable import remedy
from fitasks.server.mounts import existing

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server
    from fitasks.server.user import User

SCRIPT = interpreter.SCRIPTS / "plan" / "trial.py"
_SECTION = "trial"
_ABSENT = re.compile(r"(\S+): cannot open shared object file")


def examine(server: Server, toolkit: Toolkit, target: str, user: User | None = None) -> list[Finding]:
    """One finding per step; the first that fails says what the compiler or the loader said."""
    where, identity = existing(used(server.env)), _identity(user)
    trying = f"trying out the compiler, with FlashInfer's flags for {target}"
    try:
        with doing(trying, after=0), temporary.directory("doctor", where) as directory:
            if identity:
                os.chown(directory, identity["user"], identity["group"])
            env = planner.environment(server, toolkit.home, target) | {"FLASHINFER_WORKSPACE_BASE": str(directory)}
            env.pop("FLASHINFER_DISABLE_JIT", None)
            what = "whether it can compile"
            answer = interpreter.ask(server.python, SCRIPT, answers.Trial, env, what, identity=identity)
    except interpreter.NoAnswer as error:
        return [Finding(_SECTION, "import", error.why, "problem", "doit env")]
    except OSError as error:
        problem = f"no file can be made in {where}: {error.strerror or error}"
        return [Finding(_SECTION, "where kernels lie", problem, "problem", "set FLASHINFER_WORKSPACE_BASE")]
    return _findings(answer, target, functools.partial(remedy, server, toolkit))


def _identity(user: User | None) -> dict[str, Any]:
    """What makes a child that user; nothing where we may not."""
    if user is None or os.geteuid():
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": sorted(user.groups)}


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
