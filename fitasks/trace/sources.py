"""Where requests are read from: trace files, a server's log, a cache that exists.

Of logs and caches only names are known. FlashInfer's own message for a module that it may not compile
(MissingJITCacheError, 0.6.7 to 0.7.2) says that one is missing, but not which; what does name modules are `Building
JIT module N` (since 0.7.0), `Compiling CuTe-DSL kernel N`, any path into cached_ops, as ninja prints it, and
FLASHINFER_JIT_BUILD_LOG (server/buildlog.py), which has seconds, too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fitasks.base.border import read_lines
from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.plan.caches import CACHED_OPS, LOCKS
from fitasks.plan.modules import toolchain_named, toolchain_of
from fitasks.server import buildlog
from fitasks.trace.model import UNFINISHED, Requested, identity, parse, together
from fitasks.trace.toolchains import SERVER
from fitasks.trace.unfinished import Waits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fitasks.server.buildlog import Build

_NAMED = re.compile(
    r"Building JIT module (?P<built>[\w.+-]+);"
    r"|Compiling CuTe-DSL kernel (?P<dsl>[\w.+-]+/[\w.+-]+)\s"
    r"|/cached_ops/(?P<cached>[\w.+-]*\w)(?:/(?P<object>\w+)\.o\b|(?=[/'\"`\s,;:)\]]))"
)
_MARKS = ("JIT module", "CuTe-DSL kernel", "/cached_ops/")  # one of them is in all that _NAMED finds
_MOST_MODULES = 100_000  # FlashInfer's own registry has 655
_LONGEST = 1 << 20  # bytes of a line; the recorder's have at most 4,000
_FILES = (".ninja", ".json", ".lock", ".log", ".so")  # beside the modules
_MISSING = "MissingJITCacheError"


@dataclass(frozen=True)
class Sources:
    """What all files ask for, and what of them couldn't be understood."""

    requested: tuple[Requested, ...]
    notes: tuple[str, ...]


def files_of(words: Sequence[str], root: Path) -> list[Path]:
    """Paths as given on the command line. Raises EnvironmentProblem for one that isn't there."""
    files = [root / word for word in words]
    for word, file in zip(words, files, strict=True):
        if not file.exists():
            raise EnvironmentProblem(f"{word}: no such file", remedy="doit import_trace trace.jsonl")
    return files


def read_sources(paths: Sequence[Path]) -> Sources:
    """Everything that the files and directories ask for, merged. Raises EnvironmentProblem where one says nothing."""
    if not paths:
        raise EnvironmentProblem("nothing to import", remedy="doit import_trace trace.jsonl")
    merged: dict[str, Requested] = {}
    notes: list[str] = []
    for path in paths:
        found, said = _directory(path) if path.is_dir() else _file(path)
        notes += said
        _merge(merged, found)
    return Sources(_without_bare(tuple(merged.values())), tuple(notes))


def _merge(merged: dict[str, Requested], found: Iterable[Requested]) -> None:
    for one in found:
        key = identity(one)
        merged[key] = together(merged[key], one) if key in merged else one


def _without_bare(requested: tuple[Requested, ...]) -> tuple[Requested, ...]:
    """A bare name says nothing beside a trace of the same module."""
    told = {one.name for one in requested if one.generator}
    return tuple(one for one in requested if one.generator or one.name not in told)


def _directory(path: Path) -> tuple[list[Requested], list[str]]:
    """Modules of a `cached_ops` directory, or of the directory that it is in."""
    ops = path if path.name == CACHED_OPS or not (path / CACHED_OPS).is_dir() else path / CACHED_OPS
    names = [name for entry in sorted(ops.iterdir()) for name in _names(entry)]
    if not names:
        raise EnvironmentProblem(
            f"{path} holds no FlashInfer modules",
            remedy="name a cached_ops directory, e.g. ~/.cache/flashinfer/<version>/<arch>/cached_ops",
        )
    version, arch = _version_and_architectures(ops)
    return [Requested(name, kind=toolchain_named(name), flashinfer=version, architectures=arch) for name in names], []


