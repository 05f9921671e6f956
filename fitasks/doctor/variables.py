"""The variables of this environment that FlashInfer reads, and those that it is believed to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.environment import problems
from fitasks.doctor.finding import Finding
from fitasks.server.variables import in_choices, in_commands, read_by_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.server import Server

_SECTION = "serving environment"
_DEBUG = ("FLASHINFER_JIT_DEBUG", "FLASHINFER_JIT_VERBOSE")


def examine(server: Server) -> Iterator[Finding]:
    """Each that is part of FlashInfer's commands, what can't work, and what nobody reads."""
    env = server.env
    for name, value in (in_commands(server) | in_choices(server)).items():
        remedy = "the server must have the same value, or it looks elsewhere or compiles again (`doit env`)"
        if problem := next((one for one in problems({"HOME": "/"} | {name: value})), None):
            yield Finding(_SECTION, name, problem.message, "problem", problem.remedy)
        elif not (value == "1" and name in _DEBUG):
            yield Finding(_SECTION, name, value, "note", remedy)
    yield from _unread(server)
    if env.get("FLASHINFER_JIT_DEBUG", env.get("FLASHINFER_JIT_VERBOSE")) == "1":
        name = next(name for name in _DEBUG if name in env)
        remedy = f"unset {name}, or set FLASHINFER_JIT_DEBUG=0: FLASHINFER_JIT_VERBOSE alone turns on debug flags too"
        yield Finding(_SECTION, name, "1: kernels are compiled for debugging (-O0 -G)", "problem", remedy)
    if env.get("FLASHINFER_DISABLE_JIT"):
        remedy = "doit wheel && doit install, or unset it"
        yield Finding(_SECTION, "FLASHINFER_DISABLE_JIT", "only ahead-of-time modules are loaded", "note", remedy)


def _unread(server: Server) -> Iterator[Finding]:
    """One note on those that only somebody's guide or another version knows."""
    if not (names := read_by_nobody(server)):
        return
    reads = f"neither FlashInfer {server.version('flashinfer-python')} nor an installed engine reads"
    remedy = "unset it; FLASHINFER_WORKSPACE_BASE says where caches lie, MAX_JOBS how many compilers run at once"
    value = f"{', '.join(names)}: {reads} {'it' if len(names) == 1 else 'them'}"
    yield Finding(_SECTION, "read by nobody", value, "note", remedy)
