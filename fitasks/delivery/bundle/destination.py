"""Where each module of a bundle goes here: into the cache that its kind is loaded from, or into the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.delivery.bundle.bundle import PARTS, held
from fitasks.delivery.bundle.manifest import KEYED, WHOLES
from fitasks.delivery.bundle.usable import roots_that_differ
from fitasks.plan.caches import CACHED_OPS, GENERATED, LOCKS, TVM_FFI

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitasks.delivery.bundle.here import Here
    from fitasks.delivery.bundle.manifest import Held, Manifest
    from fitasks.plan.kernel import Kernel


@dataclass(frozen=True)
class Destinations:
    """Of a bundle's kernels; `differing` says, for each part of it, which paths aren't the builder's."""

    here: Here
    workspaces: Mapping[str, str]
    sglang_cache: str  # "" where none of SGLang's own modules is planned
    differing: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, here: Here, manifest: Manifest, ours: Manifest) -> Destinations:
        """For this bundle; `ours` is what one that is made here would say."""
        return cls(here, ours.workspaces, ours.sglang_cache, roots_that_differ(manifest, ours))

    @property
    def moved(self) -> tuple[str, ...]:
        """All sentences on paths that differ, each once."""
        return tuple(dict.fromkeys(line for lines in self.differing.values() for line in lines))

    def planned(self, place: Held) -> Kernel | None:
        """The kernel of kernels.yaml that a bundle made here would have in the same place."""
        plan = self.here.plan
        packable = (kernel for kernel in plan.buildable() if kernel.kind in PARTS)
        return next((kernel for kernel in packable if held(plan, kernel) == place), None)

    def into_store(self, place: Held) -> bool:
        """Whether it would be of no use in a cache, or, of SGLang's own, nobody here knows in which."""
        return bool(self.differing[place.part]) or (place.part == TVM_FFI and not self.planned(place))

    def directory(self, place: Held) -> Path | None:
        """Where it lies in its cache; None where nobody here knows SGLang's."""
        if place.part == CACHED_OPS:
            return Path(self.workspaces[place.architecture], CACHED_OPS, place.directory)
        return Path(self.sglang_cache, place.directory) if self.sglang_cache else None

    def beside(self, manifest: Manifest) -> Iterator[tuple[str, Path]]:
        """Part of a bundle that goes into a cache → a directory on the same file system, so that renames will do."""
        for name in manifest.workspaces if self._cached(CACHED_OPS) else ():
            workspace = Path(self.workspaces[name])
            yield f"{name}/{CACHED_OPS}", workspace / CACHED_OPS / LOCKS
            yield f"{name}/{GENERATED}", workspace / GENERATED
        for name in sorted({one.architecture for one in manifest.modules() if one.part == TVM_FFI}):
            if self._cached(TVM_FFI) and self.sglang_cache:
                yield f"{name}/{TVM_FFI}", Path(self.sglang_cache)
        yield from self._beside_whole(manifest)

    def _beside_whole(self, manifest: Manifest) -> Iterator[tuple[str, Path]]:
        """Of those that are to be placed: what isn't is of no use anywhere."""
        for place in manifest.modules():
            if place.part in WHOLES and (kernel := self.planned(place)):
                keyed, cached_ops = kernel.build_dir.parents[2], kernel.build_dir.parent
                yield str(place), keyed if place.part == KEYED else cached_ops / LOCKS

    def unpacked_in(self, manifest: Manifest) -> Path:
        """The directory that all else is unpacked in."""
        if self._cached(CACHED_OPS):
            return Path(self.workspaces[min(manifest.workspaces)]).parent
        return self.here.store.root.parent

    def refuse_store(self, manifest: Manifest) -> None:
        """Raise EnvironmentProblem where a kernel is for a store that is not to be used."""
        store = self.here.store
        built = (place for place in manifest.modules() if place.part not in WHOLES)
        if any(map(self.into_store, built)) and (refusal := store.refusal):
            raise EnvironmentProblem(f"{store.root} is not used: {refusal}", remedy=store.remedy)

    def _cached(self, part: str) -> bool:
        return not self.differing.get(part, ("no kernel",))
