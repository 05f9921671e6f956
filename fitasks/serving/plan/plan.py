"""Plans kernels in the serving interpreter: which modules the server's FlashInfer would load, built how.

    <serving python> plan.py REQUEST.json RESPONSE.json

One process plans for one target, which the environment names (FLASHINFER_CUDA_ARCH_LIST,
FLASHINFER_WORKSPACE_BASE, CUDA_HOME, ...), because FlashInfer reads it once, at import. Runs with Python 3.9
or newer and the standard library, torch and FlashInfer; needs no GPU, no CUDA torch, no network, and compiles
nothing. It writes what FlashInfer's generators write (generated/), nothing under cached_ops/.

Request: {"version": 1, "sm90": true, "generators": ["my_fork"], "recorded": false, "kernels": [{"id": 0, "op": "page",
"params": {}}]}. An entry that is planned only `"if_loaded": true` is skipped where the server takes another way than
its module. `generators` are packages beside FlashInfer whose gen_… functions may be called; of what was `recorded`
a generator is called confined (plan_spec.py), and only FlashInfer's.

The response is written last and atomically: FlashInfer, torch, tvm-ffi and the cache's directories (load_flashinfer),
"kernels", each as planned or with its "error" (plan_errors), and "reads", all that this rests on (plan_reads). Exit
status 0; or 3, with a response that is {"version": 1, "fatal": {"kind", "message", "remedy"}}; 2 for wrong words.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

# The script's neighbours are for this script alone: their names must not hide what FlashInfer imports.
_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
from load_flashinfer import load  # noqa: E402
from plan_errors import PlanError, one_line  # noqa: E402
from plan_generators import (  # noqa: E402
    Generator,
    find_generator,
    generic_sibling,
    op_of,
    runtime_generator,
    unused_note,
    where,
)
from plan_keyed import planned as planned_keyed  # noqa: E402
from plan_parameters import arguments_for, as_json  # noqa: E402
from plan_paths import load_condition, refuse_unless_loaded  # noqa: E402
from plan_requests import kernels_of, read_request, run  # noqa: E402
from plan_sglang import is_sglangs  # noqa: E402
from plan_sglang import planned as planned_sglang  # noqa: E402
from plan_spec import confined, generate, spec_record  # noqa: E402
from sglang_keyed import is_installed as is_keyed  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry != _HERE]


class Allowed(NamedTuple):
    """What may be planned, and called: `generators` are packages beside FlashInfer."""

    sm90: bool = True
    generators: tuple[str, ...] = ()
    recorded: bool = False  # who wrote down the kernels isn't known


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    return run(argv, _answer)


def _answer(request: Path) -> dict[str, Any]:
    wanted = read_request(request, _checked)
    head = load()
    allowed = Allowed(wanted["sm90"], wanted["generators"], wanted["recorded"])
    return {**head, "kernels": [plan(kernel, allowed) for kernel in wanted["kernels"]]}


def _checked(request: dict[str, Any]) -> dict[str, Any]:
    asked = zip(kernels_of(request), request["kernels"])  # noqa: B905 - strict= came with Python 3.10
    kernels = [{**kernel, "if_loaded": bool(one.get("if_loaded"))} for kernel, one in asked]
    packages = tuple(map(str, request.get("generators") or ()))
    recorded, sm90 = bool(request.get("recorded")), bool(request.get("sm90", True))
    return {"sm90": sm90, "generators": () if recorded else packages, "recorded": recorded, "kernels": kernels}


def plan(kernel: dict[str, Any], allowed: Allowed) -> dict[str, Any]:
    """One kernel of the request as a record of the response; its mistakes are part of the record."""
    try:
        if kernel["if_loaded"]:
            refuse_unless_loaded(kernel["op"])
        return {"id": kernel["id"], **_planned(kernel["op"], kernel["params"], allowed)}
    except PlanError as error:
        return {"id": kernel["id"], **error.record()}
    except Exception as error:  # a FlashInfer unlike those we know must not cost the other kernels
        message = f"{kernel['op']} cannot be planned: {one_line(error)}"
        return {"id": kernel["id"], **PlanError("generator", message).record()}


def _planned(op: str, params: dict[str, Any], allowed: Allowed) -> dict[str, Any]:
    sm90, recorded = allowed.sm90, allowed.recorded
    if is_sglangs(op):
        return (planned_keyed if is_keyed() else planned_sglang)(op, params, recorded=recorded)
    generator, arguments = find_generator(op, allowed.generators, recorded=recorded), None
    notes = []
    if not sm90 and "sm90" in generator.__name__:
        generator, arguments = _generic(generator, params)
        notes.append(f"{op} is for Hopper only; {op_of(generator)} is planned instead (sm90: false)")
    arguments = arguments_for(generator, params) if arguments is None else arguments
    if not sm90 and arguments.get("backend") == "fa3":
        arguments["backend"] = "fa2"
        notes.append("fa3 is for Hopper only; fa2 is planned instead (sm90: false)")
    notes += unused_note(op, generator, arguments)
    if ":" not in op:
        generator = runtime_generator(generator, arguments)
    with confined() if recorded else contextlib.nullcontext():
        spec = generate(generator, **arguments)
    if not sm90 and "sm90" in getattr(spec, "name", ""):
        raise _hopper_only(str(spec.name))
    record = {**spec_record(spec), "generator": where(generator), "params": as_json(generator, arguments)}
    notes += load_condition(op)
    return {**record, "note": "; ".join(notes)} if notes else record


def _generic(generator: Generator, params: dict[str, Any]) -> tuple[Generator, dict[str, Any]]:
    """The generator without Hopper, with its arguments, if it takes these parameters."""
    sibling = generic_sibling(generator)
    if sibling is None:
        raise _hopper_only(op_of(generator))
    try:
        return sibling, arguments_for(sibling, params)
    except PlanError:
        raise _hopper_only(op_of(generator)) from None


def _hopper_only(name: str) -> PlanError:
    return PlanError("skipped", f"{name} is for Hopper only, and sm90 is false")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
