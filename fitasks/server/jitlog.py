"""What servers compiled or loaded at run time, from the `flashinfer_jit.log` in each of FlashInfer's workspaces.

The file lies in `<version>/<arch>/`. What FlashInfer writes into it (jit/core.py): up to 0.6.18 nothing about single
modules; since 0.7.0 `Building JIT module N; …` where there is no `.so` yet, and nothing at its end; `Compiling CuTe-DSL
kernel N`. So a module that nvcc compiles *again* leaves no line; `doit check` predicts those. Nor is there one where
FLASHINFER_LOGGING_LEVEL is above info. fitasks itself runs ninja without FlashInfer, and its planning leaves only
`Generated … JIT spec: N`, which isn't counted: a line is a server's, or somebody's script that calls `spec.build()`,
and the two look alike.

Read as well: a server's own output, where ninja says in which module it is at work, and FLASHINFER_JIT_BUILD_LOG
(buildlog.py), which has every build with its seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.base.border import open_regular, read_lines
from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.plan.caches import CACHED_OPS, bases
from fitasks.plan.modules import object_of, toolchain_named, variant
from fitasks.server import buildlog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from fitasks.plan.server import Server

NAME = "flashinfer_jit.log"
# A name counts only with what follows it in a whole line: a torn one would be the name of another module, or of none.
_LINE = re.compile(
    r"(?:(?P<when>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[,.]\d+ - \w+ - (?:[\w.]+:\d+ - )?)?flashinfer\.jit: "
    r"(?:Building JIT module|Compiling CuTe-DSL kernel) (?P<name>[\w.+-]+(?:/[\w.+-]+)?)(?:;|\r?\n)"
)
_ENTERED = re.compile(r"ninja: Entering directory [`'\"].*/cached_ops/(?P<name>[\w.+-]+)[`'\"]")
_IDLE = "ninja: no work to do"
_MOST_MODULES = 100_000  # FlashInfer's own registry has 655
_LONGEST = 4096  # bytes at a line's end that are looked at; garbage may have no end of line for megabytes
_ROTATED = re.compile(rf"({re.escape(NAME)}|{re.escape(buildlog.NAME)})([.-]\d+)*")
_ARCHITECTURES = re.compile(r"\d+[af]?(_\d+[af]?)*")


Kind = Literal["built", "loaded"]  # loaded: ninja had nothing to do


@dataclass(frozen=True)
class Logged:
    """What one log says of one module. `without_library`: it was built, and there is none to this day."""

    log: Path
    name: str
    kind: Kind
    last: str  # "2026-11-23 14:43:10", local time as the log has it, "" if it doesn't say
    times: int = 1
    without_library: bool = False
    seconds: float = 0.0  # of all its builds, where the log says it


State = Literal["covered", "another name", "another target", "not covered", "not nvcc's", "coverage unknown"]


@dataclass(frozen=True)
class Covered:
    """Whether kernels.yaml would have spared the server this: `label` is the kernel that it names, or one like it."""

    logged: Logged
    state: State
    label: str = ""

    @property
    def accuses(self) -> bool:
        """Whether a server compiled what kernels.yaml doesn't give."""
        return self.logged.kind == "built" and self.state not in {"covered", "not nvcc's", "coverage unknown"}


def logs_of(plan: Plan, server: Server) -> tuple[Path, ...]:
    """The logs in the caches of a plan's targets, and the one that the server's environment asks FlashInfer for."""
    asked = Path(server.env.get(buildlog.VARIABLE) or "relative")
    there = [asked] if asked.is_absolute() and asked.is_file() else []
    return tuple(dict.fromkeys([*find_logs(bases(plan)), *there]))


def read_logs(logs: Iterable[Path], kernels: Sequence[Kernel] | None) -> list[Covered]:
    """Each module that they name, and whether one of these kernels covers it; None: nothing is known of any.

    Raises EnvironmentProblem for what can't be read.
    """
    try:
        return [one for log in logs for one in _told_by(log, kernels)]
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename}: {error.strerror}") from None


def _told_by(log: Path, kernels: Sequence[Kernel] | None) -> list[Covered]:
    if is_compressed(log):
        raise EnvironmentProblem(
            f"{log} is compressed", remedy="name a file with what zcat (bzcat, xzcat, zstdcat) says"
        )
    logged = read_log(log)
    return [Covered(one, "coverage unknown") for one in logged] if kernels is None else [*coverage(logged, kernels)]


