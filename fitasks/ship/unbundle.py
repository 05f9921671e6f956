"""`doit unbundle`: the kernels of a bundle, proven first, into FlashInfer's cache or into the store.

Where FlashInfer, the toolkit and the cache have the paths that they had for the builder, modules go into the cache:
the server's ninja has no work. Where a path differs, ninja would compile (it compares commands, and these are full of
paths), so the finished kernels go into the store, from which the next doit adopts them by content.

Hashes tell damage, not malice: a bundle is code that the server will run, to be taken from where one takes code.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.build import receipt as receipts
from fitasks.build.heal import NotHealed, heal
from fitasks.build.lock import module_lock
from fitasks.build.ninja import DEPS, LOG
from fitasks.errors import EnvironmentProblem
from fitasks.files import sha256_file
from fitasks.plan.kernel import Kernel
from fitasks.processes import sessions
from fitasks.ship.archive import opened
from fitasks.ship.arrival import proven, refuse_foreign, refuse_too_large, roots_that_differ
from fitasks.ship.bundle import generated_of, manifest_of
from fitasks.ship.manifest import Refused
from fitasks.ship.staging import staging

if TYPE_CHECKING:
    from fitasks.build.receipt import Output
    from fitasks.session import Session
    from fitasks.ship.arrival import Module

Went = Literal["cache", "store", "kept"]


@dataclass(frozen=True)
class Arrival:
    """Where one kernel went, `kept`: the same was there. `note` says why doit will not use it as it is; mostly ""."""

    module: str
    architecture: str
    went: Went
    place: Path
    note: str = ""


@dataclass(frozen=True)
class Unbundled:
    """A bundle that was taken: `bytes` of its files. `moved` names the roots that differ from the builder's."""

    path: Path
    arrivals: tuple[Arrival, ...]
    files: int
    bytes: int
    moved: tuple[str, ...]  # "CUDA_HOME: /usr/local/cuda there, /opt/cuda here"


def unbundle(session: Session, path: Path, *, lock_timeout: float = 1800.0) -> Unbundled:
    """Take a bundle. Raises Refused, and changes nothing, unless every byte of it is right and of use here.

    KernelFailure where somebody keeps a module's lock for longer than `lock_timeout` seconds; what came before stays.
    """
    try:
        return _unbundle(session, path, lock_timeout)
    except Refused as error:
        remedy = error.remedy or "copy it again, or make it again"
        raise Refused(f"{path} is refused: {error.message}; nothing was changed", remedy=remedy) from None
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename or path}: {error.strerror or error}") from None


def _unbundle(session: Session, path: Path, lock_timeout: float) -> Unbundled:
    here = manifest_of(session, {})
    with ExitStack() as stack:
        with opened(path) as archive:
            manifest = archive.manifest()
            refuse_foreign(manifest, here)
            moved = roots_that_differ(manifest, here)
            base = session.store.root if moved else Path(here.workspaces[min(manifest.workspaces)])
            scratch = stack.enter_context(staging(base.parent))
            refuse_too_large(manifest, scratch)
            archive.unpack(manifest, scratch)
            modules = proven(manifest, scratch)
        arriving = _Arriving(session, here.workspaces, scratch, lock_timeout)
        move = arriving.into_store if moved else arriving.into_cache
        arrivals = tuple(map(move, modules))
    return Unbundled(path, arrivals, len(manifest.files), manifest.bytes, moved)


