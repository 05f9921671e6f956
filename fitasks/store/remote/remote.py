"""One store elsewhere, as a run uses it: asked once for each question, off when it isn't worth the wait."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from fitasks.base.errors import EnvironmentProblem, FitasksError
from fitasks.compile import receipt as receipts
from fitasks.store.remote import layout, origin
from fitasks.store.remote.breaker import Breaker
from fitasks.store.remote.fetch import Reader
from fitasks.store.remote.keys import signer_of
from fitasks.store.remote.manifest import believed
from fitasks.store.remote.objects import Objects
from fitasks.store.remote.push import Writer
from fitasks.store.remote.shelf import clear, shelf
from fitasks.store.remote.trouble import Missing, Off, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.judge.reasons import Reason
    from fitasks.compile.receipt import Receipt
    from fitasks.config.stores import StoreRequest
    from fitasks.plan.kernel import Kernel
    from fitasks.store.remote.keys import Signer
    from fitasks.store.remote.loop import Loop
    from fitasks.store.remote.shelf import Removed, Shelf

T = TypeVar("T")
_UNVOUCHED = "it was fetched from a store, and no key that is trusted here has signed it"
_PATIENCE = 60.0  # seconds without an answer, where the store is all that the command is about
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # for this kernel, and the next as well
_MOST_WRONG = 3  # kernels whose files weren't what they should be, before nothing more is fetched


def _silent(why: str) -> None:
    """It is raised."""


class Remote:
    """A store elsewhere. What goes wrong is said, once for all kernels, and is as good as "not there".

    Only where the store is all that a command is about, it is an error.
    """

    def __init__(
        self,
        request: StoreRequest,
        loop: Loop,
        env: Mapping[str, str],
        say: Callable[[str], None],
        trusted: Iterable[str] = (),
    ) -> None:
        """`trusted`: the keys of all stores, which may vouch for what is put there."""
        self.request, self.url, self.push, self.trust = request, request.url, request.push, request.trust
        self._trusted = {*request.trust, *trusted}
        self._loop, self._env, self._say = loop, env, say
        self.reading = Breaker(lambda why: self._say(f"store {self.url}: {why}; it isn't asked again in this run"))
        self.writing = Breaker(lambda why: self._say(f"store {self.url}: {why}; nothing more is put there in this run"))
        self.objects = Objects(self.url, env, make=self.push)
        self.reader = Reader(self.objects, self.reading)
        self._writer: Writer | None = None
        self._known: dict[str, tuple[list[Receipt], list[str]]] = {}
        self._manifests: dict[str, bytes] = {}  # by fingerprint: those that are believed
        self._damaged: set[str] = set()  # fingerprints of what was not as it should be
        self._wrong = 0
        self._complained = self._told = False
        self._lock = threading.Lock()

    def find(self, kernel: Kernel, judge: Judge) -> Receipt | None:
        """Return the receipt of a kernel there, all of whose inputs are what they are now."""
        receipts, _ = self._answers(kernel, judge)
        return next((one for one in receipts if not judge.differences(kernel, one)), None)

    def holds(self, receipt: Receipt) -> bool:
        """Return whether all files of a kernel that was found here are there as well, by their sizes."""
        try:
            return self._loop.run(self.reader.holds(receipt))
        except Off:
            return False

    def trouble(self) -> str:
        """Return why nothing can be read there, "" where it can: it is asked for what nobody has."""
        try:
            self._loop.run(self.reader.get(layout.at(layout.INDEX, "0" * 64), layout.INDEX_BYTES))
        except Missing:
            return ""
        except Off as error:
            return str(error)
        return ""

    def refusals(self, kernel: Kernel, judge: Judge) -> list[str]:
        """Return why what is there for this kernel isn't believed."""
        return self._answers(kernel, judge)[1]

    def nearest(self, kernel: Kernel, judge: Judge) -> tuple[Receipt, list[Reason]] | None:
        """Return the kernel there that differs least from what is wanted, and in what."""
        found = [(one, judge.differences(kernel, one)) for one in self._answers(kernel, judge)[0]]
        return min(found, key=lambda pair: len(pair[1]), default=None)

    def _answers(self, kernel: Kernel, judge: Judge) -> tuple[list[Receipt], list[str]]:
        asked = layout.question(kernel.name, judge.commands(kernel), judge.toolchain)
        if asked not in self._known:
            try:
                manifests = self._loop.run(self.reader.manifests(asked))
            except Off:
                return [], []
            self._known[asked] = self._believed(kernel.name, manifests)
        return self._known[asked]

    def _believed(self, name: str, manifests: list[tuple[str, bytes]]) -> tuple[list[Receipt], list[str]]:
        found: list[Receipt] = []
        refusals: list[str] = []
        for fingerprint, data in manifests:
            try:
                found.append(believed(data, fingerprint, self.trust, name))
                self._manifests[fingerprint] = data
            except (Refused, FitasksError) as error:
                refusals.append(self._refuse(name, " ".join(str(error).split())))
        return found, refusals

    def _refuse(self, name: str, why: str) -> str:
        """Say the first of them; the others are told where their kernels are."""
        with self._lock:
            first, self._complained = not self._complained, True
        if first:
            self._say(f"store {self.url}: {name} is not taken: {why}; further ones are told by `doit why` alone")
        return why

    def origin(self, receipt: Receipt) -> bytes:
        """Return what is kept beside a kernel that was found here."""
        return origin.text(self.url, self._manifests.get(receipt.fingerprint, b""))

    async def fetch(self, receipt: Receipt, place: Path) -> None:
        """Lay a kernel's files into a directory. Raises Refused, Off, OSError."""
        try:
            await self.reader.files(receipt, place)
        except Refused as error:
            self._refuse(receipt.name, str(error))
            self._damaged.add(receipt.fingerprint)
            self._wrong += 1
            if self._wrong >= _MOST_WRONG:
                self.reading.trip(f"{self._wrong} kernels were damaged, the last because {error}")
            raise
        except OSError as error:
            if error.errno in _NO_PLACE:
                self.reading.trip(f"what it has can't be kept here: {error.strerror}")
            raise
        if self.push and (writer := self._may_write()):
            try:
                await writer.touch(receipt.fingerprint)
            except Off:
                return

    def share(self, directory: Path, receipt: Receipt) -> int | None:
        """Put a kernel there; how many bytes were sent, None where it isn't there now."""
        if not (writer := self._may_write()):
            return None
        try:
            if self._vouched(receipt, writer):
                repair = receipt.fingerprint in self._damaged
                return self._loop.run(writer.push(receipt, directory, repair=repair))
            if self._loop.run(writer.has(receipt)):
                return 0
            self._say_once(f"{receipt.name} is not put there: {_UNVOUCHED}")
        except Refused as error:
            self._say(f"store {self.url}: {receipt.name} is not put there: {error}")
        except OSError as error:
            self._say(f"store {self.url}: {receipt.name} is not put there: {error.strerror}")
        except (Off, Missing):
            pass
        return None

    def _vouched(self, receipt: Receipt, writer: Writer) -> bool:
        """Whether it was compiled here, or comes from a store with the word of somebody who is trusted here."""
        key = receipt.notes.get(receipts.FETCHED)
        return key is None or key in self._trusted or (writer.signer is not None and key == writer.signer.public)

    def _say_once(self, text: str) -> None:
        """Say the first of those that may be of every kernel."""
        with self._lock:
            first, self._told = not self._told, True
        if first:
            self._say(f"store {self.url}: {text}; more of the kind isn't said")

    def contents(self) -> Shelf:
        """Return what is there. Raises EnvironmentProblem, as this is all that was asked for."""
        return self._listed(shelf(Reader(self.objects, Breaker(_silent, budget=_PATIENCE))))

    def clear(self, limit: int, days: int) -> Removed:
        """Remove the least recently used of what wasn't used for some days. Raises EnvironmentProblem."""
        return self._listed(clear(Reader(self.objects, Breaker(_silent, budget=_PATIENCE)), limit, days))

    def _listed(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run(work)
        except Off as error:
            raise EnvironmentProblem(f"store {self.url}: {error}", remedy="is it there, and may you list it?") from None

    def _opened(self, signer: Signer | None) -> Writer:
        return Writer(self.objects, self.writing, signer, self._trusted, self._say_once)

    def _may_write(self) -> Writer | None:
        with self._lock:
            if self._writer is None and not self.writing.reason:
                try:
                    self._writer = self._opened(signer_of(self._env))
                except FitasksError as error:
                    self.writing.trip(" ".join(str(error).split()))
        return self._writer
