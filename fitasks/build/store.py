"""Finished kernels by content, so that a FlashInfer upgrade compiles only what it changed.

    <store>/<module>/<fingerprint>/   fitasks-receipt.json, the .so, its objects

A module has one directory for everything that it was once compiled from. It is adopted if the commands and tools of
its receipt are today's, and every input, source or header, has the same contents now. (As with any compiler cache, a
new header that would be found *before* one of those on the include path goes unnoticed; FlashInfer's include path is
its own package, whose every file has one place.)

Putting in is a hard link and costs nothing. Taking out copies: timestamps are to be changed, and those of a
shared file would change in every other cache too. A directory appears by rename, whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.build import receipt as receipts
from fitasks.build.ninja import DEPS, LOG
from fitasks.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.build.freshness import Judge
    from fitasks.build.reasons import Judgement, Reason
    from fitasks.build.receipt import Receipt
    from fitasks.plan.kernel import Kernel

DEFAULT_LIMIT = 20 * 10**9  # bytes
_LOGS = {LOG, DEPS}
_BEGUN, _DAY = ".tmp-", 86_400  # a kernel that is being put in; seconds


@dataclass(frozen=True)
class Stored:
    """One finished kernel in the store."""

    path: Path
    bytes: int
    used_ns: int  # when it was put in or last adopted


@dataclass(frozen=True)
class Store:
    """A directory of finished kernels. Every method but `gc` treats trouble with it as "not there"."""

    root: Path

    def put(self, kernel: Kernel, receipt: Receipt) -> None:
        """Keep a kernel that has just been built."""
        place = self.root / kernel.name / receipt.fingerprint
        if place.exists():
            return
        with contextlib.suppress(OSError), _beside(place) as scratch:
            for name in set(receipt.outputs) - _LOGS:
                _link_or_copy(kernel.build_dir / name, scratch / name)
            (scratch / receipts.NAME).write_text(json.dumps(asdict(receipt)))
            scratch.rename(place)

    def find(self, kernel: Kernel, judge: Judge) -> tuple[Path, Receipt] | None:
        """A stored kernel all of whose inputs are what they are now, with its files whole."""
        for place, receipt in self._candidates(kernel):
            if not judge.differences(kernel, receipt) and _whole(place, receipt):
                return place, receipt
        return None

    def nearest(self, kernel: Kernel, judge: Judge) -> tuple[Receipt, list[Reason]] | None:
        """The stored kernel that differs least from what is wanted, and in what; None where there is none."""
        found = [(receipt, judge.differences(kernel, receipt)) for _, receipt in self._candidates(kernel)]
        return min(found, key=lambda pair: len(pair[1]), default=None)

    def told(self, kernel: Kernel, judge: Judge, judged: Judgement) -> list[str]:
        """Return, of a kernel without a receipt, whether it can be adopted, and if not, what keeps it from that."""
        if not judged.reasons or judged.reasons[0].kind not in {"new", "elsewhere", "incomplete", "failed"}:
            return []
        if not (found := self.nearest(kernel, judge)):
            return []
        receipt, reasons = found
        if not reasons:
            return [f"will be adopted: compiled for FlashInfer {receipt.flashinfer}, all inputs equal"]
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        return [f"not adopted from FlashInfer {receipt.flashinfer}: {reasons[0]}{more}"]

    def _candidates(self, kernel: Kernel) -> Iterator[tuple[Path, Receipt]]:
        try:
            places = sorted((self.root / kernel.name).iterdir())
        except OSError:
            return
        for place in places:
            if receipt := receipts.read_file(place / receipts.NAME, kernel.name):
                yield place, receipt

    def take(self, place: Path, receipt: Receipt, kernel: Kernel) -> None:
        """Lay a stored kernel's files into its build directory; without a receipt, which is for the caller to write.

        Raises OSError.
        """
        for name in set(receipt.outputs) - _LOGS:
            target = kernel.build_dir / name
            target.unlink(missing_ok=True)
            shutil.copy(place / name, target)
        os.utime(place)

    def contents(self) -> list[Stored]:
        """Everything stored, least recently used first."""
        found = []
        for place in self.root.glob("*/*"):
            if not _is_entry(place):
                continue
            with contextlib.suppress(OSError):
                size = sum(path.stat().st_size for path in place.iterdir())
                found.append(Stored(place, size, place.stat().st_mtime_ns))
        return sorted(found, key=lambda stored: stored.used_ns)

    def gc(self, limit: int = DEFAULT_LIMIT) -> list[Stored]:
        """Remove the least recently used until at most `limit` bytes are left; what was removed."""
        stored = self.contents()
        total = sum(entry.bytes for entry in stored)
        removed = []
        for entry in stored:
            if total <= limit:
                break
            shutil.rmtree(entry.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                entry.path.parent.rmdir()
            total -= entry.bytes
            removed.append(entry)
        return removed


def _is_entry(place: Path) -> bool:
    """Whether a kernel was put in here, or was being put in by a run that was killed a day ago; others stay."""
    if place.name.startswith(_BEGUN):
        with contextlib.suppress(OSError):
            return place.is_dir() and time.time() - place.stat().st_mtime > _DAY
        return False
    return (place / receipts.NAME).is_file()


def _whole(place: Path, receipt: Receipt) -> bool:
    """The files are as they were built: a hard link shares its bytes with a cache that others write."""
    try:
        return all(
            sha256_file(place / name) == output.sha256 for name, output in receipt.outputs.items() if name not in _LOGS
        )
    except OSError:
        return False


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A scratch directory on the same file system; whatever is left of it afterwards is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=_BEGUN, dir=place.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
