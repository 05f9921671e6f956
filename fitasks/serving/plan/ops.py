"""Which ops the installed FlashInfer offers, with their parameters: the answer to "what may kernels.yaml say?".

    <serving python> ops.py RESPONSE.json

Runs like plan.py beside it, in the same environment, and fails like it (exit status 3, "fatal"). The response is
{"version": 1, ..., "ops": [{"op", "generator", "parameters", "doc", "note", "kind"}]}, sorted by op. `op` is what
kernels.yaml writes; `note` is what speaks against it, if anything does: nothing calls the generator, or it can't be
imported here. `kind` is "flashinfer", "sglang" (modules of its JIT) or "cute" (CuTe-DSL objects); what of the latter
two there is, ops_sources.py reads in sources.
A parameter is {"name", "required", "default", "type", "accepted"}: `default` is what it is where kernels.yaml says
nothing ("=dtype_q" for one that follows another; null and `required` where there is none), `accepted` are the values
that FlashInfer's code admits, empty where it doesn't tell. `type` is "dtype", "bool", "int", "float", "str", "list" for
what kernels.yaml cannot say, "device", or "" where the generator doesn't tell.
"""

from __future__ import annotations

import inspect
import sys
import typing
from pathlib import Path
from typing import Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import plan_generators as generators  # noqa: E402
import plan_parameters as parameters  # noqa: E402
from load_flashinfer import load  # noqa: E402
from ops_sources import operations as of_sources  # noqa: E402
from ops_values import accepted_values  # noqa: E402
from plan_errors import PlanError  # noqa: E402
from plan_requests import respond  # noqa: E402
from plan_sources import GENERATOR, defining_modules  # noqa: E402
from plan_wrappers import of_wrapper  # noqa: E402

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

FOLLOWS = "=dtype_q"


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    try:
        response = Path(argv[0])
    except IndexError:
        print("usage: ops.py RESPONSE.json", file=sys.stderr)
        return 2
    return respond(response, lambda: {**load(), "ops": operations()})


def operations() -> list[dict[str, Any]]:
    """Every op that kernels.yaml may name, sorted."""
    records = [record for function in sorted(_functions()) for record in _records(function)]
    records.extend(of_sources())
    return sorted(records, key=lambda record: str(record["op"]))


def _records(function: str) -> Iterator[dict[str, Any]]:
    """Each op as short as it may be written: `module:function` only where a name is ambiguous."""
    try:
        found = [generators.find_generator(function)]
    except PlanError as error:
        places = [place for place in error.fields["accepted"] if ":" in place]
        if not places:
            yield _unusable(function, error.fields["message"])
        found = [generators.find_generator(place) for place in places]
    for generator in found:
        yield _record(generators.op_of(generator) if len(found) == 1 else generators.where(generator), generator)


def _functions() -> set[str]:
    """Names of generators anywhere in FlashInfer, those of its benchmark registry left out."""
    loaded = {
        name
        for module_name, module in generators._loaded()
        for name, value in vars(module).items()
        if module_name != "flashinfer.aot" and GENERATOR.fullmatch(name) and inspect.isfunction(inspect.unwrap(value))
    }
    return loaded | set(defining_modules())


def _record(op: str, generator: Callable[..., Any]) -> dict[str, Any]:
    doc = (inspect.getdoc(generator) or "").strip()
    unused = of_wrapper(generator) is None and generators.is_unused(generator)
    return {
        "op": op,
        "generator": generators.where(generator),
        "parameters": list(_parameters(generator)),
        "doc": doc.splitlines()[0].strip() if doc else "",
        "note": "nothing in this FlashInfer, nor in an installed engine, calls it" if unused else "",
        "kind": "flashinfer",
    }


def _unusable(function: str, message: str) -> dict[str, Any]:
    place = f"{defining_modules()[function][0]}:{function}"
    op = {"op": generators._op_name(function), "generator": place, "parameters": [], "doc": "", "note": message}
    return {**op, "kind": "flashinfer"}


def _parameters(generator: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    hints = parameters._hints(generator)
    named = {
        name: one
        for name, one in inspect.signature(generator).parameters.items()
        if not one.kind.name.startswith("VAR_")
    }
    assumed = parameters._defaults({"dtype_q": FOLLOWS}, named, hints)
    for name, one in named.items():
        default = assumed.get(name) if one.default is one.empty else one.default
        yield {
            "name": name,
            "required": one.default is one.empty and name not in assumed,
            "default": parameters._plain(default),
            "type": _type(name, hints.get(name)),
            "accepted": accepted_values(generator, name),
        }


def _type(name: str, hint: Any) -> str:
    import torch

    hint = parameters._without_none(hint)
    if hint is torch.dtype or (hint is None and name.startswith("dtype")):
        return "dtype"
    if typing.get_origin(hint) in parameters._COLLECTIONS or hint in parameters._COLLECTIONS:
        return "list"
    return hint.__name__ if hint in parameters._SCALARS else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
