"""Copies modules of SGLang's content-addressed JIT for servers that have no compiler, toolkit and system headers.

    <serving python> sglang_keyed_pack.py REQUEST.json RESPONSE.json

The request is sglang_keyed_plan.py's, with "into": a directory. Made there: `jit/`, which is to be a server's
SGLANG_JIT_CACHE_DIR, and `compilers/nvcc` and `compilers/c++`, which say what the real ones answered to --version and
can do nothing else: the first belongs at $CUDA_HOME/bin/nvcc, the second on PATH.

SGLang finds a library only where every file of its list is there unchanged. It publishes the copy itself, with a list
of the packages' own files alone: a toolkit and a system that aren't there can't have changed, and their versions are in
the compilers' answers, which are part of the key.

Response: as sglang_keyed_plan.py's; each kernel also has "packed", the copy of its library, "" where SGLang finds none.
"""

from __future__ import annotations

import functools
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import sglang_keyed  # noqa: E402
from plan_errors import FatalError, PlanError  # noqa: E402
from plan_parameters import as_json  # noqa: E402
from sglang_keyed import Asked, asked_for, part  # noqa: E402
from sglang_keyed_plan import run, said  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

_OF_THE_MACHINE = ("toolkit", "pkg:nvidia", "sys", "abs")  # roots that come with compilers, or with nothing
_STAGING = ".staging-fitasks"
_COMPILER = """#!/bin/sh
case "$*" in --version) printf %s {text}; exit;; esac
echo "$0: this says its version to SGLang, and compiles nothing" >&2
exit 1
"""


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    return run(argv, functools.partial(_packed, Path(str(said(argv, "into") or ""))))


def _packed(into: Path, op: str, params: dict[str, Any], recorded: bool) -> dict[str, Any]:
    """Copy the module of an op. Raises PlanError, and FatalError where compilers don't answer."""
    if not into.is_absolute():
        raise FatalError("request", "`into` names no absolute directory", "name one")
    function, arguments, asked = asked_for(op, params, recorded)
    found = sglang_keyed.record(asked)
    copy = _publish(asked, Path(found["library"]), into / "jit") if found["whole"] else ""
    _write_compilers(into / "compilers")
    return {**found, "packed": str(copy), "op": op, "params": as_json(function, arguments)}


def _publish(asked: Asked, library: Path, root: Path) -> Path:
    """Raises PlanError where SGLang refuses."""
    cache = part("cache")
    scope = root / asked.scope.relative_to(cache.cache_root())
    staging = scope / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    shutil.copy2(library, staging)
    try:
        copy = cache.commit_build(asked.spec, scope=scope, staging=staging, dependencies=_own(library.parent))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if copy is None:
        raise PlanError("generator", f"SGLang doesn't publish {asked.spec.module_name} with its packages' files alone")
    return Path(copy)


def _own(leaf: Path) -> list[Path]:
    """The files of packages among those that a build read."""
    cache = part("cache")
    entries: Iterable[Any] = cache._read_deps(leaf) or ()
    kept = (one for one in entries if one.root not in _OF_THE_MACHINE)
    return [Path(cache._resolve_path(root=one.root, relpath=one.relpath)) for one in kept]


@functools.cache
def _write_compilers(directory: Path) -> None:
    for name, one in sglang_keyed.compilers().items():
        if one["says"] is None:
            message = f"{one['path']} can't be asked for its version, which SGLang's key has"
            raise FatalError("toolkit", message, "pack where the modules were compiled")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(_COMPILER.format(text=shlex.quote(one["says"])), encoding="utf-8")
        (directory / name).chmod(0o755)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