def find_logs(bases: Iterable[Path]) -> tuple[Path, ...]:
    """The logs below directories like `~/.cache/flashinfer`; empty and compressed ones left out.

    FlashInfer never rotates its log, but logrotate may: `flashinfer_jit.log.1`, `flashinfer_jit.log-20261101`.
    """
    patterns = [f"*/*/{name}*" for name in (NAME, buildlog.NAME)]
    found = (path for base in bases for pattern in patterns for path in sorted(base.glob(pattern)))
    return tuple(dict.fromkeys(path for path in found if _ROTATED.fullmatch(path.name) and _says_something(path)))


def _says_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def is_compressed(path: Path) -> bool:
    """As logrotate and people do it: gzip, bzip2, xz, zstd. Raises BadInput, OSError."""
    with open_regular(path) as stream:
        return stream.read(4).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd"))


def read_log(path: Path) -> tuple[Logged, ...]:
    """One record per module, in the order in which the log first names them. Raises BadInput.

    Read line by line: a log may be large, torn, or hold anything.
    """
    found: dict[tuple[Kind, str], Logged] = {}
    entered = ""  # the module that ninja has begun to look at
    for line in read_lines(path, _LONGEST):
        if entered and _IDLE not in line and ("built", entered) not in found:
            _add(found, Logged(path, entered, "built", ""))
        entered = match["name"] if (match := _ENTERED.search(line)) else ""
        if match := _LINE.search(line):
            _add(found, Logged(path, match["name"], "built", match["when"] or ""))
        elif (build := buildlog.parse(line)) and build.name:
            kind: Kind = "built" if build.compiled else "loaded"
            _add(found, Logged(path, build.name, kind, _local(build.time), seconds=build.seconds))
        if len(found) > _MOST_MODULES:
            raise BadInput(f"{path} names more than {_MOST_MODULES:,} modules", remedy="is it a server's log?")
    if entered and ("built", entered) not in found:
        _add(found, Logged(path, entered, "built", ""))
    return tuple(_compared(logged) for logged in found.values())


def _local(time: float) -> str:
    """Unix seconds as the logs write them; "" for a time that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(time).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return ""


def coverage(logged: Iterable[Logged], kernels: Sequence[Kernel]) -> tuple[Covered, ...]:
    """Each compared with the plan by module name; a variant of the same module is named, because only one is right.

    A cache is for exactly its architecture set, which the log's directory tells; a log that lies elsewhere doesn't say.
    """
    planned = [kernel for kernel in kernels if kernel.name and not kernel.twin and not kernel.problem]
    return tuple(_covered(one, planned) for one in logged)


def _covered(logged: Logged, planned: Sequence[Kernel]) -> Covered:
    if toolchain_named(logged.name) != "nvcc":
        return Covered(logged, "not nvcc's")
    here = [kernel for kernel in planned if _same_architectures(logged.log, kernel)]
    states: tuple[tuple[State, Iterable[Kernel]], ...] = (
        ("covered", (kernel for kernel in here if kernel.name == logged.name)),
        ("another name", _variants(logged.name, here)),
        ("another target", (kernel for kernel in planned if kernel.name == logged.name)),
    )
    found = (Covered(logged, state, kernel.label) for state, kernels in states for kernel in kernels)
    return next(found, Covered(logged, "not covered"))


def _variants(name: str, kernels: Iterable[Kernel]) -> list[Kernel]:
    """Those with the same parameters in their names, of the same backend (fa2, fa3) first."""
    base, hopper = variant(name)
    alike = [(variant(kernel.name), kernel) for kernel in kernels]
    same = [(other, kernel) for (parameters, other), kernel in alike if parameters == base]
    return [kernel for _, kernel in sorted(same, key=lambda pair: pair[0] != hopper)]


def _same_architectures(log: Path, kernel: Kernel) -> bool:
    logged, planned = log.parent.name, kernel.workspace.name
    return logged == planned or not (_ARCHITECTURES.fullmatch(logged) and _ARCHITECTURES.fullmatch(planned))


def _add(found: dict[tuple[Kind, str], Logged], one: Logged) -> None:
    if known := found.get((one.kind, one.name)):
        seconds = known.seconds + one.seconds
        one = replace(known, last=one.last or known.last, times=known.times + 1, seconds=seconds)
    found[one.kind, one.name] = one


def _compared(logged: Logged) -> Logged:
    """With the cache that the log lies in; a log that was copied elsewhere doesn't tell."""
    modules = logged.log.parent / CACHED_OPS
    if logged.kind == "loaded" or not modules.is_dir():
        return logged
    return replace(logged, without_library=not (modules / object_of(logged.name)).exists())
