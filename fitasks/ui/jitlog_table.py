"""What `doit jitlog` says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.streams import show as _print
from fitasks.plan.caches import bases
from fitasks.plan.modules import toolchain_named
from fitasks.server import buildlog
from fitasks.server.jitlog import Covered, State, coverage, find_logs, is_compressed, read_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.graph.session import Session

_SILENT = " (FlashInfer 0.2.6 to 0.6.18 never does, nor any at a logging level above info)"


def show_jitlog(session: Session, files: Sequence[str]) -> bool:
    """Each module that a log names, and whether kernels.yaml covers it; whether it covers all that servers compiled.

    Raises EnvironmentProblem, also after the lines, where there is no plan to compare them with.
    """
    named = {os.path.realpath(file): Path(file) for file in files}
    logs = tuple(named.values()) or tuple(dict.fromkeys([*find_logs(bases(session.plan)), *_build_log(session)]))
    try:
        found = [one for log in logs for one in _read(session, log)]
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename}: {error.strerror}") from None
    for line in lines(found, logs):
        _print(line)
    if found and session.problem:
        raise EnvironmentProblem(f"coverage unknown: {session.problem.message}", remedy=session.problem.remedy)
    return not any(one.accuses for one in found)


def _build_log(session: Session) -> list[Path]:
    """Where the server's environment has FlashInfer note its builds."""
    path = Path(session.server.env.get(buildlog.VARIABLE) or "relative")
    return [path] if path.is_absolute() and path.is_file() else []


def _read(session: Session, log: Path) -> Sequence[Covered]:
    if is_compressed(log):
        raise EnvironmentProblem(
            f"{log} is compressed", remedy="name a file with what zcat (bzcat, xzcat, zstdcat) says"
        )
    logged = read_log(log)
    return (
        [Covered(one, "coverage unknown") for one in logged] if session.problem else coverage(logged, session.kernels)
    )


def lines(found: Sequence[Covered], logs: Sequence[Path]) -> Iterator[str]:
    """One log after the other, then the counts."""
    for log in logs:
        of_log = [one for one in found if one.logged.log == log]
        if of_log:
            yield f"{log}:"
            yield from (f"  {_line(one)}" for one in of_log)
    if not found:
        yield f"{len(logs)} logs; none names a module{_SILENT}"
        return
    counts = {state: sum(one.state == state for one in found) for state in get_args(State)}
    yield ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if counts["not covered"]:
        yield "`doit import_trace` of such a log adds what its names tell; a recorded trace tells everything"


def _line(one: Covered) -> str:
    logged = one.logged
    times = f" {logged.times} times" if logged.times > 1 else ""
    when = f", last {logged.last}" if logged.last else ""
    end = f", {logged.seconds:.1f} s" if logged.seconds else ""
    if logged.unended:
        end += ", and left no library" if logged.kind == "built" else f", {logged.unended} of them without an end"
    told = {
        "covered": f"covered by kernel:{one.label}",
        "another name": f"kernel:{one.label} is another variant of it: see `targets` and the FlashInfer version",
        "another target": f"kernel:{one.label} is the same module, but for another architecture set: see `targets`",
        "not covered": "not covered by kernels.yaml",
        "not nvcc's": f"not covered by precompilation ({toolchain_named(logged.name)})",
        "coverage unknown": "coverage unknown",
    }
    return f"{logged.name}: {logged.kind}{times} by a server{when}{end}; {told[one.state]}"
