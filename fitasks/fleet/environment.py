"""What kernels are made of on one machine, whatever the places: what two machines must have alike to work together.

The judge of receipts compares what a compile has read; that is known only afterwards. So everything is compared that
it could read: tools by their versions, as in receipts, the directories of headers and sources by contents, and the
plan's commands. A machine that differs is told in what; one that differs in what was overlooked here makes kernels that
aren't believed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fitasks.base.files import sha256_text
from fitasks.cuda.needs import include_dirs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.judge.roots import Roots
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

PROTOCOL = "2"  # raised with what orders and answers mean
_KERNELS = "kernels"  # the tree that is the plan
_SHOWN = 3  # names of one tree
_SHORT = 12  # digits of a hash that people compare


class Place(Protocol):
    """A planned project; a session of doit is one."""

    @property
    def plan(self) -> Plan:
        """Raises FitasksError where there is none."""

    @property
    def judges(self) -> dict[str, Judge]:
        """By target."""


@dataclass(frozen=True)
class Environment:
    """`words` are versions, `trees` the digests of all lines `<sha256> <name>` of a directory, or of the plan."""

    words: Mapping[str, str]
    trees: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Of all of it."""
        return sha256_text(repr((sorted(self.words.items()), sorted(self.trees.items()))))

    def unlike(self, other: Environment) -> list[str]:
        """Names of trees that differ."""
        names = sorted({*self.trees, *other.trees})
        return [name for name in names if self.trees.get(name) != other.trees.get(name)]


def shared(kernel: Kernel) -> bool:
    """Whether machines can make it for each other: the names of other kinds have hashes of one machine's paths."""
    return kernel.kind == "flashinfer" and not kernel.problem and not kernel.twin


def describe(place: Place) -> Environment:
    """Say what kernels are made of here. Raises FitasksError."""
    plan = place.plan
    judges = place.judges
    words = {"fitasks": f"{_version()} (protocol {PROTOCOL})"}
    words |= {tool: said for judge in judges.values() for tool, said in judge.toolchain.items()}
    words |= {"FlashInfer": plan.server.version("flashinfer-python"), "the processor": platform.machine()}
    trees = {_KERNELS: _kernels(place)} | {name: _files(place, path) for name, path in _directories(place).items()}
    return Environment(words, {name: sha256_text("\n".join(lines)) for name, lines in trees.items()})


def lines(place: Place, tree: str) -> list[str]:
    """What the digest of a tree is of; none of a tree that isn't here."""
    if tree == _KERNELS:
        return _kernels(place)
    directory = _directories(place).get(tree)
    return _files(place, directory) if directory else []


def _kernels(place: Place) -> list[str]:
    kernels = filter(shared, place.plan.kernels)
    return sorted(f"{sha256_text(place.judges[one.target].commands(one))} {_named(one)}" for one in kernels)


def _files(place: Place, directory: Path) -> list[str]:
    return sorted(_contents(directory, next(iter(place.judges.values()))))


def difference(ours: Environment, theirs: Environment) -> list[str]:
    """In which versions they differ."""
    words = sorted({*ours.words, *theirs.words})
    pairs = ((word, ours.words.get(word, "none"), theirs.words.get(word, "none")) for word in words)
    return [f"{word} is {other} there, {own} here" for word, own, other in pairs if own != other]


def tree_difference(tree: str, ours: Iterable[str], theirs: Iterable[str]) -> str:
    """In which files, or kernels, one tree differs."""
    here, there = ({line[65:]: line[:64] for line in one} for one in (ours, theirs))
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    told = [f"{name} ({_short(there.get(name))} there, {_short(here.get(name))} here)" for name in names[:_SHOWN]]
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return f"{tree}: {', '.join(told + more)}"


def _short(digest: str | None) -> str:
    return digest[:_SHORT] if digest else "nothing"


def _named(kernel: Kernel) -> str:
    return f"{kernel.name} for {kernel.target}"


def _version() -> str:
    try:
        return importlib.metadata.version("fitasks")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _directories(place: Place) -> dict[str, Path]:
    """Directories of headers and sources, by names without this machine's paths; none within another one."""
    plan = place.plan
    read: dict[str, set[Path]] = {}
    for kernel in filter(shared, plan.kernels):
        read.setdefault(kernel.target, {plan.toolkit.home / "include"}).update(
            include_dirs(kernel.ninja), (one.parent for one in kernel.sources)
        )
    found: dict[str, Path] = {}
    for target, directories in read.items():
        roots, generated = place.judges[target].roots, plan.targets[target].generated
        found |= {_relative(roots, one): one for one in directories if not one.is_relative_to(generated)}
    return {name: path for name, path in found.items() if not any(other in path.parents for other in found.values())}


def _relative(roots: Roots, directory: Path) -> str:
    """Also where the directory is a root itself."""
    return roots.relative(f"{directory}/x").removesuffix("/x")


def _contents(directory: Path, judge: Judge) -> Iterator[str]:
    for place, _, names in os.walk(directory):
        for name in names:
            path = f"{place}/{name}"
            if not name.endswith(".pyc") and (state := judge.contents.state(path)):
                yield f"{state.digest} {path.removeprefix(f'{directory}/')}"
