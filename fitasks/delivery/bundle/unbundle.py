"""`doit unbundle`: the kernels of a bundle, proven first, into FlashInfer's cache or into the store.

Where FlashInfer, the toolkit and the cache have the paths that they had for the builder, modules go into the cache:
the server's ninja has no work. Where a path differs, ninja would compile (it compares commands, and these are full of
paths), so the finished kernels go into the store, from which the next doit adopts them by content. Those that it can't
adopt may be had as a package (delivery/wheel/from_bundle.py), for which neither paths nor compilers matter.

What an engine builds in one go is found under its own key or not at all: placing_whole.py.

So it is with modules of SGLang's own JIT and SGLang's cache: of those that kernels.yaml here doesn't name nobody knows
where they belong, so that the store takes them.

A module that is fresh here is never replaced by one that would not be. Hashes tell damage, not malice: a bundle is
code that the server will run, to be taken from where one takes code.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.delivery.bundle.bundle import LOCK_TIMEOUT, manifest_of
from fitasks.delivery.bundle.destination import Destinations
from fitasks.delivery.bundle.manifest import BundleRefused
from fitasks.delivery.bundle.placing import Arrival, Arriving
from fitasks.delivery.bundle.placing_whole import arrive as arrive_whole
from fitasks.delivery.bundle.reading import DASH, opened
from fitasks.delivery.bundle.staging import staging, sweep
from fitasks.delivery.bundle.usable import of_use, proven, refuse_too_large
from fitasks.delivery.bundle.whole import proven as proven_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

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


def unbundle(here: Here, path: Path, *, lock_timeout: float = LOCK_TIMEOUT, called: str = "") -> Unbundled:
    """Take a bundle. Raises BundleRefused, and changes nothing, unless every byte of it is right and of use here.

    `called` is what errors call it, where `path` is only a place on the way.

    KernelFailure where somebody keeps a module's lock for longer than `lock_timeout` seconds; what came before stays.
    """
    with refusals(path, called):
        return _unbundle(here, path, lock_timeout)


@contextmanager
def refusals(path: Path, called: str = "") -> Iterator[None]:
    """What is said where a bundle is not taken: its file, the reason, and that nothing was changed."""
    try:
        yield
    except BundleRefused as error:
        remedy = error.remedy or "copy it again, or make it again"
        name = called or ("standard input" if path == DASH else path)
        raise BundleRefused(f"{name} is refused: {error.message}; nothing was changed", remedy=remedy) from None
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename or path}: {error.strerror or error}") from None


def _unbundle(here: Here, path: Path, lock_timeout: float) -> Unbundled:
    ours = manifest_of(here, {})
    sweep(here)
    with ExitStack() as stack:
        with opened(path) as archive:
            whole = archive.manifest()
            manifest = of_use(whole, ours)
            destinations = Destinations.of(here, manifest, ours)
            destinations.refuse_store(manifest)
            unpacked = stack.enter_context(staging(destinations.unpacked_in(manifest)))
            refuse_too_large(manifest, _stage_inside(stack, unpacked, destinations.beside(manifest)))
            archive.unpack(whole, unpacked, manifest.workspaces)
            modules, objects = proven(manifest, unpacked), proven_whole(manifest, unpacked)
        arriving = Arriving(here, destinations, unpacked, lock_timeout)
        arrivals = (
            *map(arriving.arrive, modules),
            *(arrive_whole(one, destinations, lock_timeout) for one in objects),
        )
    moved, left = destinations.moved, _left(whole, manifest)
    return Unbundled(path, arrivals, len(manifest.files), manifest.bytes, moved, left)


def _stage_inside(stack: ExitStack, unpacked: Path, parts: Iterable[tuple[str, Path]]) -> Path:
    """Have what is unpacked for a part of a cache lie in it, since it may be a mount: renames will do.

    Return where most of it lies.
    """
    staged: dict[Path, Path] = {}
    for part, beside in parts:
        if beside not in staged:
            staged[beside] = stack.enter_context(staging(beside))
        inside = staged[beside] / part.replace("/", "-")
        inside.mkdir()
        (unpacked / part).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / part).symlink_to(inside)
    return next(iter(staged.values()), unpacked)


def _left(whole: Manifest, taken: Manifest) -> dict[str, int]:
    return dict(Counter(held.architecture for held in whole.modules() if held.architecture not in taken.workspaces))
