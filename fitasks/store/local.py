"""Finished kernels by content, so that a FlashInfer upgrade compiles only what it changed.

    <store>/<module>/<fingerprint>/   fitasks-receipt.json, the .so, its objects; fitasks-fetched (remote/origin.py)

A module has one directory for everything that it was once compiled from. It is adopted if the commands and tools of
its receipt are today's, and every input, source or header, has the same contents now. (As with any compiler cache, a
new header that would be found *before* one of those on the include path goes unnoticed; FlashInfer's include path is
its own package, whose every file has one place.)

Putting in and taking out copy: through a hard link, what befalls a file of a cache would befall the store's. What is
taken is compared with its receipt on arrival. A directory appears by rename, whole or not at all.

Servers load what is adopted. So a store is used only if nobody but this user and root may write there (trust.py), or
if the user wants to share one: FITASKS_STORE=shared. Even then nothing but regular files is taken.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.environment import cache_home
from fitasks.base.files import copy_regular, regular, sha256_file
from fitasks.base.trust import others
from fitasks.compile import receipt as receipts
from fitasks.compile.ninja.ninja import DEPS, LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.judge.reasons import Judgement, Reason
    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel

DEFAULT_LIMIT = 20 * 10**9  # bytes
_LOGS = {LOG, DEPS}
FETCHED = "fitasks-fetched"
_MOST_SAID = 1 << 25  # bytes of that file
VARIABLE, SHARED = "FITASKS_STORE", "shared"


def words(env: Mapping[str, str]) -> list[str]:
    """Return what FITASKS_STORE says: `shared`, and stores elsewhere (elsewhere.py)."""
    return env.get(VARIABLE, "").replace(",", " ").split()


@dataclass(frozen=True)
class Stored:
    """One finished kernel in the store."""

    path: Path
    bytes: int
    used_ns: int  # when it was put in or last adopted


@dataclass(frozen=True)
class Store:
    """A directory of finished kernels. Every method but `gc` treats trouble with it as "not there".

    `shared`: others may write there, and the user wants it so.
    """

    root: Path
    shared: bool = False

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Store:
        """That of a server's environment. Whether it may be shared is for this machine to say, not for kernels.yaml."""
        return cls(cache_home(env) / "fitasks" / "store", shared=SHARED in words(os.environ))

    @property
    def refusal(self) -> str:
        """Why nothing is taken from there or put in, in a sentence; "" where it is used."""
        return "" if self.shared else others(self.root)

    @property
    def remedy(self) -> str:
        """What helps where it is refused."""
        return f"make it yours alone (chown, chmod go-w), or set {VARIABLE}={SHARED} to load what others put there"

    def put(self, name: str, directory: Path, receipt: Receipt, fetched: bytes | None = None) -> None:
        """Keep a module whose files lie in `directory`, in place of an entry that is damaged.

        `fetched` says where it comes from, unless it was made here: that takes the place of what was fetched.
        """
        place = self.root / name / receipt.fingerprint
        if self.refusal or (self.fetched(place) in {None, fetched} and self.holds(place, name)):
            return
        with contextlib.suppress(OSError), self._beside(place) as scratch:
            new = scratch / "new"
            new.mkdir(mode=self._mode)
            for output in set(receipt.outputs) - _LOGS:
                copy_regular(directory / output, new / output)
            (new / receipts.NAME).write_text(receipts.to_json(receipt))
            if fetched is not None:
                (new / FETCHED).write_bytes(fetched)
            if os.path.lexists(place):
                place.rename(scratch / "damaged")
            new.rename(place)

    def share(self, directory: Path, receipt: Receipt) -> None:
        """Nobody else has this store."""

    @property
    def afar(self) -> bool:
        """Nothing of it is elsewhere."""
        return False

    def fetch(self, kernel: Kernel, judge: Judge) -> None:
        """It is here."""

    def find(
        self, kernel: Kernel, judge: Judge, taken: Callable[[Path, Receipt], bool] = lambda *_: True
    ) -> tuple[Path, Receipt] | None:
        """A stored kernel all of whose inputs are what they are now, with its files whole, and that is `taken`."""
        for place, receipt in self._candidates(kernel):
            if not judge.differences(kernel, receipt) and taken(place, receipt) and _whole(place, receipt):
                return place, receipt
        return None

    def fetched(self, place: Path) -> bytes | None:
        """What is said of an entry that was fetched; None of one that was made here."""
        file = place / FETCHED
        if not os.path.lexists(file):
            return None
        with contextlib.suppress(OSError), regular(file, follow=False) as stream:
            return stream.read(_MOST_SAID)
        return b""

    def _nearest(self, kernel: Kernel, judge: Judge) -> tuple[Receipt, list[Reason]] | None:
        """The stored kernel that differs least from what is wanted, and in what; None where there is none."""
        found = [(receipt, judge.differences(kernel, receipt)) for _, receipt in self._candidates(kernel)]
        return min(found, key=lambda pair: len(pair[1]), default=None)

    def explain(
        self, kernel: Kernel, judge: Judge, judged: Judgement, taken: Callable[[Path, Receipt], bool] = lambda *_: True
    ) -> list[str]:
        """Return, of a kernel without a receipt, whether it can be adopted, and if not, what keeps it from that."""
        if not judged.reasons or judged.reasons[0].kind not in {"new", "elsewhere", "incomplete", "failed"}:
            return []
        if (refusal := self.refusal) and (self.root / kernel.name).is_dir():
            return [f"not adopted from {self.root}: {refusal}"]
        if found := self.find(kernel, judge, taken):
            return [f"will be adopted: compiled for FlashInfer {found[1].flashinfer}, all inputs equal"]
        if not (nearest := self._nearest(kernel, judge)):
            return []
        receipt, reasons = nearest
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        whole = self.find(kernel, judge)
        unused = "no key that is trusted has signed it" if whole else "its files in the store are damaged"
        why = f"{reasons[0]}{more}" if reasons else unused
        return [f"not adopted from FlashInfer {receipt.flashinfer}: {why}"]

    def _candidates(self, kernel: Kernel) -> Iterator[tuple[Path, Receipt]]:
        """What may be taken as far as its receipt tells."""
        try:
            places = sorted((self.root / kernel.name).iterdir()) if not self.refusal else []
        except OSError:
            return
        for place in places:
            if receipt := self._receipt(place, kernel.name):
                yield place, receipt

    def _receipt(self, place: Path, name: str) -> Receipt | None:
        """An entry's receipt; None of what is no entry, or not only ours."""
        file = place / receipts.NAME
        if file.is_symlink() or not all(map(_is_directory, (place.parent, place))):
            return None
        receipt = receipts.read_file(file, name) if self.shared or not others(place) else None
        return receipt if receipt and receipt.fingerprint == place.name == _fingerprint(receipt) else None

    def holds(self, place: Path, name: str) -> bool:
        """Whether an entry is there and whole."""
        receipt = self._receipt(place, name)
        return receipt is not None and _whole(place, receipt)

    def take(self, place: Path, receipt: Receipt, directory: Path) -> None:
        """Lay a stored kernel's files into a directory; without a receipt, which is for the caller to write.

        Raises OSError.
        """
        for name in set(receipt.outputs) - _LOGS:
            target = directory / name
            target.unlink(missing_ok=True)
            copy_regular(place / name, target)
            if sha256_file(target) != receipt.outputs[name].sha256:
                raise OSError(errno.EIO, "damaged on the way out of the store", str(target))
        os.utime(place)

    @contextlib.contextmanager
    def _beside(self, place: Path) -> Iterator[Path]:
        """A scratch directory on the same file system; whatever is left of it afterwards is removed."""
        self.make(place.parent)
        with temporary.directory("put", self.root) as scratch:
            yield scratch

    def make(self, directory: Path) -> None:
        """Make a directory, and what lacks above it. Raises OSError."""
        if not directory.is_dir():
            self.make(directory.parent)
            directory.mkdir(mode=self._mode, exist_ok=True)

    @property
    def _mode(self) -> int:
        """Of directories that are made: never such that a lax umask would have the store refused."""
        return 0o777 if self.shared else 0o755

    def contents(self) -> list[Stored]:
        """Everything stored, least recently used first."""
        found = []
        for place in self.root.glob("[!.]*/*"):
            if not all(map(_is_directory, (place.parent, place))) or not (place / receipts.NAME).is_file():
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


def _whole(place: Path, receipt: Receipt) -> bool:
    """The files are as they were built, and regular ones."""
    try:
        return all(
            _digest(place / name) == output.sha256 for name, output in receipt.outputs.items() if name not in _LOGS
        )
    except OSError:
        return False


def _digest(path: Path) -> str:
    with regular(path, follow=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fingerprint(receipt: Receipt) -> str:
    return receipts.fingerprint(receipt.commands, receipt.toolchain, receipt.inputs)


def _is_directory(path: Path) -> bool:
    """No link to one."""
    return path.is_dir() and not path.is_symlink()
