"""Proven modules on their way from where they were unpacked into the cache, or into the store.

A module that is fresh here is never replaced by one that would not be.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile.lock import module_lock
from fitasks.delivery.bundle.bundle import generated_of
from fitasks.delivery.bundle.timestamps import put_right
from fitasks.plan.caches import CACHED_OPS, GENERATED
from fitasks.processes import sessions

if TYPE_CHECKING:
    from fitasks.compile.receipt import Output
    from fitasks.delivery.bundle.here import Here
    from fitasks.delivery.bundle.usable import PackedModule
    from fitasks.plan.kernel import Kernel

Went = Literal["cache", "store", "kept"]
_UNNAMED = "kernels.yaml here doesn't name it"


@dataclass(frozen=True)
class Arrival:
    """Where one kernel went, `kept`: what was there is the same, or better. `usable`: doit won't compile it.

    `note` is what is to be said of it; mostly "".
    """

    module: str
    architecture: str
    went: Went
    place: Path
    note: str = ""
    usable: bool = True


@dataclass(frozen=True)
class Arriving:
    """Moves proven modules out of the directory where they were unpacked. Raises OSError."""

    here: Here
    workspaces: dict[str, str]
    unpacked: Path
    moved: bool
    lock_timeout: float

    def arrive(self, module: PackedModule) -> Arrival:
        """Under FlashInfer's lock. A kill between the two renames leaves a module that was never built."""
        with self._locked(module):
            if kept := self._kept(module):
                return kept
            return self._into_store(module) if self.moved else self._into_cache(module)

    def _locked(self, module: PackedModule) -> AbstractContextManager[None]:
        target = self._target(module)
        if self.moved and not target.exists():
            return nullcontext()
        lock = target.parent / "tmp" / f"{module.name}.lock"
        return module_lock(lock, timeout=self.lock_timeout, stopping=sessions.stopping)

    def _into_cache(self, module: PackedModule) -> Arrival:
        for name in generated_of(module.receipt):
            self._lay_generated(module.architecture, name)
        target = self._target(module)
        _exchange(module.staged, target)
        return self._settled(Arrival(module.name, module.architecture, "cache", target))

    def _into_store(self, module: PackedModule) -> Arrival:
        """As if it had been compiled here."""
        store, receipt = self.here.store, module.receipt
        place = store.root / module.name / receipt.fingerprint
        store.put(module.name, module.staged, receipt)
        if not store.holds(place, module.name):
            raise EnvironmentProblem(f"{place} could not be written", remedy=f"make room in {store.root}")
        planned = self._planned(module.architecture, module.name)
        why = self._unlike(planned, module) if planned else _UNNAMED
        return Arrival(module.name, module.architecture, "store", place, why, usable=not (planned and why))

    def _target(self, module: PackedModule) -> Path:
        return Path(self.workspaces[module.architecture]) / CACHED_OPS / module.name

    def _kept(self, module: PackedModule) -> Arrival | None:
        """What is there, where it is the same, or fresh while the bundle's would not be."""
        target = self._target(module)
        there = Arrival(module.name, module.architecture, "kept", target)
        if _same(module, target):
            return self._settled(there)
        planned = self._planned(module.architecture, module.name)
        if not planned or not target.exists():
            return None
        if (why := self._unlike(planned, module)) and not self._put_right(planned):
            return replace(there, note=f"the one here is fresh and stays, the bundle's would not be: {why}")
        return None

    def _lay_generated(self, architecture: str, name: str) -> None:
        """File by file: modules may share a directory of generated sources."""
        source = self.unpacked / architecture / GENERATED / name
        root = Path(self.workspaces[architecture]) / GENERATED
        if source.exists():  # another module may have brought it
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            source.replace(root / name)

    def _settled(self, arrival: Arrival) -> Arrival:
        """Headers that were installed here after the builder compiled are newer than objects: put that right."""
        if not (kernel := self._planned(arrival.architecture, arrival.module)):
            return replace(arrival, note=_UNNAMED)
        why = self._put_right(kernel)
        return replace(arrival, note=why, usable=not why)

    def _put_right(self, kernel: Kernel) -> str:
        return put_right(kernel, self.here.judges[kernel.target], self.here.ninja)

    def _unlike(self, kernel: Kernel, module: PackedModule) -> str:
        """Why it isn't what a build would make here, "" if it is."""
        judge = self.here.judges[kernel.target].refreshed()
        return "; ".join(map(str, judge.differences(kernel, module.receipt)))

    def _planned(self, architecture: str, name: str) -> Kernel | None:
        plan = self.here.plan
        found = (one for one in plan.buildable() if (plan.targets[one.target].arch, one.name) == (architecture, name))
        return next(found, None)


def _exchange(new: Path, target: Path) -> None:
    """The old module goes aside, to be removed with what was unpacked; the new one comes, or the old one back.

    In a lower layer of overlayfs, where it can't be renamed, it is removed; what vouches for it first, as before a
    build.
    """
    aside = None
    if target.exists():
        try:
            aside = target.rename(Path(tempfile.mkdtemp(dir=new.parent), "old"))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            for name in (receipts.NAME, f"{target.name}.so"):
                (target / name).unlink(missing_ok=True)
            shutil.rmtree(target)
    try:
        new.rename(target)
    except OSError:
        if aside:
            aside.rename(target)
        raise


def _same(module: PackedModule, target: Path) -> bool:
    """Is it there, made from the same things, whole and with its timestamps?"""
    there = receipts.read_file(target / receipts.NAME, module.name)
    if not there or there.fingerprint != module.receipt.fingerprint:
        return False
    try:
        return all(_as_built(target / name, output) for name, output in there.outputs.items())
    except OSError:
        return False


def _as_built(file: Path, output: Output) -> bool:
    return file.stat().st_mtime_ns == output.mtime_ns and sha256_file(file) == output.sha256
