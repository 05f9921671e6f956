"""Plans FlashInfer's CuTe-DSL kernels in the serving interpreter: which object of its disk cache a server would load.

    <serving python> cute_plan.py REQUEST.json RESPONSE.json

Runs like plan.py beside it, in the same environment, and fails like it (exit status 3, "fatal"), but needs no toolkit:
nvidia-cutlass-dsl brings its own compiler. No GPU is needed, nothing is compiled or written.

Request: {"version": 1, "architecture": "9.0a", "device": {"multi_processor_count": 132}, "recorded": false, "load":
false, "kernels": [{"id": 0, "op": "flashinfer.norm.kernels.rmsnorm_sigmoid_gate:_get_compiled", "params": {}}]}.
`device` is what is known of the GPU beside its architecture; it may be left out. With `load` each object also has
"loads", FlashInfer's whole judgement, for which it loads what is there, and "why" it doesn't take it.

Response: what was imported, "stack" (FlashInfer's fingerprint of the compiler), "strict" (whether its keys cover
helpers, too), "python" and "packages" (the same, wherever they are installed: cute_content), "kernels", each with "op",
"params" and its "objects" (cute_objects.object_record), or with its "error", and "reads". `error.kind` is one of
PlanError's, "in_memory" where no object is kept on disk, or "device" where the object depends on more of the GPU than
is known.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import cute_content  # noqa: E402
import cute_functions  # noqa: E402
import plan_requests  # noqa: E402
from cute_content import Sources  # noqa: E402
from cute_device import Device, check_architecture, know_shared_memory, name_architecture, standing_in  # noqa: E402
from cute_objects import core, loads, object_record, objects_of  # noqa: E402
from load_flashinfer import import_flashinfer  # noqa: E402
from plan_requests import kernels_of, read_request, record_of  # noqa: E402
from plan_spec import confined  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry != _HERE]


class Wanted(NamedTuple):
    """A request."""

    device: Device
    kernels: list[dict[str, Any]]
    recorded: bool
    load: bool


# What is said of an op, its parameters, and whether objects are to be loaded.
Each = Callable[[str, dict[str, Any], bool], dict[str, Any]]


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    return run(argv, planned)


def run(argv: list[str], each: Each) -> int:
    """Answer a request with what `each` says of an op and its parameters."""
    return plan_requests.run(argv, lambda request: _answer(request, each))


def _answer(request: Path, each: Each) -> dict[str, Any]:
    wanted = read_request(request, _checked)
    named = "CUTE_DSL_ARCH" in os.environ
    name_architecture(wanted.device)
    import_flashinfer()
    head = _head()
    check_architecture(wanted.device, named)
    know_shared_memory(wanted.device)
    guard = confined() if wanted.recorded else contextlib.nullcontext()
    with standing_in(wanted.device), guard:
        kernels = [record_of(one, lambda op, params: each(op, params, wanted.load)) for one in wanted.kernels]
        return {**head, "kernels": kernels}


def _checked(request: dict[str, Any]) -> Wanted:
    device = Device(str(request["architecture"]), dict(request.get("device") or {}))
    return Wanted(device, kernels_of(request), bool(request.get("recorded")), bool(request.get("load")))


def _head() -> dict[str, Any]:
    import flashinfer
    import torch
    import tvm_ffi
    from flashinfer.jit import env

    cute = core()
    return {
        "flashinfer": flashinfer.__version__,
        "flashinfer_root": str(Path(str(flashinfer.__file__)).parent),
        "torch": str(torch.__version__),
        "tvm_ffi": tvm_ffi.__version__,
        "workspace": str(env.FLASHINFER_WORKSPACE_DIR),
        "stack": cute._get_cute_dsl_version(),
        "python": cute_content.python(),
        "packages": cute_content.packages(),
        "strict": getattr(cute, "cute_dsl_strict_cache_key", bool)(),
    }


def planned(op: str, params: dict[str, Any], load: bool) -> dict[str, Any]:
    """What a server would load or make for an op. Raises PlanError."""
    function = cute_functions.find_function(op)
    arguments = cute_functions.arguments_for(function, params)
    sources = Sources(core())
    with sources.noted():
        specs = objects_of(function, arguments)
    objects = [{**object_record(spec, sources), **(loads(spec) if load else {})} for spec in specs]
    return {"op": op, "params": cute_functions.as_json(function, arguments), "objects": objects}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
