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
import sglang_keyed  # noqa: E402
from load_flashinfer import import_flashinfer  # noqa: E402
from plan import VERSION, respond  # noqa: E402
from plan_errors import FatalError, PlanError, one_line  # noqa: E402
from plan_parameters import as_json  # noqa: E402
from plan_spec import confined  # noqa: E402
from sglang_keyed import Asked, Loaded  # noqa: E402

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
    try:
        request, response = map(Path, argv[:2])
    except ValueError:
        print(f"usage: {Path(sys.argv[0]).name} REQUEST.json RESPONSE.json", file=sys.stderr)
        return 2
    return respond(response, lambda: _answer(request, each))


def _answer(request: Path, each: Each) -> dict[str, Any]:
    wanted = _read(request)
    capability = wanted.capability
    if wanted.recorded:  # what a trace names is confined to FlashInfer's cache, too
        import_flashinfer()
    head = _head(wanted, sglang_keyed.environment(capability))
    guard = confined() if wanted.recorded else contextlib.nullcontext()
    with sglang_keyed.standing_in(capability), guard:
        return {**head, "kernels": [_one(kernel, each, wanted.recorded) for kernel in wanted.kernels]}


def _read(path: Path) -> Wanted:
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} is no request for this planner: {one_line(error)}"
        raise FatalError("request", message, "use the script that belongs to this fitasks") from error


def _checked(request: dict[str, Any]) -> Wanted:
    if request["version"] != VERSION:
        raise ValueError(f"version {request['version']}, not {VERSION}")
    kernels = [
        {"id": one["id"], "op": str(one["op"]), "params": dict(one.get("params") or {})} for one in request["kernels"]
    ]
    return Wanted(str(request["architecture"]), kernels, bool(request.get("recorded")))


def _head(wanted: Wanted, environment: dict[str, Any]) -> dict[str, Any]:
    """Raises FatalError where SGLang compiles for another architecture on such a GPU."""
    import torch
    import tvm_ffi

    target = f"sm{wanted.architecture.replace('.', '')}"
    if environment["target"] != target:
        message = f"this SGLang compiles for {environment['target']} on a GPU of {wanted.capability}, not for {target}"
        raise FatalError("unsupported", message, "name the architecture that it compiles for as the target")
    versions = {"torch": str(torch.__version__), "tvm_ffi": tvm_ffi.__version__}
    return {**versions, **environment, "workspace": environment["cache"]}


def _one(kernel: dict[str, Any], each: Each, recorded: bool) -> dict[str, Any]:
    """One kernel of the request as a record of the response; its mistakes are part of the record."""
    try:
        return {"id": kernel["id"], **each(kernel["op"], kernel["params"], recorded)}
    except PlanError as error:
        return {"id": kernel["id"], **error.record()}
    except FatalError:
        raise
    except Exception as error:  # an SGLang unlike those we know must not cost the other kernels
        return {"id": kernel["id"], **PlanError("generator", f"{kernel['op']}: {one_line(error)}").record()}


def planned(op: str, params: dict[str, Any], recorded: bool) -> dict[str, Any]:
    """Which module an op is, and what a server would find of it. Raises PlanError."""
    function, arguments, asked = asked_for(op, params, recorded)
    return {**sglang_keyed.record(asked), "op": op, "params": as_json(function, arguments)}


def asked_for(op: str, params: dict[str, Any], recorded: bool) -> tuple[Callable[..., Any], dict[str, Any], Asked]:
    """An op's function, its arguments, and the module that they ask load_jit for. Raises PlanError."""
    function, arguments = sglang_keyed.find(op, params, recorded=recorded)
    asked: list[Asked] = []
    with sglang_keyed.noting(asked, find_prebuilt=lambda **_asked: Path(), load=lambda _library: Loaded()):
        sglang_keyed.call(function, arguments)
    return function, arguments, sglang_keyed.only(asked, function)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