@dataclass(frozen=True)
class _Arriving:
    """Moves proven modules out of the scratch directory. Raises OSError."""

    session: Session
    workspaces: dict[str, str]
    scratch: Path
    lock_timeout: float

    def into_cache(self, module: Module) -> Arrival:
        """Under FlashInfer's lock. A kill between the two renames leaves a module that was never built."""
        target = self._target(module)
        lock = target.parent / "tmp" / f"{module.name}.lock"
        with module_lock(lock, timeout=self.lock_timeout, stopping=sessions.stopping):
            if kept := self._kept(module):
                return kept
            for name in generated_of(module.receipt):
                self._lay_generated(module.architecture, name)
            self._swap(module, target)
            return Arrival(module.name, module.architecture, "cache", target, self._settle(module))

    def into_store(self, module: Module) -> Arrival:
        """As if it had been compiled here; a damaged entry of the same fingerprint is replaced."""
        if kept := self._kept(module):
            return kept
        store, receipt = self.session.store, module.receipt
        place = store.root / module.name / receipt.fingerprint
        outputs = {name: output for name, output in receipt.outputs.items() if name not in {LOG, DEPS}}
        if not _holds(place, outputs):
            shutil.rmtree(place, ignore_errors=True)
        store.put(_stand_in(module), receipt)
        if not _holds(place, outputs):
            raise EnvironmentProblem(f"{place} could not be written", remedy=f"make room in {store.root}")
        return Arrival(module.name, module.architecture, "store", place, self._unlike(module))

    def _target(self, module: Module) -> Path:
        return Path(self.workspaces[module.architecture]) / "cached_ops" / module.name

    def _kept(self, module: Module) -> Arrival | None:
        """The module that is there, where it was made from the same things and is whole, with its timestamps."""
        target = self._target(module)
        there = receipts.read_file(target / receipts.NAME, module.name)
        if not there or there.fingerprint != module.receipt.fingerprint:
            return None
        if not _holds(target, there.outputs) or not _dated(target, there.outputs):
            return None
        return Arrival(module.name, module.architecture, "kept", target)

    def _lay_generated(self, architecture: str, name: str) -> None:
        """File by file: modules may share a directory of generated sources."""
        unpacked = self.scratch / architecture
        place = unpacked / "generated" / name
        for source in sorted(place.rglob("*")):
            if source.is_file():
                target = Path(self.workspaces[architecture]) / source.relative_to(unpacked)
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)

    def _swap(self, module: Module, target: Path) -> None:
        """The old module goes aside by one rename, to be removed with the scratch directory; the new one comes."""
        aside = self.scratch / ".old" / module.architecture / module.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        had = target.exists()
        if had:
            target.rename(aside)
        try:
            module.staged.rename(target)
        except OSError:
            if had:
                aside.rename(target)
            raise

    def _settle(self, module: Module) -> str:
        """Headers that were installed here after the builder compiled are newer than objects: put that right."""
        if not (kernel := self._planned(module)):
            return "kernels.yaml here doesn't name it"
        judge = self.session.judges[kernel.target].anew()
        judged = judge.judge(kernel)
        if judged.verdict == "heal":
            try:
                healed = heal(kernel, module.receipt, judge.roots, self.session.ninja)
            except NotHealed as error:
                return f"ninja would compile: {error}"
            receipts.write(kernel, replace(healed, stamp=judge.stamp))
        return str(judged) if judged.verdict == "stale" else ""

    def _unlike(self, module: Module) -> str:
        """Why the next doit won't adopt it."""
        if not (kernel := self._planned(module)):
            return "kernels.yaml here doesn't name it"
        judge = self.session.judges[kernel.target].anew()
        return "; ".join(map(str, judge.differences(kernel, module.receipt)))

    def _planned(self, module: Module) -> Kernel | None:
        plan = self.session.plan
        wanted = (module.architecture, module.name)
        found = (kernel for kernel in plan.buildable() if (plan.facts[kernel.target]["arch"], kernel.name) == wanted)
        return next(found, None)


def _stand_in(module: Module) -> Kernel:
    """For the store, which asks a kernel for its name and for where its files lie."""
    return Kernel(
        label=module.name,
        entry="",
        op="",
        target=module.receipt.target,
        place="",
        given={},
        name=module.name,
        build_dir=module.staged,
    )


def _holds(directory: Path, outputs: dict[str, Output]) -> bool:
    """Are these files there, as they were built?"""
    try:
        return all(sha256_file(directory / name) == output.sha256 for name, output in outputs.items())
    except OSError:
        return False


def _dated(directory: Path, outputs: dict[str, Output]) -> bool:
    return all((directory / name).stat().st_mtime_ns == output.mtime_ns for name, output in outputs.items())
