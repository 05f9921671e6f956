"""What happened in the last run, one JSON object per line, appended as it happens.

`.fitasks/journal.jsonl` begins with a `run` line. Times are Unix seconds. A reader stops at a torn line.

    {"event": "run", "t": …, "version": 1, "slots": 2, "reason": "2 compilers: …", "bound": seconds it takes at least,
     "expected": seconds it takes as far as is known,
     "kernels": [{"label": "page", "files": 2, "cpu_seconds": as it took before, "learnt": true}, …]}    that are stale
    {"event": "begin", "t": …, "label": "page", "op": "page", "target": "9.0a", "files": 2, "why": ["new: …", …]}
    {"event": "file", "begin": …, "end": …, "label": "page", "output": "csrc_page.cuda.o"}     one per compiler, linker
    {"event": "end", "t": …, "label": "page", "outcome": "compiled", "seconds": …, "cpu_seconds": …, "peak_rss": …,
     "bytes": …, "error": ""}
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

NAME = "journal.jsonl"


class Journal:
    """Appends; the first line of a run replaces the journal of the run before. Losing it costs a report, no kernel."""

    def __init__(self, path: Path, observers: Iterable[Callable[[dict[str, Any]], None]] = ()) -> None:
        self._path = path
        self._observers = tuple(observers)
        self._lock = threading.Lock()
        self._begun = False

    def write(self, event: str, **fields: Any) -> None:
        """One event, whole or (in a crash) torn at the end."""
        record = {"event": event, "t": round(time.time(), 3)} | fields
        for observer in self._observers:
            observer(record)
        line = json.dumps(record) + "\n"
        with self._lock:
            mode = "a" if self._begun else "w"
            self._begun = True
            try:
                with self._path.open(mode, encoding="utf-8") as stream:
                    stream.write(line)
            except OSError:
                return


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of the last run, up to the first torn line; none where there is no journal."""
    events = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines[:-1]:
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events
