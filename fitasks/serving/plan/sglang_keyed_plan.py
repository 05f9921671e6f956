"""Plans modules of SGLang's content-addressed JIT in the serving interpreter: where a server looks, and what it finds.

    <serving python> sglang_keyed_plan.py REQUEST.json RESPONSE.json

For SGLang 0.5.23 and those like it; plan.py does 0.5.16's form. Runs in the server's environment, and fails like
plan.py (exit status 3, "fatal"). No GPU is needed; nothing is compiled, loaded or written. Compilers are asked for
their version, for SGLang's key has their answers.

Request: {"version": 1, "architecture": "9.0a", "recorded": false, "kernels": [{"id": 0, "op":
"sglang.kernels.ops.attention.clamp_position:_jit_clamp_position_module", "params": {"dtype": "int64"}}]}.

Response: what was imported; "cache", "target" and "fingerprint" (SGLang's, of compilers and packages); "needs", what a
server must have to find these modules: compilers' answers (`says`: null where one can't be started, and then nothing
can be compiled here), variables that are part of the key, whether CUDA_HOME is `linked` (then its spelling is part of
the key, too), and the roots below which a leaf's files are looked for;
"kernels", each with sglang_keyed.record's fields or its "error"; and "reads".
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import plan_requests  # noqa: E402
import sglang_keyed  # noqa: E402
from load_flashinfer import import_flashinfer, uncollected  # noqa: E402
from plan_errors import FatalError  # noqa: E402
from plan_parameters import as_json  # noqa: E402
from plan_requests import kernels_of, read_request, record_of  # noqa: E402
from plan_spec import confined  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

_ARCHITECTURE = re.compile(r"(\d+)\.(\d)[a-z]?", re.ASCII)


class Wanted(NamedTuple):
    """A request."""

    architecture: str
    kernels: list[dict[str, Any]]
    recorded: bool

    @property
    def capability(self) -> tuple[int, int]:
        """Of the GPU. Raises FatalError."""
        found = _ARCHITECTURE.fullmatch(self.architecture)
        if not found:
            raise FatalError("request", f"{self.architecture!r} is no GPU architecture", 'write it like "9.0a"')
        return int(found[1]), int(found[2])


# What is said of an op and its parameters, which may be recorded by whomever.
Each = Callable[[str, "dict[str, Any]", bool], "dict[str, Any]"]


def main(argv: list[str]) -> int:
    """Run the script; the exit status."""
    return run(argv, planned)


def run(argv: list[str], each: Each) -> int:
    """Answer a request with what `each` says of an op and its parameters."""
    return plan_requests.run(argv, lambda request: _answer(request, each))


def said(argv: list[str], name: str) -> Any:
    """What a request says beside what is asked of all; whatever else is wrong with it is told by `run`."""
    try:
        return json.loads(Path(argv[0]).read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError, IndexError):
        return None


def _answer(request: Path, each: Each) -> dict[str, Any]:
    wanted = read_request(request, _checked)
    capability = wanted.capability
    if wanted.recorded:  # what a trace names is confined to FlashInfer's cache, too
        import_flashinfer()
    with uncollected():  # SGLang imports torch
        head = _head(wanted, sglang_keyed.environment(capability))
    guard = confined() if wanted.recorded else contextlib.nullcontext()
    with sglang_keyed.standing_in(capability), guard:
        kernels = [record_of(one, lambda op, params: each(op, params, wanted.recorded)) for one in wanted.kernels]
        return {**head, "kernels": kernels}


def _checked(request: dict[str, Any]) -> Wanted:
    return Wanted(str(request["architecture"]), kernels_of(request), bool(request.get("recorded")))


def _head(wanted: Wanted, environment: dict[str, Any]) -> dict[str, Any]:
    """Raises FatalError where SGLang compiles for another architecture on such a GPU."""
    import torch
    import tvm_ffi

    if message := sglang_keyed.unlike(environment, wanted.architecture):
        raise FatalError("unsupported", message, "name the architecture that it compiles for as the target")
    versions = {"torch": str(torch.__version__), "tvm_ffi": tvm_ffi.__version__}
    return {**versions, **environment, "workspace": environment["cache"]}


def planned(op: str, params: dict[str, Any], recorded: bool) -> dict[str, Any]:
    """Which module an op is, and what a server would find of it. Raises PlanError."""
    function, arguments, asked = sglang_keyed.asked_for(op, params, recorded)
    return {**sglang_keyed.record(asked), "op": op, "params": as_json(function, arguments)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
