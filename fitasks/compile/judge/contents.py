"""What files contain, each read once per run for all kernels, and remembered between runs.

A file is read again only if its size, mtime, ctime or inode differ from the remembered ones; ctime is part of that
because nobody can set it, so a file overwritten under its old mtime is noticed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base import memo
from fitasks.base.files import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 2


class _Memo(TypedDict):
    version: int
    files: dict[str, Any]  # looked at one by one, when they are wanted: there are thousands


@dataclass(frozen=True)
class State:
    """One file now: SHA-256 in hex and mtime in nanoseconds."""

    digest: str
    mtime_ns: int
    size: int


@dataclass
class Contents:
    """The states of files. `file` is the persistent memo; `state()` answers from this run's first look."""

    file: Path
    _seen: dict[str, State | None] = field(default_factory=dict)
    _memo: dict[str, list[int | str]] = field(default_factory=dict)
    _learnt: list[str] = field(default_factory=list)  # shared with `refreshed()`, like the memo

    @classmethod
    def load(cls, file: Path) -> Contents:
        """With the memo of earlier runs; a damaged memo is an empty one."""
        said = memo.read(file, _Memo)
        return cls(file, _memo=said["files"] if said and said["version"] == _VERSION else {})

    def state(self, path: str) -> State | None:
        """The file's state, None where there is no such (readable, regular) file; looked at once per run."""
        try:
            return self._seen[path]
        except KeyError:
            found = self._seen[path] = self.look(path)
            return found

    def look(self, path: str) -> State | None:
        """The file's state at this moment."""
        try:
            stat = os.stat(path)  # noqa: PTH116 - called for thousands of files
            if not S_ISREG(stat.st_mode):
                return None  # /dev/zero would be read for ever
            identity = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            known = self._memo.get(path)
            if type(known) is list and len(known) == 5 and known[:4] == identity:
                return State(str(known[4]), stat.st_mtime_ns, stat.st_size)
            digest = sha256_file(path)
        except (OSError, ValueError):  # a NUL: no file has such a name
            return None
        self._memo[path] = [*identity, digest]
        self._learnt.append(path)
        return State(digest, stat.st_mtime_ns, stat.st_size)

    def stamp(self, path: str) -> tuple[int, int] | None:
        """(size, mtime_ns) at this moment, without reading; None where there is no such file."""
        try:
            stat = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        return stat.st_size, stat.st_mtime_ns

    def refreshed(self) -> Contents:
        """The same memo, and no file looked at yet."""
        return Contents(self.file, _memo=self._memo, _learnt=self._learnt)

    def save(self) -> None:
        """Keep the memo for the next run, where anything was learnt."""
        if self._learnt:
            self._learnt.clear()
            memo.keep(self.file, {"version": _VERSION, "files": dict(self._memo)})
