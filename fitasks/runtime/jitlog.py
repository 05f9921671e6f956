"""What servers compiled or loaded at run time, from the `flashinfer_jit.log` in each of FlashInfer's workspaces.

The file lies in `<version>/<arch>/` since 0.4.1 and in `<arch>/` before. What FlashInfer writes into it (read in the
sources of 0.2.5 to 0.7.2, jit/core.py): up to 0.2.5 `Loading JIT ops: N` and `Finished loading JIT ops: N`; from 0.2.6
to 0.6.18 nothing about single modules; since 0.7.0 `Building JIT module N; …` where there is no `.so` yet, and nothing
at its end. So a module that is compiled *again* leaves no line; `doit check` predicts those. fitasks itself runs ninja
without FlashInfer, and leaves none either: every line is a server's, or somebody's script.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fitasks.plan.kernel import Kernel

NAME = "flashinfer_jit.log"
_LINE = re.compile(
    r"(?P<when>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)?.*?flashinfer\.jit: "
    r"(?:(?P<what>Building JIT module|Loading JIT ops:|Finished loading JIT ops:) (?P<name>[\w.+-]+))"
)
_LONGEST = 4096  # bytes of a line that are looked at; garbage may have none for megabytes
_VARIANT = re.compile(r"(_kv_stride_equal|_sm\d+[af]?)+$")


@dataclass(frozen=True)
class Logged:
    """What one log says of one module. `unended`: loads without an end (0.2.5), or builds that left no library."""

    log: Path
    name: str
    kind: Literal["built", "loaded"]
    first: str  # "2026-11-23 14:43:10", local time as the log has it, "" if it doesn't say
    last: str
    times: int = 1
    unended: int = 0


@dataclass(frozen=True)
class Covered:
    """Whether kernels.yaml would have spared the server this: `label` is the kernel that it names, or one like it."""

    logged: Logged
    state: Literal["covered", "another name", "not covered"]
    label: str = ""


def find_logs(bases: Iterable[Path]) -> tuple[Path, ...]:
    """The logs below directories like `~/.cache/flashinfer`, of every layout; those that say nothing left out."""
    found = (path for base in bases for pattern in ("*", "*/*") for path in sorted(base.glob(f"{pattern}/{NAME}")))
    return tuple(dict.fromkeys(path for path in found if path.is_file() and path.stat().st_size))


def read_log(path: Path) -> tuple[Logged, ...]:
    """One record per module, in the order in which the log first names them. Raises OSError.

    Read line by line: a log may be large, torn, or hold anything.
    """
    found: dict[tuple[str, str], Logged] = {}
    for line in _lines(path):
        if match := _LINE.match(line):
            _add(found, path, match["what"], match["name"], match["when"] or "")
    return tuple(_without_library(logged) for logged in found.values())


def coverage(logged: Iterable[Logged], kernels: Sequence[Kernel]) -> tuple[Covered, ...]:
    """Each compared with the plan by module name; a variant of the same module is named, because only one is right."""
    planned = {kernel.name: kernel.label for kernel in kernels if kernel.name and not kernel.twin}
    alike = {_VARIANT.sub("", name): label for name, label in planned.items()}
    return tuple(_covered(one, planned, alike) for one in logged)


def _covered(logged: Logged, planned: dict[str, str], alike: dict[str, str]) -> Covered:
    if label := planned.get(logged.name):
        return Covered(logged, "covered", label)
    if label := alike.get(_VARIANT.sub("", logged.name)):
        return Covered(logged, "another name", label)
    return Covered(logged, "not covered")


def _add(found: dict[tuple[str, str], Logged], path: Path, what: str, name: str, when: str) -> None:
    kind: Literal["built", "loaded"] = "built" if what.startswith("Building") else "loaded"
    known = found.get((kind, name))
    if what.startswith("Finished"):
        if known and known.unended:
            found[kind, name] = replace(known, unended=known.unended - 1)
        return
    unended = int(kind == "loaded")
    if known:
        times, unended = known.times + 1, known.unended + unended
        found[kind, name] = replace(known, last=when, times=times, unended=unended)
    else:
        found[kind, name] = Logged(path, name, kind, when, when, 1, unended)


def _without_library(logged: Logged) -> Logged:
    """A build is unended where there is no library to this day."""
    if logged.kind == "loaded":
        return logged
    library = logged.log.parent / "cached_ops" / logged.name / f"{logged.name}.so"
    return replace(logged, unended=int(not library.exists()))


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST):
            yield line.decode(errors="replace")
