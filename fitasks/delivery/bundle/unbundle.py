"""`doit unbundle`: the kernels of a bundle, proven first, into FlashInfer's cache or into the store.

Where FlashInfer, the toolkit and the cache have the paths that they had for the builder, modules go into the cache:
the server's ninja has no work. Where a path differs, ninja would compile (it compares commands, and these are full of
paths), so the finished kernels go into the store, from which the next doit adopts them by content. Those that it can't
adopt may be had as a package (delivery/wheel/from_bundle.py), for which neither paths nor compilers matter.

A module that is fresh here is never replaced by one that would not be. Hashes tell damage, not malice: a bundle is
code that the server will run, to be taken from where one takes code.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import scratch
from fitasks.delivery.bundle.bundle import LOCK_TIMEOUT, manifest_of
from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.bundle.placing import Arrival, Arriving
from fitasks.delivery.bundle.reading import DASH, opened
from fitasks.delivery.bundle.staging import staging
from fitasks.delivery.bundle.usable import of_use, proven, refuse_too_large, roots_that_differ
from fitasks.plan.caches import CACHED_OPS, GENERATED, LOCKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.delivery.bundle.here import Here
    from fitasks.delivery.bundle.manifest import Manifest


@dataclass(frozen=True)
class Unbundled:
    """A bundle that was taken: `bytes` of the files taken. `moved` names the roots that differ from the builder's."""

    path: Path
    arrivals: tuple[Arrival, ...]
    files: int
    bytes: int
    moved: tuple[str, ...]  # "CUDA_HOME: /usr/local/cuda there, /opt/cuda here"
    left: dict[str, int]  # architecture set that isn't planned here → its kernels, which were left in the bundle

    @property
    def unusable(self) -> tuple[Arrival, ...]:
        """The kernels that doit would compile all the same."""
        return tuple(arrival for arrival in self.arrivals if not arrival.usable)


def unbundle(here: Here, path: Path, *, lock_timeout: float = LOCK_TIMEOUT) -> Unbundled:
    """Take a bundle. Raises BundleRefused, and changes nothing, unless every byte of it is right and of use here.

    KernelFailure where somebody keeps a module's lock for longer than `lock_timeout` seconds; what came before stays.
    """
    with refusals(path):
        return _unbundle(here, path, lock_timeout)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What is said where a bundle is not taken: its file, the reason, and that nothing was changed."""
    try:
        yield
    except BundleRefused as error:
        remedy = error.remedy or "copy it again, or make it again"
        name = "standard input" if path == DASH else path
        raise BundleRefused(f"{name} is refused: {error.message}; nothing was changed", remedy=remedy) from None
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename or path}: {error.strerror or error}") from None


def _unbundle(here: Here, path: Path, lock_timeout: float) -> Unbundled:
    ours = manifest_of(here, {})
    for place in {here.store.root.parent, *scratch.places(map(Path, ours.workspaces.values()))}:
        scratch.remove_leftovers(place)
    with ExitStack() as stack:
        with opened(path) as archive:
            whole = archive.manifest()
            manifest = of_use(whole, ours)
            moved = roots_that_differ(manifest, ours)
            if moved and (refusal := here.store.refusal):
                raise EnvironmentProblem(f"{here.store.root} is not used: {refusal}", remedy=here.store.remedy)
            base = here.store.root if moved else Path(ours.workspaces[min(manifest.workspaces)])
            unpacked = stack.enter_context(staging(base.parent))
            for name in () if moved else manifest.workspaces:
                _stage_inside(stack, unpacked / name, Path(ours.workspaces[name]))
            refuse_too_large(manifest, unpacked if moved else unpacked / min(manifest.workspaces) / CACHED_OPS)
            archive.unpack(whole, unpacked, manifest.workspaces)
            modules = proven(manifest, unpacked)
        arriving = Arriving(here, ours.workspaces, unpacked, bool(moved), lock_timeout)
        arrivals = tuple(map(arriving.arrive, modules))
    return Unbundled(path, arrivals, len(manifest.files), manifest.bytes, moved, _left(whole, manifest))


def _stage_inside(stack: ExitStack, unpacked: Path, workspace: Path) -> None:
    """Have what is unpacked for a cache lie in its parts, since each may be a mount: renames will do."""
    unpacked.mkdir()
    for part, beside in ((CACHED_OPS, workspace / CACHED_OPS / LOCKS), (GENERATED, workspace / GENERATED)):
        (unpacked / part).symlink_to(stack.enter_context(staging(beside)))


def _left(whole: Manifest, taken: Manifest) -> dict[str, int]:
    return dict(Counter(name for name, _ in whole.modules() if name not in taken.workspaces))
