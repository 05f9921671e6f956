"""What `doit jitlog` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from fitasks.base.wording import counted
from fitasks.plan.modules import toolchain_named
from fitasks.server.jitlog import Covered, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


_SILENT = " (FlashInfer 0.6 never does, nor any at a logging level above info)"


def lines(found: Sequence[Covered], logs: Sequence[Path]) -> Iterator[str]:
    """One log after the other, then the counts."""
    for log in logs:
        of_log = [one for one in found if one.logged.log == log]
        if of_log:
            yield f"{log}:"
            yield from (f"  {_line(one)}" for one in of_log)
    if not found:
        yield f"{counted(len(logs), 'log')}; none names a module{_SILENT}"
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
    if logged.without_library:
        end += ", and left no library"
    told = {
        "covered": f"covered by kernel:{one.label}",
        "another name": f"kernel:{one.label} is another variant of it: see `targets` and the FlashInfer version",
        "another target": f"kernel:{one.label} is the same module, but for another architecture set: see `targets`",
        "not covered": "not covered by kernels.yaml",
        "not nvcc's": f"not covered by precompilation ({toolchain_named(logged.name)})",
        "coverage unknown": "coverage unknown",
    }
    return f"{logged.name}: {logged.kind}{times} by a server{when}{end}; {told[one.state]}"
