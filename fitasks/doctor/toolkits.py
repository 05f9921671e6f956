"""Every CUDA toolkit that FlashInfer or fitasks might take, with what each lacks; and the one that is taken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.components import CORE, STUB, install_command, pip_command
from fitasks.cuda.release import pip_release
from fitasks.cuda.survey import pip_versions
from fitasks.cuda.toolkit import Candidate, surveyed
from fitasks.doctor.finding import Finding, failure, kept
from fitasks.plan.choice import toolkit_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.cuda.capability import Commands
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.cuda.survey import Survey
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.doctor.finding import State
    from fitasks.plan.server import Server

_SECTION = "toolkit"

# What FlashInfer's modules include from the components that installations are known to lack.
HEADERS = frozenset({"cublasLt.h", "cublas_v2.h", "cuda_bf16.h", "cuda_fp8.h", "curand_kernel.h", "nvrtc.h"})
_CUDA_VERSION = re.compile(r"^#define CUDA_VERSION (\d+)", re.MULTILINE)


def examine(server: Server, probe: ProbeMemo, commands: Commands | None = None) -> tuple[list[Finding], Toolkit | None]:
    """Return a finding for the toolkit that is used and one for each that there is, and the one that is used."""
    chosen, used = None, []
    try:
        chosen = toolkit_of(server, HEADERS, probe, commands).toolkit
        used = [_used(chosen)]
    except (EnvironmentProblem, OSError) as problem:
        used = [failure(_SECTION, "used", problem)]
    return [*used, *kept("toolkits", _each(server, probe, chosen, commands), section=_SECTION)], chosen


def _each(server: Server, probe: ProbeMemo, chosen: Toolkit | None, commands: Commands | None) -> Iterator[Finding]:
    places = server.toolkit_places()
    release = pip_release(places)[0]
    for candidate, survey in surveyed(server.env, places, HEADERS, probe, commands):
        yield from _candidate(candidate, survey, chosen, release)


def _used(toolkit: Toolkit) -> Finding:
    return Finding(_SECTION, "used", f"{toolkit.home} ({toolkit.origin}), nvcc {toolkit.build}")


def _candidate(candidate: Candidate, survey: Survey, chosen: Toolkit | None, release: str) -> Iterator[Finding]:
    """Holes of a toolkit that isn't needed are notes: a server without `doit env` might still take it."""
    subject = str(candidate)
    state: State
    if survey.refuses:
        state = "problem" if chosen is None or chosen.build == survey.build else "note"
        newer = f"a newer toolkit: {pip_command((), release)}, and CUDA_HOME must not name this one"
        yield Finding(_SECTION, subject, str(survey), state, newer)
    elif not survey.holes:
        yield Finding(_SECTION, subject, f"complete: {_versions(candidate, survey)}")
    if survey.holes:
        state = "note" if chosen else "problem"
        yield Finding(_SECTION, subject, survey.lacks, state, _remedy(candidate, survey, release))
    if survey.release and (headers := headers_release(candidate.home)) not in {"", survey.release}:
        value = f"its headers are of {headers}, its nvcc is of {survey.release}"
        yield Finding(_SECTION, subject, value, "problem", f"all parts of one release: {pip_command((), release)}")


def _versions(candidate: Candidate, survey: Survey) -> str:
    """Side by side: nvcc, headers, nvvm, crt, libcudart, as far as each tells its version."""
    told = {"nvcc": survey.version, "headers": headers_release(candidate.home)}
    if candidate.origin == "pip":
        told |= {name: version for name, version in pip_versions(candidate.home).items() if name in CORE}
    if survey.cudart and (named := re.search(r"\.so\.(\d+\.\d+\.\d+)$", survey.cudart.name)):
        told["cudart"] = named[1]
    return ", ".join(f"{name} {version}" for name, version in told.items() if version)


def headers_release(home: Path) -> str:
    """The release ("13.0") from CUDA_VERSION (1000 * major + 10 * minor) in cuda.h; "" where there is none."""
    try:
        found = _CUDA_VERSION.search((home / "include" / "cuda.h").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else ""


def _remedy(candidate: Candidate, survey: Survey, release: str) -> str:
    missing = {hole.component for hole in survey.holes}
    pip = pip_command(missing - {STUB}, release)
    return pip if candidate.origin == "pip" else install_command(missing, candidate.home, survey.release) or pip
