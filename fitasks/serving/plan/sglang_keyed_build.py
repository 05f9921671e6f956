"""Compiles modules of SGLang's content-addressed JIT into its cache, in the serving interpreter, without a GPU.

    <serving python> sglang_keyed_build.py REQUEST.json RESPONSE.json

The request is sglang_keyed_plan.py's; one process compiles all that it names, one after the other. SGLang's own
load_jit does it: under its lock, with its ninja.build, published by its commit_build. Only loading is left out, for
which a GPU's driver may be needed; a library that isn't whole is compiled again, as if it couldn't be loaded. With
`anew` in the request so is every library that is found: nothing vouches for what is in it.

Response: as sglang_keyed_plan.py's; each kernel also has "how" ("compiled", "cached", "failed"), "seconds", "message"
(why it failed), "log" (all that ninja and compilers said of a failure), "size" and "sha256" of the library.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import sglang_keyed  # noqa: E402
from plan_errors import PlanError  # noqa: E402
from plan_parameters import as_json  # noqa: E402
from plan_requests import file_record  # noqa: E402
from plan_spec import replaced  # noqa: E402
from sglang_keyed import Asked, Loaded, part  # noqa: E402
from sglang_keyed_plan import run, said  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

# The server's, which is to find what is compiled here.
_NOT_HERE = ("SGLANG_CRASH_ON_JIT_COMPILE", "SGLANG_JIT_FORCE_RECOMPILE")


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    for name in _NOT_HERE:
        os.environ.pop(name, None)
    return run(argv, functools.partial(built, bool(said(argv, "anew"))))


@dataclass
class Making:
    """What befell one module; `anew`: none that is found will do."""

    anew: bool = False
    asked: list[Asked] = field(default_factory=list)
    how: str = "cached"
    message: str = ""
    log: str = ""


def built(anew: bool, op: str, params: dict[str, Any], recorded: bool) -> dict[str, Any]:
    """Compile what an op needs, and say how it went. Raises PlanError where that is nothing."""
    function, arguments = sglang_keyed.find(op, params, recorded=recorded)
    making, begin = Making(anew), time.perf_counter()
    try:
        with _watched(making):
            sglang_keyed.call(function, arguments)
    except PlanError as error:
        if not making.asked:
            raise
        making.message = str(error)
    seconds = round(time.perf_counter() - begin, 3)
    asked = sglang_keyed.only(making.asked, function)
    return {**_record(making, asked), "seconds": seconds, "op": op, "params": as_json(function, arguments)}


@contextlib.contextmanager
def _watched(making: Making) -> Iterator[None]:
    """Note what befalls the module that load_jit is asked for."""
    loader = part("loader")
    theirs, build = loader._find_prebuilt, loader.ninja.build

    def watched(**spec: Any) -> Any:
        making.how = "compiled"
        try:
            return build(**spec)
        except Exception as error:
            making.log = str(error)
            raise

    def load(library: Path) -> Loaded:
        if making.anew and making.how == "cached":
            raise RuntimeError(f"nothing vouches for {library}")
        return _load(library)

    with sglang_keyed.noting(making.asked, theirs, load), replaced(loader.ninja, "build", watched):
        yield


def _load(library: Path) -> Loaded:
    if not sglang_keyed.is_whole(library):
        raise RuntimeError(f"{library} is no whole library")
    return Loaded()


def _record(making: Making, asked: Asked) -> dict[str, Any]:
    """A module's record with how it went. One that isn't found now failed, whatever was said on the way."""
    part("cache").clear_digest_cache()
    found = sglang_keyed.record(asked)
    how = making.how if found["whole"] else "failed"
    message = making.message or ("" if found["whole"] else "SGLang doesn't find it: a file that it read has changed")
    return {**found, "how": how, "message": message, "log": making.log, **file_record(found["library"])}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