def _names(directory: Path) -> list[str]:
    """Of the modules in one directory of cached_ops: CuTe-DSL's holds a family of kernels."""
    if directory.name == LOCKS or not directory.is_dir():
        return []
    toolchain = toolchain_of(directory)
    if toolchain == "cute-dsl":
        return sorted(f"{directory.name}/{kernel.stem}" for kernel in directory.glob("*.o"))
    built = (directory / "build.ninja").exists() or (directory / f"{directory.name}.so").exists()
    return [directory.name] if built or toolchain == "tirx" else []


def _version_and_architectures(ops: Path) -> tuple[str, str]:
    """From `…/flashinfer/<version>/<arch>/cached_ops`; nothing from a directory that lies elsewhere."""
    arch, version = ops.absolute().parent, ops.absolute().parent.parent
    fits = ops.name == CACHED_OPS and version.parent.name == "flashinfer" and re.match(r"\d", version.name)
    return (version.name, arch.name) if fits else ("", "")


def _file(path: Path) -> tuple[list[Requested], list[str]]:
    found: dict[str, Requested] = {}
    waits = Waits()
    unnamed = torn = together = 0
    # The end of a line tells a whole name from a torn one.
    for number, line in enumerate(map(str.lstrip, read_lines(path, _LONGEST)), 1):
        build = buildlog.parse(line)
        heard = parse(line, f"{path}:{number}")
        request = heard or _of_build(build)
        named = [request] if request else list(_of_log(line))
        _merge(found, named)
        if heard:
            waits.hear(heard)
        if len(found) > _MOST_MODULES:
            raise BadInput(f"{path} names more than {_MOST_MODULES:,} modules", remedy="is it a server's log or trace?")
        together += build is not None and not build.name
        torn += not named and line.startswith("{") and build is None
        unnamed += not named and _MISSING in line
    notes = [f"{path}: {torn} lines that are no whole trace lines were left out"] if torn else []
    if together:
        notes.append(f"{path}: {together} builds of several modules at once, which it doesn't name")
    if unnamed:
        notes.append(
            f"{path}: {_MISSING} {unnamed} times; FlashInfer's message doesn't say of which module, a trace does"
        )
    if not found:
        raise EnvironmentProblem(
            "\n".join([f"{path} names no FlashInfer module", *notes]),
            remedy="record the server: python -m fitasks.record -o trace.jsonl -- <its command>",
        )
    _leave_unfinished(found, waits)
    return _timed(list(found.values())), notes


def _leave_unfinished(found: dict[str, Requested], waits: Waits) -> None:
    """Say of those that a process was killed in that it was, and how long it had waited."""
    for key, seconds in waits.left():
        one = found[key]
        found[key] = replace(one, how=one.how | {UNFINISHED}, left=max(one.left, seconds))


def _timed(found: list[Requested]) -> list[Requested]:
    """Those of one server, by whether it was already answering when it was done with them."""
    begin = max((one.ended for one in found if one.kind == SERVER and one.ended), default=math.inf)
    return [replace(one, late=one.kind != SERVER and one.ended > begin) for one in found]


def _of_log(line: str) -> Iterator[Requested]:
    if not any(word in line for word in _MARKS):  # far faster than the pattern
        return
    for name, made in dict.fromkeys((next(filter(None, m.groups())), m["object"]) for m in _NAMED.finditer(line)):
        kind = toolchain_named(name)
        whole = f"{name}/{made}" if kind == "cute-dsl" and made else name
        if whole != LOCKS and not whole.endswith(_FILES) and (kind != "cute-dsl" or "/" in whole):
            yield Requested(whole, kind=kind, how=frozenset({"compiled"}))


def _of_build(build: Build | None) -> Requested | None:
    if build is None or not build.name:
        return None
    how = frozenset({"compiled" if build.compiled else "cached"})
    return Requested(build.name, kind=build.toolchain, how=how, seconds=build.seconds, processes=frozenset({build.pid}))
