"""A worker's side of `fitasks --workers`: the project in its directory, its own plan, one pool for all askers."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import FitasksError
from fitasks.base.streams import tell
from fitasks.fleet.work import Worker
from fitasks.graph.session import Session

if TYPE_CHECKING:
    from fitasks.compile.pool.pool import Pool

ENTRY = f"{__name__}:of_run"

_KEPT = 4  # runs of askers, so that one that ends doesn't cost another its plan
_WORKERS: dict[str, Worker] = {}
_POOLS: list[Pool] = []
_LOCK = threading.Lock()


def of_run(run: str) -> Worker:
    """The worker of an asker's run: planned when it is first asked, as doit is when it is started."""
    with _LOCK:
        if run not in _WORKERS:
            for old in list(_WORKERS)[: 1 - _KEPT]:
                del _WORKERS[old]
            _WORKERS[run] = _made(Path.cwd())
        return _WORKERS[run]


def prepare() -> None:
    """Import, plan, and look at what kernels are made of: whoever asks first needn't wait for it."""
    with contextlib.suppress(OSError):  # whoever asks is told
        problem = of_run("").describe().problem
        tell(f"this worker can't compile: {problem}" if problem else "this worker is ready")


def _made(root: Path) -> Worker:
    try:
        session = Session.load(root)
    except FitasksError as error:
        session = Session(root, error)
    session.prefetches = False  # the one who asks has looked, and orders what no store had
    worker = Worker(session)
    if not session.problem:
        builder = session.builder()
        _POOLS[:] = _POOLS or [builder.runner.pool]
        builder.runner = replace(builder.runner, pool=_POOLS[0])
    return worker
