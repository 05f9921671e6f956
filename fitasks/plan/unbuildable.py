r"""Paths that FlashInfer can't build in, or not twice: it writes them into build.ninja as they are.

Tried with the text of FlashInfer 0.7.4 (jit/cpp_ext.py, generate_ninja_build_for_op), ninja 1.13 and nvcc 13.0, for
every ASCII character in the cache's path, and for some in the others':

    blank $ : | newline   ninja reads something else than a path, and ends with an error
    control characters, " # * ; < > ^ ` \   it compiles, but its reader of the compilers' lists of headers
                          (src/depfile_parser.in.cc) ends a name there: it compiles again, at each start of a server
    & ; ' " ( ) * < > ` \ , and a tab in the directories of a toolkit or of headers: they stand in commands, where a
                          shell or nvcc takes them for its own; so do ? and [ where another directory fits that pattern.
                          (ninja quotes sources and objects.)

`python bench/paths.py` tries them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem, Unbuildable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.plan import Plan

_CACHE = (
    "set FLASHINFER_WORKSPACE_BASE, for doit and the server, to a directory whose path has none (a link to this one "
    "doesn't help: FlashInfer resolves it)"
)
_FAILS = re.compile(r"[ $:|\n\r\ud800-\udfff]")  # the last: bytes that are no UTF-8, which FlashInfer can't write
_AGAIN = re.compile(r"[\0-\x1f\x7f\"#*;<>^`\\]")
_COMMAND = re.compile(r"[&;'\"()*<>`\\,\t]")
_PATTERN = re.compile(r"[?\[]")
_NVCC = re.compile(r"[$`\"\\,]")  # of TMPDIR, in the commands that nvcc makes for a shell; tried with 13.0


def unbuildable(plan: Plan) -> Unbuildable | None:
    """Why FlashInfer can build nothing for this plan, by the first such path; None where it can."""
    return next(_problems(plan), None)


def refuse_temporary(place: str) -> None:
    """Raise EnvironmentProblem where nvcc can have no temporary files in this directory."""
    if found := _NVCC.search(place):
        said = f"temporary files go to {_shown(place)}, and nvcc can't name a file with {_named(found[0])} in its path"
        raise EnvironmentProblem(said, remedy="set TMPDIR to a directory whose path has none")


def _problems(plan: Plan) -> Iterator[Unbuildable]:
    for target in plan.targets.values():
        yield from _wrong("FlashInfer's cache", os.path.realpath(target.workspace), _CACHE)
    moved = "install it into a virtual environment whose path has none"
    for name, package in (("FlashInfer", "flashinfer-python"), ("tvm-ffi", "apache-tvm-ffi")):
        root = plan.server.imported_from(package) or "/"
        yield from _wrong(name, os.path.realpath(root), moved, in_commands=True)
    toolkit = "set CUDA_HOME to a link to it whose path has none"
    if plan.toolkit.origin == "pip":  # its directory of links is ours
        toolkit = "set XDG_CACHE_HOME to a directory whose path has none"
    yield from _wrong("the CUDA toolkit", str(plan.toolkit.home), toolkit, in_commands=True)


def obstacle(path: str, *, in_commands: bool = False) -> tuple[str, bool] | None:
    """Return the character that is in the way, and whether FlashInfer builds all the same, again and again."""
    if fails := _FAILS.search(path) or (_in_command(path) if in_commands else None):
        return fails[0], False
    again = _AGAIN.search(path)
    return (again[0], True) if again else None


def _in_command(path: str) -> re.Match[str] | None:
    pattern = _PATTERN.search(path)
    return _COMMAND.search(path) or (pattern if pattern and set(glob.glob(path)) - {path} else None)  # noqa: PTH207


def _wrong(what: str, path: str, remedy: str, *, in_commands: bool = False) -> Iterator[Unbuildable]:
    if found := obstacle(path, in_commands=in_commands):
        character, again = found
        outcome = "would compile there again at each start of a server" if again else "can't build there"
        said = f"{what} is in {_shown(path)}: FlashInfer writes paths into build.ninja as they are, and with"
        named = _named(character)
        if "\ud800" <= character <= "\udfff" and _is_utf8(path):
            named, remedy = "letters that this locale can't write", "set LC_ALL=C.UTF-8, for doit and the server"
        yield Unbuildable(f"{said} {named} in one it {outcome}", remedy=remedy, again=again)


def _is_utf8(path: str) -> bool:
    """Whether another locale could read and write all of it."""
    with contextlib.suppress(UnicodeDecodeError):
        return bool(os.fsencode(path).decode())
    return False


def _shown(path: str) -> str:
    return path if path.isprintable() and " " not in path else repr(path)


def _named(character: str) -> str:
    names = {" ": "a blank", "\n": "a newline", "\t": "a tab"}
    if "\ud800" <= character <= "\udfff":
        return "bytes that are no UTF-8"
    return names.get(character) or f"`{character}`" if character.isprintable() else repr(character)
