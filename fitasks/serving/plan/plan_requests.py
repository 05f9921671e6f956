"""What every planning script does with its request and its response; each says for itself what it answers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_errors import FatalError, PlanError, one_line
from plan_reads import Reads
from plan_spec import install_network_guard

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 1


def run(argv: list[str], answer: Callable[[Path], dict[str, Any]]) -> int:
    """Answer the request of `SCRIPT REQUEST.json RESPONSE.json`; the exit status."""
    try:
        request, response = map(Path, argv[:2])
    except ValueError:
        print(f"usage: {Path(sys.argv[0]).name} REQUEST.json RESPONSE.json", file=sys.stderr)
        return 2
    return respond(response, lambda: answer(request))


def respond(response: Path, make: Callable[[], dict[str, Any]]) -> int:
    """Write the response that is made, and what it rests on; the exit status."""
    reads = Reads()
    reads.start()
    os.dup2(2, 1)  # FlashInfer and torch print at import; our answer is a file
    response.unlink(missing_ok=True)  # whoever finds a response finds this run's
    install_network_guard()
    try:
        answer = make()
    except FatalError as error:
        print(f"{Path(sys.argv[0]).name}: {error.fields['message']}", file=sys.stderr)
        _write_atomic(response, {"version": VERSION, "fatal": error.fields})
        return 3
    answer["reads"] = reads.noted(str(response.parent), answer["workspace"])
    _write_atomic(response, {"version": VERSION, **answer})
    return 0


def read_request(path: Path, checked: Callable[[dict[str, Any]], Any]) -> Any:
    """What `checked` makes of a request of our version. Raises FatalError where it is none."""
    try:
        return checked(_of_this_version(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} is no request for this planner: {one_line(error)}"
        remedy = f"use the {Path(sys.argv[0]).name} that belongs to this fitasks"
        raise FatalError("request", message, remedy) from error


def _of_this_version(request: dict[str, Any]) -> dict[str, Any]:
    if request["version"] != VERSION:
        raise ValueError(f"version {request['version']}, not {VERSION}")
    return request


def kernels_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The request's kernels. Raises KeyError, TypeError, ValueError for what is none."""
    return [
        {"id": one["id"], "op": str(one["op"]), "params": dict(one.get("params") or {})} for one in request["kernels"]
    ]


def record_of(kernel: dict[str, Any], make: Callable[[str, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """One kernel of a request as a record of the response; its mistakes are part of the record. Raises FatalError."""
    try:
        return {"id": kernel["id"], **make(kernel["op"], kernel["params"])}
    except PlanError as error:
        return {"id": kernel["id"], **error.record()}
    except FatalError:
        raise
    except Exception as error:  # an engine unlike those we know must not cost the other kernels
        return {"id": kernel["id"], **PlanError("generator", f"{kernel['op']}: {one_line(error)}").record()}


def file_record(path: str) -> dict[str, Any]:
    """Size and SHA-256 of what was made; 0 and "" where nothing is."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return {"size": 0, "sha256": ""}
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_atomic(path: Path, answer: dict[str, Any]) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=str(path.parent))
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(answer, stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
