"""What a border is, and the world that each is made in.

`world/` may be written to, what lies beside it may not. After each mutant the world is what it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench.mutants_mutate import mutate

ROOT = Path(__file__).parent.parent
Mutator = Callable[[bytes, list[bytes], Random, str], bytes]
NAMED = ("nothing", "directory", "circle")  # of a file that somebody names: a pipe is waited for, as `cat` does


@dataclass
class Border:
    """`file` gets the mutant and is used; `renew` makes the world what it was, after every use."""

    samples: list[bytes]
    file: Path
    use: Callable[[Path], object]
    mutate: Mutator = mutate
    renew: Callable[[], object] = lambda: None
    programs: frozenset[str] = frozenset()  # that may be asked anew
    asks: frozenset[str] = frozenset()  # those that are asked for the sample, too
    world: tuple[Path, ...] = ()  # what may be written to besides the temporary directory
    files: list[Path] = field(default_factory=list)  # where one border has several files: that of each sample
    others: tuple[str, ...] = ("nothing", "directory", "circle", "pipe", "device")  # that a mutant may be instead


@contextlib.contextmanager
def fitasks_errors() -> Any:
    """What a command would print and end with."""
    from fitasks.base.errors import FitasksError

    try:
        yield
    except FitasksError as error:
        print(error)


def workshop_place(world: Path) -> Any:
    """Two kernels of FlashInfer's shape, compiled by the host's compiler, in a cache and in a store."""
    from fitasks.compile.ninja.ninja import find_ninja
    from fitasks.compile.pool.pool import Pool
    from fitasks.cuda.probe import ProbeMemo
    from tests.delivery.conftest import Place
    from tests.workshop import Workshop

    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    place = Place(Workshop(world, find_ninja(env, ProbeMemo(world / "probe.json")), Pool(2)), ("page",))
    place.build()
    keep_as_it_is(world)
    return place


def keep_as_it_is(world: Path) -> None:
    """The state to which `as_it_was` returns: kept beside the world, which nothing may write to."""
    kept = world.parent / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(world, kept, symlinks=True)


def as_it_was(world: Path) -> None:
    """Only what differs is copied back, with its times."""
    kept = world.parent / "kept"
    there = {path.relative_to(world) for path in world.rglob("*")}
    good = {path.relative_to(kept) for path in kept.rglob("*")}
    for name in sorted(there - good, reverse=True):
        remove(world / name)
    for name in sorted(good):
        source, target = kept / name, world / name
        if source.is_dir():
            if not target.is_dir() or target.is_symlink():
                remove(target)
                target.mkdir()
        elif not _equal(source, target):
            remove(target)
            shutil.copy2(source, target)


def _equal(source: Path, target: Path) -> bool:
    if not target.is_file() or target.is_symlink():
        return False
    one, other = source.stat(), target.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def programs(place: Any) -> frozenset[str]:
    return frozenset({str(place.workshop.ninja.executable), *tools({"PATH": os.environ["PATH"]})})


def tools(env: dict[str, str]) -> set[str]:
    from fitasks.cuda.survey import host_compiler

    found = {shutil.which(name, path=env["PATH"]) or "" for name in ("ninja", "c++", "g++", "cc", "nvcc", "ld")}
    found.add(str(host_compiler(env)))  # which CXX may name
    found |= set(map(str, Path("/usr/local").glob("cuda*/bin/nvcc")))  # every toolkit that planning may look at
    return {name for path in found if path for name in (path, os.path.realpath(path))}
