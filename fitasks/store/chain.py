"""This machine's store in front, then those elsewhere, in their order: the store that a run builds with.

What is found elsewhere is fetched, compared with its receipt, put into the store here at once, and taken from there as
ever. Where that can't be written, it is taken from where it arrived. Fetching begins for all kernels at once, as soon
as it is known which are wanted, and goes on while others are compiled.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fitasks.store.remote import staging
from fitasks.store.remote.manifest import files
from fitasks.store.remote.origin import Trust, noted
from fitasks.store.remote.trouble import Off, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel
    from fitasks.store.local import Store
    from fitasks.store.remote.loop import Loop
    from fitasks.store.remote.remote import Remote

_ASKING = 32  # threads that ask: each has one kernel's questions
_ARRIVING = 64  # kernels that are fetched at once; each has a directory open
_EVERY = 10.0  # seconds between two lines that say how far that is


class Chain:
    """A KernelStore (compile/builder.py). Trouble with any store is the same as "not there"."""

    def __init__(
        self,
        local: Store,
        remotes: Sequence[Remote],
        loop: Loop,
        say: Callable[[str], None],
        keys: Iterable[str] = (),
    ) -> None:
        """`keys`: further ones that are trusted. Where any is, it counts for what was fetched earlier, too."""
        self.local, self.remotes = local, tuple(remotes)
        self._trust = Trust.of((one.request for one in self.remotes), keys)
        self._complained = False
        self._loop, self._say = loop, say
        self._fetching: dict[tuple[str, str], Future[Path]] = {}
        self._failed: dict[tuple[str, str], str] = {}  # why what was found couldn't be fetched
        self._arrived: dict[tuple[str, str], tuple[Path, Receipt]] = {}  # where the own store can't be written
        self._lock = threading.Lock()
        self._room = asyncio.Semaphore(_ARRIVING)
        if remotes:
            staging.sweep(local.root)

    # ---- what the builder asks

    @property
    def afar(self) -> bool:
        """Whether there are stores elsewhere."""
        return bool(self.remotes)

    def fetch(self, kernel: Kernel, judge: Judge) -> None:
        """Wait until a kernel is here, where a store elsewhere has it."""
        for remote, receipt in () if self._held(kernel, judge) else self._places(kernel, judge):
            try:
                place = self._loop.wait(self._begin(remote, receipt))
            except (Refused, Off, OSError) as error:
                self._failed[remote.url, receipt.fingerprint] = str(error)
                continue
            if place != self._entry(receipt):
                self._arrived[kernel.name, receipt.fingerprint] = place, noted(receipt, remote.origin(receipt))
            return

    def find(self, kernel: Kernel, judge: Judge) -> tuple[Path, Receipt] | None:
        """A kernel all of whose inputs are what they are now, with its files whole: compiled here, or fetched."""
        return self._here(kernel, judge) or self._beside(kernel, judge)

    def take(self, place: Path, receipt: Receipt, directory: Path) -> None:
        """Lay its files, but not the receipt, into a directory. Raises OSError."""
        self.local.take(place, receipt, directory)

    def put(self, name: str, directory: Path, receipt: Receipt) -> None:
        """Keep a module here."""
        self.local.put(name, directory, receipt)

    def share(self, directory: Path, receipt: Receipt) -> None:
        """Put a kernel, whose files lie in a directory, into each store that this run may write to."""
        for remote in self.remotes:
            if remote.push:
                remote.share(directory, receipt)

    def explain(self, kernel: Kernel, judge: Judge, judged: Judgement) -> list[str]:
        """Return, of a kernel that isn't fresh, where it is, or what keeps it from being taken."""
        here = self.local.explain(kernel, judge, judged, self._taken)
        forced = any(reason.kind == "forced" for reason in judged.reasons)  # no store was asked, nor is it now
        if any(line.startswith("will be adopted") for line in here) or judged.verdict != "stale" or forced:
            return here
        return here + [line for remote in self.remotes if (line := self._explained(remote, kernel, judge))]

    def _explained(self, remote: Remote, kernel: Kernel, judge: Judge) -> str:
        if not (receipt := remote.find(kernel, judge)):
            return _not_taken(remote, kernel, judge)
        if why := self._failed.get((remote.url, receipt.fingerprint)):
            return f"not taken from {remote.url}: {why}"
        if not remote.holds(receipt):
            return f"not taken from {remote.url}: it is named there, and a file of it is gone"
        return f"in the store {remote.url}: compiled for FlashInfer {receipt.flashinfer}, all inputs equal"

    def _here(self, kernel: Kernel, judge: Judge) -> tuple[Path, Receipt] | None:
        if not (found := self._held(kernel, judge)):
            return None
        place, receipt = found
        kept = self.local.fetched(place)
        return place, receipt if kept is None else noted(receipt, kept)

    def _beside(self, kernel: Kernel, judge: Judge) -> tuple[Path, Receipt] | None:
        mine = (found for (name, _), found in list(self._arrived.items()) if name == kernel.name)
        return next((found for found in mine if not judge.differences(kernel, found[1])), None)

    def _held(self, kernel: Kernel, judge: Judge) -> tuple[Path, Receipt] | None:
        """What is in this machine's own store, compiled here or vouched for; the first that is passed over is said."""
        return self.local.find(kernel, judge, self._taken_or_said)

    def _taken(self, place: Path, receipt: Receipt) -> bool:
        return self._trust.takes(self.local.fetched(place), receipt)

    def _taken_or_said(self, place: Path, receipt: Receipt) -> bool:
        if self._taken(place, receipt):
            return True
        with self._lock:
            first, self._complained = not self._complained, True
        if first:
            why = "it was fetched earlier, and no key that is trusted now has signed it"
            self._say(f"{place} is not taken: {why}; further ones are told by `doit why` alone")
        return False

    # ---- what a run asks beforehand

    def expect(self, kernels: Iterable[Kernel], judges: Mapping[str, Judge]) -> frozenset[str]:
        """Return the labels of those kernels that need no compile, and begin to fetch what isn't here."""
        kernels = list(kernels)
        wanted = [kernel for kernel in kernels if not self._held(kernel, judges[kernel.target])]
        here = frozenset(kernel.label for kernel in kernels) - {kernel.label for kernel in wanted}
        found = self.where(wanted, judges)
        if found:
            begun = [self._begin(remote, receipt) for remote, receipt in found.values()]
            self._loop.begin(self._progress(begun, list(found.values())))
        return here | frozenset(found)

    def where(self, kernels: Iterable[Kernel], judges: Mapping[str, Judge]) -> dict[str, tuple[Remote, Receipt]]:
        """Return which store elsewhere has which of these kernels, by label. Nothing is fetched."""
        kernels = list(kernels)
        if not kernels or not self.remotes:
            return {}
        with ThreadPoolExecutor(_ASKING) as pool:
            found = pool.map(lambda kernel: next(self._places(kernel, judges[kernel.target]), None), kernels)
            return {kernel.label: one for kernel, one in zip(kernels, found, strict=True) if one}

    def _places(self, kernel: Kernel, judge: Judge) -> Iterator[tuple[Remote, Receipt]]:
        for remote in self.remotes:
            if receipt := remote.find(kernel, judge):
                yield remote, receipt

    def holding(self, kernels: Iterable[Kernel], judges: Mapping[str, Judge]) -> dict[str, str]:
        """Return the place of the store that has each of these kernels with all its files, by label."""
        kernels = list(kernels)
        here = {one.label: str(self.local.root) for one in kernels if self._held(one, judges[one.target])}
        lacking = [one for one in kernels if one.label not in here]
        if not lacking or not self.remotes:
            return here
        with ThreadPoolExecutor(_ASKING) as pool:
            found = pool.map(lambda kernel: self._holder(kernel, judges[kernel.target]), lacking)
            return here | {kernel.label: url for kernel, url in zip(lacking, found, strict=True) if url}

    def _holder(self, kernel: Kernel, judge: Judge) -> str:
        return next((remote.url for remote, receipt in self._places(kernel, judge) if remote.holds(receipt)), "")

    # ---- fetching

    def _begin(self, remote: Remote, receipt: Receipt) -> Future[Path]:
        """Fetch a kernel, once."""
        with self._lock:
            key = remote.url, receipt.fingerprint
            if key not in self._fetching:
                self._fetching[key] = self._loop.begin(self._fetch(remote, receipt))
            return self._fetching[key]

    async def _fetch(self, remote: Remote, receipt: Receipt) -> Path:
        """Return where a kernel is, once all of it is here: in this machine's own store, or else where it arrived.

        Its directory stays locked all the while: nobody finds it half removed.
        """
        kept = self._entry(receipt)
        async with self._room:
            staged = staging.staging(self.local, receipt.fingerprint)
            try:
                if not await asyncio.to_thread(self._keeps, kept, receipt):  # another process was quicker
                    await remote.fetch(receipt, staged.path)
                    origin = remote.origin(receipt)
                    await asyncio.to_thread(self.local.put, receipt.name, staged.path, receipt, origin)
                    if not await asyncio.to_thread(self._keeps, kept, receipt):
                        atexit.register(staged.close)
                        return staged.path
            except Refused:
                staged.close()
                raise
            except BaseException:
                staged.release()
                raise
            staged.close()
            return kept

    def _entry(self, receipt: Receipt) -> Path:
        return self.local.root / receipt.name / receipt.fingerprint

    def _keeps(self, place: Path, receipt: Receipt) -> bool:
        return self.local.holds(place, receipt.name) and self._taken(place, receipt)

    async def _progress(self, begun: Sequence[Future[Path]], found: Sequence[tuple[Remote, Receipt]]) -> None:
        """Say what is fetched, and while that takes long how much of it is here."""
        count, size = len(begun), sum(map(_bytes, (receipt for _, receipt in found))) / 1e6
        places = ", ".join(dict.fromkeys(remote.url for remote, _ in found))
        self._say(f"fetching {count} kernel{'s'[: count != 1]} ({size:,.1f} MB) from {places}")
        while not all(one.done() for one in begun):
            await asyncio.sleep(_EVERY)
            here = sum(_bytes(found[place][1]) for place, one in enumerate(begun) if one.done()) / 1e6
            done = sum(one.done() for one in begun)
            if done < count:
                self._say(f"fetched {done} of {count} kernels, {here:,.0f} of {size:,.0f} MB")


def _bytes(receipt: Receipt) -> int:
    return sum(output.size for output in files(receipt).values())


def _not_taken(remote: Remote, kernel: Kernel, judge: Judge) -> str:
    if refused := remote.refusals(kernel, judge):
        return f"not taken from {remote.url}: {refused[0]}"
    if not (nearest := remote.nearest(kernel, judge)):
        return ""
    more = f" and {len(nearest[1]) - 1} more" if len(nearest[1]) > 1 else ""
    return f"not taken from {remote.url}, compiled for FlashInfer {nearest[0].flashinfer}: {nearest[1][0]}{more}"
