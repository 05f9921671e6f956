"""Which of the words of a command line names the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.delivery.bundle.bundle import promises_another
from fitasks.delivery.bundle.reading import DASH
from fitasks.delivery.oci.reference import is_reference

if TYPE_CHECKING:
    from collections.abc import Sequence


def file_among(file: str, words: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the bundle that is to be written, and the names of kernels beside it. Raises EnvironmentProblem.

    The file is what `-f` says, or the word that has a slash, is `-`, or ends as an archive does.
    """
    if place := next(filter(is_reference, filter(None, (file, *words))), ""):
        raise EnvironmentProblem(f"bundle writes a file, and {place} is in a registry", remedy=f"doit push {place}")
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
