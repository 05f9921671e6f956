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

So does tvm-ffi (0.1.15), by which SGLang 0.5.16 builds modules of its own in a cache of their own; only a colon it
writes so that ninja reads one. SGLang 0.5.23 names nothing in its cache by a whole path.
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

    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

_CACHE = (
    "set FLASHINFER_WORKSPACE_BASE, for doit and the server, to a directory whose path has none (a link to this one "
    "doesn't help: FlashInfer resolves it)"
)
_SGLANGS = "set TVM_FFI_CACHE_DIR, for doit and the server, to a directory whose path has none"
# Who writes build.ninja, and what comes of a path that ninja's reader of lists of headers ends too early.
_FLASHINFER = ("FlashInfer", "it would compile there again at each start of a server")
_TVM_FFI = ("tvm-ffi", "doit can't tell there which headers were read")
_FAILS = re.compile(r"[ $:|\n\r\ud800-\udfff]")  # the last: bytes that are no UTF-8, which FlashInfer can't write
_AGAIN = re.compile(r"[\0-\x1f\x7f\"#*;<>^`\\]")
_COMMAND = re.compile(r"[&;'\"()*<>`\\,\t]")
_PATTERN = re.compile(r"[?\[]")
_NVCC = re.compile(r"[$`\"\\,]")  # of TMPDIR, in the commands that nvcc makes for a shell; tried with 13.0


def unbuildable(plan: Plan) -> Unbuildable | None:
    """Why FlashInfer can build nothing for this plan, by the first such path; None where it can."""
    return next(_problems(plan), None)


def misplaced(kernel: Kernel) -> Unbuildable | None:
    """Why this kernel can't be built in SGLang's cache; None where it can, or belongs elsewhere."""
    if not kernel.by_tvm_ffi:
        return None
    path = os.path.realpath(kernel.build_dir.parent)
    found = obstacle(path.replace(":", ""))
    return next(_wrong("SGLang's cache of modules", path, _SGLANGS, found, who=_TVM_FFI), None)


def refuse_temporary(place: str) -> None:
    """Raise EnvironmentProblem where nvcc can have no temporary files in this directory."""
    if found := _NVCC.search(place):
        said = f"temporary files go to {_shown(place)}, and nvcc can't name a file with {_named(found[0])} in its path"
        raise EnvironmentProblem(said, remedy="set TMPDIR to a directory whose path has none")


def _problems(plan: Plan) -> Iterator[Unbuildable]:
    for target in plan.targets.values():
        place = os.path.realpath(target.workspace)
        yield from _wrong("FlashInfer's cache", place, _CACHE, obstacle(place))
    moved = "install it into a virtual environment whose path has none"
    for name, package in (("FlashInfer", "flashinfer-python"), ("tvm-ffi", "apache-tvm-ffi")):
        root = os.path.realpath(plan.server.imported_from(package) or "/")
        yield from _wrong(name, root, moved, obstacle(root, in_commands=True))
    home, toolkit = str(plan.toolkit.home), "set CUDA_HOME to a link to it whose path has none"
    if plan.toolkit.origin == "pip":  # its directory of links is ours
        toolkit = "set XDG_CACHE_HOME to a directory whose path has none"
    yield from _wrong("the CUDA toolkit", home, toolkit, obstacle(home, in_commands=True))


def obstacle(path: str, *, in_commands: bool = False) -> tuple[str, bool] | None:
    """Return the character that is in the way, and whether FlashInfer builds all the same, again and again."""
    if fails := _FAILS.search(path) or (_in_command(path) if in_commands else None):
        return fails[0], False
    again = _AGAIN.search(path)
    return (again[0], True) if again else None


def _in_command(path: str) -> re.Match[str] | None:
    pattern = _PATTERN.search(path)
    return _COMMAND.search(path) or (pattern if pattern and set(glob.glob(path)) - {path} else None)  # noqa: PTH207


def _wrong(
    what: str, path: str, remedy: str, found: tuple[str, bool] | None, *, who: tuple[str, str] = _FLASHINFER
) -> Iterator[Unbuildable]:
    if found:
        character, again = found
        outcome = who[1] if again else "it can't build there"
        said = f"{what} is in {_shown(path)}: {who[0]} writes paths into build.ninja as they are, and with"
        named = _named(character)
        if "\ud800" <= character <= "\udfff" and _is_utf8(path):
            named, remedy = "letters that this locale can't write", "set LC_ALL=C.UTF-8, for doit and the server"
        yield Unbuildable(f"{said} {named} in one {outcome}", remedy=remedy, again=again)


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
