"""Compiles FlashInfer's CuTe-DSL kernels into its disk cache, in the serving interpreter, without a GPU.

    <serving python> cute_build.py REQUEST.json RESPONSE.json

The request is cute_plan.py's; one process compiles all that it names, one after the other. FlashInfer's own
build_and_load does it: under its lock, a stale family wiped, the object and meta.json published by rename. So what is
there and valid is only loaded.

Response: as cute_plan.py's; each of "objects" also has "how" ("compiled", "cached", "failed"), "seconds", "message"
(why it failed, or what there is to say), "size" and "sha256" of the file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import cute_functions  # noqa: E402
from cute_content import Sources  # noqa: E402
from cute_objects import call, core, object_record, refuse, warnings_kept  # noqa: E402
from cute_plan import run  # noqa: E402
from plan_errors import PlanError  # noqa: E402
from plan_requests import file_record  # noqa: E402
from plan_spec import replaced  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

_FINAL = ("in_memory", "device")  # what was made on the way to it is of no use


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    os.environ.pop("FLASHINFER_DISABLE_JIT", None)  # the server's, which is to find what is compiled here
    return run(argv, built)


@dataclass
class Making:
    """What befell one object."""

    spec: Any
    how: str = "cached"
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)  # FlashInfer's warnings, and what it raised


def built(op: str, params: dict[str, Any], _load: bool) -> dict[str, Any]:
    """Compile what an op needs, and say how it went. Raises PlanError where that is nothing."""
    function = cute_functions.find_function(op)
    arguments = cute_functions.arguments_for(function, params)
    made: list[Making] = []
    loading: list[Making] = []
    sources = Sources(core())
    try:
        with sources.noted(), _watched(made, loading):
            call(function, arguments, allowed=lambda: bool(loading))
    except PlanError as error:
        if not made or error.fields["kind"] in _FINAL:
            raise
        made[-1].said.append(str(error))
    objects = [_record(one, sources) for one in made] or refuse(function)
    return {"op": op, "params": cute_functions.as_json(function, arguments), "objects": objects}


@contextlib.contextmanager
def _watched(made: list[Making], loading: list[Making]) -> Iterator[None]:
    """Note what befalls each object; `loading` are those that FlashInfer is loading at this moment."""
    kind = core().JitSpecCuteDsl
    load, build = kind.build_and_load, kind.build

    def loaded(spec: Any) -> Any:
        note, begin = Making(spec), time.perf_counter()
        made.append(note)
        loading.append(note)
        try:
            with warnings_kept(note.said):
                return load(spec)
        finally:
            loading.pop()
            note.seconds = round(time.perf_counter() - begin, 3)

    def watched(spec: Any) -> Any:
        loading[-1].how = "compiled"
        return build(spec)

    with replaced(kind, "build_and_load", loaded), replaced(kind, "build", watched):
        yield


def _record(made: Making, sources: Sources) -> dict[str, Any]:
    """An object's record with how it went. An object that isn't valid now failed, whatever was said on the way."""
    record = object_record(made.spec, sources)
    how = made.how if record["valid"] else "failed"
    said = {"how": how, "seconds": made.seconds, "message": "; ".join(made.said)}
    return {**record, **said, **file_record(record["path"])}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
