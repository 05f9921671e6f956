"""Every CUDA toolkit that FlashInfer or fitasks might take, with what each lacks; and the one that is taken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.cuda.components import CORE, STUB, debian_packages, pip_command
from fitasks.cuda.survey import pip_versions
from fitasks.cuda.toolkit import Candidate, surveyed
from fitasks.errors import EnvironmentProblem
from fitasks.plan.plan import toolkit_of
from fitasks.runtime.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.cuda.probe import ProbeMemo
    from fitasks.cuda.survey import Hole, Survey
    from fitasks.cuda.toolkit import Toolkit
    from fitasks.plan.server import Server

_SECTION = "toolkit"

# What FlashInfer's modules include from the components that installations are known to lack.
HEADERS = frozenset({"cublasLt.h", "cublas_v2.h", "cuda_bf16.h", "cuda_fp8.h", "curand_kernel.h", "nvrtc.h"})
_CUDA_VERSION = re.compile(r"^#define CUDA_VERSION (\d+)", re.MULTILINE)


def examine(server: Server, probe: ProbeMemo) -> tuple[list[Finding], Toolkit | None]:
    """One finding per hole, one per toolkit without any, and which one is used; that one, if there is one."""
    findings: list[Finding] = []
    chosen = None
    try:
        chosen = toolkit_of(server, HEADERS, probe).toolkit
    except EnvironmentProblem as problem:
        findings.append(Finding(_SECTION, "used", problem.message, "problem", problem.remedy))
    for candidate, survey in surveyed(server.env, server.toolkit_places(), HEADERS, probe):
        findings += _candidate(candidate, survey, chosen)
    if chosen:
        findings.insert(0, _used(chosen))
    return findings, chosen


def _used(toolkit: Toolkit) -> Finding:
    return Finding(_SECTION, "used", f"{toolkit.home} ({toolkit.origin}), nvcc {toolkit.build}")


def _candidate(candidate: Candidate, survey: Survey, chosen: Toolkit | None) -> Iterator[Finding]:
    """Holes of a toolkit that isn't needed are notes: a server without `doit env` might still take it."""
    subject = str(candidate)
    if not survey.holes:
        yield Finding(_SECTION, subject, f"complete: {_versions(candidate, survey)}")
    for hole in survey.holes:
        yield Finding(
            _SECTION, subject, f"lacks {hole}", "note" if chosen else "problem", _remedy(candidate, survey, hole)
        )
    if survey.release and (headers := headers_release(candidate.home)) not in {"", survey.release}:
        value = f"its headers are of {headers}, its nvcc is of {survey.release}"
        yield Finding(_SECTION, subject, value, "problem", f"all parts of one release: {pip_command(())}")


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


def _remedy(candidate: Candidate, survey: Survey, hole: Hole) -> str:
    if candidate.origin == "pip":
        return pip_command({hole.component} - {STUB})
    packages = debian_packages({hole.component}, survey.release) if survey.release else ()
    return f"apt-get install {packages[0]}" if packages else pip_command({hole.component} - {STUB})
