"""Writing one line of a trace (format: fitasks/trace/model.py)."""

from __future__ import annotations

import json
import os
import sys
import time
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Origin = tuple[str, dict[str, Any], str]  # generator, arguments, why kernels.yaml can't say them

_LONGEST = 4000  # bytes of a line: one write of less than a page isn't torn by another process's
_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "SGLANG_TP_RANK", "VLLM_DP_RANK")
NOBODYS: Origin = ("", {}, "")
_told_of: dict[int, float] = {}  # thread → seconds
_short: set[tuple[str, str]] = set()  # (kind, name) of what took no time when it was last called in this process
os.register_at_fork(after_in_child=_short.clear)


def told_of() -> float:
    """Seconds that this thread has waited for, by its lines so far."""
    return _told_of.get(get_ident(), 0.0)


def write(
    trace: str, name: str, kind: str, how: str, *, seconds: float = 0.0, origin: Origin = NOBODYS, pid: int = 0
) -> None:
    """Append what befell a module of a toolchain to `trace`, in this process or in `pid`. Raises OSError."""
    generator, arguments, unsaid = origin
    record: Mapping[str, Any] = {
        "version": 1,
        "name": name,
        "generator": generator,
        "arguments": arguments,
        "unsaid": unsaid,
        "kind": kind,
        "how": how,
        "seconds": round(seconds, 3),
        "time": round(time.time(), 3),
        "pid": pid or os.getpid(),
        "rank": _rank(),
        "flashinfer": str(_said_by("flashinfer.version", "__version__")),
        "architectures": _architectures(),
    }
    _told_of[get_ident()] = told_of() + seconds
    line = json.dumps(record)
    if len(line) >= _LONGEST:
        line = json.dumps(dict(record, arguments={}, unsaid="its arguments are too long to be noted"))
    descriptor = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def begun(trace: str, name: str, kind: str, *, origin: Origin = NOBODYS) -> None:
    """Append that a wait begins: of one in which the process is killed no other line tells. Raises OSError."""
    write(trace, name, kind, "begun", origin=origin)


def begun_if_long(trace: str, name: str, kind: str) -> bool:
    """The same for what servers call all the time, unless it was short the last time; whether it was said."""
    if (kind, name) in _short:
        return False
    begun(trace, name, kind)
    return True


def over(trace: str, name: str, kind: str, *, said: bool, short: bool) -> None:
    """Remember how long a wait was, and append that it is over where it was `said` to begin and no line names it."""
    (_short.add if short else _short.discard)((kind, name))
    if said:
        write(trace, name, kind, "over")


def _architectures() -> str:
    """The last part of FlashInfer's workspace, which is its version where it sees neither a GPU nor a list of them."""
    last = getattr(_said_by("flashinfer.jit.env", "FLASHINFER_WORKSPACE_DIR"), "name", "")
    return "" if last == _said_by("flashinfer.version", "__version__") else str(last)


def _said_by(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, "")


def _rank() -> str:
    """RANK, or what torch.distributed says: engines seldom set the variable for workers that they spawn."""
    if os.environ.get("RANK"):
        return os.environ["RANK"]
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return str(distributed.get_rank())
    except Exception:
        return ""
    return next((os.environ[name] for name in _RANKS if os.environ.get(name)), "")
