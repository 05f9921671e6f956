"""What an answer of the serving interpreter rests on, kept with the answer: it holds while all of that is the same.

The scripts list what they read (`fitasks/serving/plan/plan_reads.py`). Of each file the quick look (size, mtime, ctime,
inode) and SHA-256 are kept, of each directory that was searched for modules the quick look and those of its entries
that an import could have meant. Only where the quick look differs is anything read. 2,500 files and 250 directories
take 6 ms.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fitasks.base.files import look, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LARGEST = 8 << 20  # bytes; of a larger file, a library, the quick look alone decides
_ALWAYS = (".pth", ".dist-info", ".egg-info", ".egg-link")  # decide what is found, whatever their names
_FEW = 8  # directories that are listed again at each run rather than written down anew

Look = list[int]  # size, mtime, ctime (ns), inode; [] where there is nothing
Files = dict[str, dict[str, list[Any]]]  # by directory, so that a path is written down once: name → [*look, SHA-256]


@dataclass
class Reads:
    """All that was read, and what was searched."""

    files: Files = field(default_factory=dict)
    directories: dict[str, list[Any]] = field(default_factory=dict)  # path → [look, content, index into `names`]
    names: list[str] = field(default_factory=list)  # of modules, a blank between them
    renewed: bool = False  # whether `hold()` took quick looks anew, so that this is worth writing down again

    @classmethod
    def of(cls, noted: Iterable[dict[str, Any]], since_ns: int, python: Path) -> Reads:
        """All that several scripts noted, as it is now, and the interpreter, which may be a script that starts one.

        A file that changed after `since_ns` may not be what they read: it is written down so that it never holds.
        """
        noted = list(noted)
        reads = cls()
        for path in sorted({str(python), *(path for one in noted for path in one["files"])}):
            add(reads.files, path, _unless_changed(seen(path), since_ns))
        reads._add_directories(searched for one in noted for searched in one["looked"])
        return reads

    def _add_directories(self, looked: Iterable[tuple[list[str], list[str]]]) -> None:
        asked: dict[str, set[str]] = {}
        for places, names in looked:
            for place in places:
                asked.setdefault(place, set()).update(names)
        index: dict[str, int] = {}
        for place, found in sorted(asked.items()):
            text = " ".join(sorted(found))
            self.directories[place] = [look(place), _listing(place, text), index.setdefault(text, len(index))]
        self.names = list(index)

    @classmethod
    def holding(cls, record: Any) -> Reads | None:
        """Those of a memo, if they hold; None also where the memo is damaged."""
        try:
            reads = cls(**record)
            return reads if reads.hold() else None
        except (TypeError, ValueError, LookupError, AttributeError):
            return None

    def hold(self) -> bool:
        """Whether all of it is as it was. A quick look that differs where the content doesn't is taken anew."""
        return self._files_hold() and self._directories_hold()

    def _files_hold(self) -> bool:
        touched = changed(self.files)
        self.renewed = bool(touched)
        return touched is not None

    def _directories_hold(self) -> bool:
        listed = 0
        for place, known in self.directories.items():
            now = look(place)
            if now == known[0]:
                continue
            if _listing(place, self.names[known[2]]) != known[1]:
                return False
            known[0] = now
            listed += 1
        self.renewed = self.renewed or listed > _FEW
        return True

    def as_record(self) -> dict[str, Any]:
        """For JSON; `holding` reads it again."""
        return {"files": self.files, "directories": self.directories, "names": self.names}


def add(files: Files, path: str, known: list[Any]) -> None:
    """Write a file down."""
    directory, _, name = path.rpartition("/")
    files.setdefault(directory, {})[name] = known


def changed(files: Files, *, may_be_gone: bool = False) -> int | None:
    """None if the content of one isn't what it was, or else how many quick looks differed, which are taken anew.

    A large file that was touched is taken for another.
    """
    touched, stat = 0, os.stat
    for directory, names in files.items():
        for name, known in names.items():
            try:
                found = stat(f"{directory}/{name}")
                if [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino] == known[:4]:
                    continue
            except OSError:
                if may_be_gone or not known[:-1]:
                    continue
            now = seen(f"{directory}/{name}")
            if not now[-1] or now[-1] != known[-1]:
                return None
            names[name] = now
            touched += 1
    return touched


def seen(path: str) -> list[Any]:
    """[*look, SHA-256]: the latter "" of what is too large, of no regular file, and of what can't be read."""
    found = look(path)
    try:
        return [*found, sha256_file(path) if found and found[0] <= _LARGEST and os.path.isfile(path) else ""]  # noqa: PTH113
    except OSError:
        return [*found, ""]


def _unless_changed(known: list[Any], since_ns: int) -> list[Any]:
    return [-1, -1, -1, -1, ""] if len(known) > 1 and max(known[1:3]) >= since_ns else known


def _listing(place: str, names: str) -> str:
    """A digest of what an import of these names could find there, and of what tells where packages are."""
    wanted = set(names.split(" "))
    try:
        entries = os.listdir(place)  # noqa: PTH208 - hundreds
    except OSError:
        return ""  # no directory
    found = [entry for entry in entries if entry.partition(".")[0] in wanted or entry.endswith(_ALWAYS)]
    return sha256("\0".join(sorted(found)).encode(errors="surrogateescape")).hexdigest()
