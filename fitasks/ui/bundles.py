"""What `doit bundle` and `doit unbundle` did, in lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.errors import EnvironmentProblem
from fitasks.ship.archive import DASH
from fitasks.ship.bundle import bundle, promises_another
from fitasks.streams import show as _print
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitasks.session import Session
    from fitasks.ship.bundle import Bundled
    from fitasks.ship.repack import Repacked
    from fitasks.ship.unbundle import Unbundled


_WENT = {
    "cache": "into FlashInfer's cache",
    "store": "into the store, for the next doit to adopt",
    "kept": "there already",
}


def file_among(file: str, words: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the bundle that is to be written, and the names of kernels beside it. Raises EnvironmentProblem.

    The file is what `-f` says, or the word that has a slash, is `-`, or ends as an archive does.
    """
    files = [word for word in words if _is_file(word)]
    names = [word for word in words if not _is_file(word)]
    right = " ".join(["doit bundle kernels.tar.gz", *names])
    return one_file([*filter(None, [file]), *files], right), names


def one_file(files: Sequence[str], right: str) -> Path:
    """Return the only file. Raises EnvironmentProblem where it isn't one; `right` is a command that names one."""
    if len(files) != 1:
        given = f"was given {' and '.join(files)}" if files else "was given none"
        raise EnvironmentProblem(f"{' '.join(right.split()[:2])} takes one file, and {given}", remedy=right)
    return Path(files[0])


def _is_file(word: str) -> bool:
    ours = word == str(DASH) or word.lower().endswith((".tar.gz", ".tgz"))
    return "/" in word or ours or bool(promises_another(word))


def show_bundled(session: Session, path: Path, names: Sequence[str]) -> bool:
    """Make a bundle of the named kernels (all without names) and say what it holds; whether that is all of them."""
    done = bundle(session, path, names)
    for line in bundled_lines(done):
        _print(line)
    return not done.left_out


def show_unbundled(session: Session, path: Path) -> bool:
    """Take a bundle and say where its kernels went; whether all of them are of use here."""
    from fitasks.ship.unbundle import unbundle

    done = unbundle(session, path)
    for line in unbundled_lines(done):
        _print(line)
    return not done.unusable


def show_repacked(session: Session, path: Path) -> bool:
    """Make a package of a bundle's kernels and say what it weighs; true."""
    from fitasks.ship.repack import repack
    from fitasks.ship.sizes import report
    from fitasks.ui.size_table import show_sizes

    made = repack(session, path, Path("dist"))
    show_sizes(report(made.wheel))
    for line in repacked_lines(made):
        _print(line)
    return True


def bundled_lines(done: Bundled) -> Iterator[str]:
    """Which kernels were left out and why, then the file."""
    for label, why in done.left_out:
        yield f"left out  kernel:{label}: {why}"
    yield f"{done.path}: {_kernels(len(done.kernels))}, {done.files} files, {size(done.bytes)} in {size(done.size)}"
    if done.left_out:
        yield f"{_kernels(len(done.left_out))} left out"


def unbundled_lines(done: Unbundled) -> Iterator[str]:
    """Which paths differ, what was left in the bundle, which kernels are of no use as they are, how many went where."""
    for root in done.moved:
        yield f"path differs  {root}"
    for architecture, count in done.left.items():
        yield f"left in it  {_kernels(count)} for {architecture}, which is no target of kernels.yaml here"
    for arrival in done.arrivals:
        if arrival.note:
            yield f"{arrival.module}: {arrival.note}"
    for went, count in Counter(arrival.went for arrival in done.arrivals if arrival.usable).items():
        yield f"{_kernels(count)} {_WENT[went]}"
    if done.unusable:
        yield (
            f"{_kernels(len(done.unusable))} of no use here as built: doit compiles, "
            f"or doit unbundle --wheel {done.path} makes a package that needs neither compiler nor these paths"
        )


def repacked_lines(made: Repacked) -> Iterator[str]:
    """The wheel, and how it gets into the serving environment: `doit install` would make another one, of the plan."""
    yield f"{made.wheel.path} ({size(made.wheel.bytes)})"
    if made.obstacle:
        yield f"not for this environment: {made.obstacle}"
    yield f"to install it: {made.python} -m pip install {made.wheel.path}"


def _kernels(count: int) -> str:
    return f"{count} kernel{'s'[: count != 1]}"
