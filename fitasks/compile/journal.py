"""What happened in a run, one JSON object per line, appended as it happens.

Each run has a file of its own, `.fitasks/journals/<time>-<pid>.jsonl`: two may work in one project at once.
`.fitasks/journal.jsonl` is a link to that of the last run that began to compile; a later one that found nothing to
compile doesn't take its place. The first line is `run`. Times are Unix seconds. A reader stops at a torn line.

    {"event": "run", "t": …, "version": 1, "slots": 2, "reason": "2 compilers: …", "bound": seconds it takes at least,
     "expected": seconds it takes as far as is known,
     "kernels": [{"label": "page", "files": 2, "kept": of them, with an object that stays, "cpu_seconds": that
     the others took before, "learnt": true}, …]}    that are stale
    {"event": "begin", "t": …, "label": "page", "op": "page", "target": "9.0a", "files": 2, "why": ["new: …", …]}
    {"event": "file", "begin": …, "end": …, "label": "page", "output": "csrc_page.cuda.o", "status": 0 or as subprocess
     has it, "threads": of nvcc's optimiser, "slots": that it takes}     one per compiler, linker, also of failed ones
     (both with "worker": its address, where another machine compiles; times are that machine's)
    {"event": "narrowed", "t": …, "slots": that there are from now on}      a compiler was killed for want of memory
    {"event": "end", "t": …, "label": "page", "outcome": "compiled", "failed", "stopped", …, "seconds": …,
     "cpu_seconds": …, "peak_rss": …, "bytes": …, "error": ""}
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAME = "journal.jsonl"
_DIRECTORY = "journals"
_KEPT = 8  # of the last runs


class Journal:
    """Appends. Losing it costs a report, no kernel."""

    def __init__(
        self, path: Path, observers: Iterable[Callable[[dict[str, Any]], None]] = (), link: Path | None = None
    ) -> None:
        self._path, self._link = path, link
        self._observers = tuple(observers)
        self._lock = threading.Lock()
        self._begun = False

    @classmethod
    def of_run(cls, state: Path, observers: Iterable[Callable[[dict[str, Any]], None]] = ()) -> Journal:
        """That of this process, in the project's .fitasks; those of runs of long ago are removed."""
        directory, link = state / _DIRECTORY, state / NAME
        _remove_old(directory, link)
        return cls(directory / f"{time.time_ns()}-{os.getpid()}.jsonl", observers, link)

    def write(self, event: str, **fields: Any) -> None:
        """One event, whole or (in a crash) torn at the end."""
        record = {"event": event, "t": round(time.time(), 3)} | fields
        for observer in self._observers:
            observer(record)
        with self._lock, contextlib.suppress(OSError):
            self._append(json.dumps(record) + "\n")
            if self._link and (event == "begin" or not self._link.exists()):
                _point(self._link, self._path)
                self._link = None if event == "begin" else self._link

    def _append(self, line: str) -> None:
        mode = "a" if self._begun else "w"
        self._begun = True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open(mode, encoding="utf-8") as stream:
            stream.write(line)


def _point(link: Path, path: Path) -> None:
    """Make `link` lead to `path`, which is below its directory; whoever reads it meanwhile finds the old or the new."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")  # temporary.sweep_files knows it by that
    temporary.symlink_to(path.relative_to(link.parent))
    temporary.replace(link)


def _remove_old(directory: Path, link: Path) -> None:
    """All but the last few, the one that the report is about, and those of runs that go on."""
    with contextlib.suppress(OSError):
        for path in sorted(directory.glob("*.jsonl"))[:-_KEPT]:
            pid = path.stem.rpartition("-")[2]
            if path.name != link.resolve().name and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)
