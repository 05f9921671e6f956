"""Proven modules on their way from where they were unpacked into the cache, or into the store.

A module that is fresh here is never replaced by one that would not be.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file, write_if_changed
from fitasks.compile import begun
from fitasks.compile import receipt as receipts
from fitasks.compile.lock import module_lock
from fitasks.delivery.bundle.bundle import generated_of
from fitasks.delivery.bundle.timestamps import put_right
from fitasks.plan.caches import GENERATED, LOCKS, TVM_FFI
from fitasks.processes import sessions

if TYPE_CHECKING:
    from fitasks.compile.receipt import Output
    from fitasks.delivery.bundle.destination import Destinations
    from fitasks.delivery.bundle.here import Here
    from fitasks.delivery.bundle.usable import PackedModule
    from fitasks.plan.kernel import Kernel, Kind

Went = Literal["cache", "store", "kept", "left"]
UNNAMED = "kernels.yaml here doesn't name it"


@dataclass(frozen=True)
class Arrival:
    """Where one kernel went, `kept`: what was there is the same, or better; `left`: nowhere.

    `usable`: doit won't compile it. `note` is what is to be said of it; mostly "". `kind` says whose cache it is
    loaded from.
    """

    module: str
    architecture: str
    went: Went
    place: Path
    note: str = ""
    usable: bool = True
    kind: Kind = "flashinfer"


@dataclass(frozen=True)
class Arriving:
    """Moves proven modules out of the directory where they were unpacked. Raises OSError."""

    here: Here
    destinations: Destinations
    unpacked: Path
    lock_timeout: float

    def arrive(self, module: PackedModule) -> Arrival:
        """Under the lock of FlashInfer, or of SGLang's tvm_ffi.cpp.

        A kill between two renames leaves a module that was never built.
        """
        with self._locked(module):
            target = self.destinations.directory(module.held)
            if target and (kept := self._kept(module, target)):
                return kept
            if not target or self.destinations.into_store(module.held):
                return self._into_store(module)
            return self._into_cache(module, target)

    def _locked(self, module: PackedModule) -> AbstractContextManager[None]:
        target = self.destinations.directory(module.held)
        if not target or (self.destinations.into_store(module.held) and not target.exists()):
            return nullcontext()
        in_it, beside = target / "lock", target.parent / LOCKS / f"{module.name}.lock"
        lock = in_it if module.held.part == TVM_FFI else beside
        return module_lock(lock, timeout=self.lock_timeout, stopping=sessions.stopping)

    def _into_cache(self, module: PackedModule, target: Path) -> Arrival:
        if module.held.part == TVM_FFI:
            _replace(module, target, self._planned(module))
        else:
            for name in generated_of(module.receipt):
                self._lay_generated(module.held.architecture, name)
            _exchange(module.staged, target)
        return self._settled(module, _arrival(module, "cache", target))

    def _into_store(self, module: PackedModule) -> Arrival:
        """As if it had been compiled here."""
        store, receipt = self.here.store, module.receipt
        place = store.root / module.name / receipt.fingerprint
        store.put(module.name, module.staged, receipt)
        if not store.holds(place, module.name):
            raise EnvironmentProblem(f"{place} could not be written", remedy=f"make room in {store.root}")
        planned = self._planned(module)
        why = self._unlike(planned, module) if planned else _unnamed(module)
        return replace(_arrival(module, "store", place), note=why, usable=not (planned and why))

    def _kept(self, module: PackedModule, target: Path) -> Arrival | None:
        """What is there, where it is the same, or fresh while the bundle's would not be."""
        there = _arrival(module, "kept", target)
        if _same(module, target):
            return self._settled(module, there)
        planned = self._planned(module)
        if not planned or not target.exists():
            return None
        if (why := self._unlike(planned, module)) and not self._put_right(planned):
            return replace(there, note=f"the one here is fresh and stays, the bundle's would not be: {why}")
        return None

    def _lay_generated(self, architecture: str, name: str) -> None:
        """File by file: modules may share a directory of generated sources."""
        source = self.unpacked / architecture / GENERATED / name
        root = Path(self.destinations.workspaces[architecture]) / GENERATED
        if source.exists():  # another module may have brought it
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            source.replace(root / name)

    def _settled(self, module: PackedModule, arrival: Arrival) -> Arrival:
        """Headers that were installed here after the builder compiled are newer than objects: put that right."""
        if not (kernel := self._planned(module)):
            return replace(arrival, note=_unnamed(module))
        why = self._put_right(kernel)
        return replace(arrival, note=why, usable=not why)

    def _put_right(self, kernel: Kernel) -> str:
        return put_right(kernel, self.here.judges[kernel.target], self.here.ninja)

    def _unlike(self, kernel: Kernel, module: PackedModule) -> str:
        """Why it isn't what a build would make here, "" if it is."""
        judge = self.here.judges[kernel.target].refreshed()
        return "; ".join(map(str, judge.differences(kernel, module.receipt)))

    def _planned(self, module: PackedModule) -> Kernel | None:
        return self.destinations.planned(module.held)


def _arrival(module: PackedModule, went: Went, place: Path) -> Arrival:
    kind: Kind = "sglang" if module.held.part == TVM_FFI else "flashinfer"
    return Arrival(module.name, module.held.architecture, went, place, kind=kind)


def _unnamed(module: PackedModule) -> str:
    """SGLang's directories have the state of its sources, and tvm-ffi's version, in their names."""
    return f"{UNNAMED}{' for this SGLang and tvm-ffi' if module.held.part == TVM_FFI else ''}"


def _replace(module: PackedModule, target: Path, kernel: Kernel | None) -> None:
    """File by file, since the lock lies among them. What vouches for the old module goes first, and comes last.

    A server that looks meanwhile finds one library or the other, whole.
    """
    for name in (receipts.NAME, begun.NAME):
        (target / name).unlink(missing_ok=True)
    for path, text in (kernel.texts if kernel else {}).items():
        write_if_changed(Path(path), text)
        os.utime(path, ns=(module.receipt.sealed_ns, module.receipt.sealed_ns))  # older than the objects
    files = sorted(module.staged.iterdir(), key=lambda file: (file.name == receipts.NAME, file.suffix == ".so"))
    for file in files:
        file.replace(target / file.name)


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
