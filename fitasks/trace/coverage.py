"""Which of the modules that a server asked for are there beforehand: from kernels.yaml, or from FlashInfer's own wheel.

`flashinfer-jit-cache` is read as files, since the doit process doesn't import it: `jit_cache/<name>/<name>.so` up to
0.6, and from 0.7 on provider packages with a manifest ("cuda_architectures", "modules"), one for each architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.border import read_json
from fitasks.base.errors import BadInput
from fitasks.base.shape import fits
from fitasks.cuda.architecture import members, together
from fitasks.plan.kernel import asked_as
from fitasks.trace.toolchains import Compiler, Waited, compilers, nameable, waited

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fitasks.plan.plan import Plan
    from fitasks.plan.server import Server
    from fitasks.trace.model import Requested

_MOST_BYTES = 64 << 20  # of a manifest
_ANY = ""  # architecture set of a package that doesn't say for which it is
Names = dict[str, frozenset[str]]  # architecture set ("90a", "80_90a") → names of modules


@dataclass(frozen=True)
class Coverage:
    """Requested modules by what gives them. The last two are outside of what precompilation can do."""

    total: int  # modules that kernels.yaml might name, and that were really loaded
    not_planned: tuple[Requested, ...]  # kernels.yaml doesn't give them
    not_packaged: tuple[Requested, ...] | None  # nor does flashinfer-jit-cache; None where none is installed
    uncompiled: tuple[Requested, ...]  # CuTe-DSL and the like
    unused: tuple[Requested, ...]  # generated, but never loaded
    waited: tuple[Waited, ...] = ()  # by toolchain
    compilers: tuple[Compiler, ...] = ()

    @property
    def missing(self) -> tuple[Requested, ...]:
        """Modules that nothing gives: a server would compile them, or be refused."""
        packaged = self.not_packaged
        return tuple(one for one in self.not_planned if packaged is None or one.kind != "nvcc" or one in packaged)


def coverage(requested: Sequence[Requested], planned: Names, packaged: Names | None) -> Coverage:
    """Compare what was asked for with what kernels.yaml plans and, if one is installed, the official package has."""
    loaded = [one for one in requested if one.loaded]
    modules = [one for one in loaded if nameable(one)]
    return Coverage(
        len(modules),
        tuple(one for one in modules if not _cached(planned, one)),
        None if packaged is None else tuple(one for one in modules if not _packaged(packaged, one)),
        tuple(one for one in loaded if not nameable(one)),
        tuple(one for one in requested if one.unused),
        tuple(waited(requested)),
        tuple(compilers(requested)),
    )


def _cached(names: Names, one: Requested) -> bool:
    """A cache is for exactly its architecture set: `90a` isn't served by `80_90a`."""
    return any(one.name in known for arch, known in names.items() if one.architectures in {"", arch})


def _packaged(names: Names, one: Requested) -> bool:
    """Every architecture that the server had needs a provider; the package is of FlashInfer's modules."""
    if one.kind != "nvcc":
        return True
    having = [arch for arch, known in names.items() if one.name in known]
    served = {one for arch in having for one in members(arch)}
    return _ANY in having or (bool(having) and set(members(one.architectures)) <= served)


def planned_names(plan: Plan) -> Names:
    """What kernels.yaml gives."""
    names: dict[str, set[str]] = {}
    for kernel in plan.kernels:
        if kernel.name and not kernel.problem:
            names.setdefault(plan.targets[kernel.target].arch, set()).add(asked_as(kernel.name, kernel.kind))
    return {arch: frozenset(known) for arch, known in names.items()}


def packaged_names(server: Server) -> Names | None:
    """What the installed flashinfer-jit-cache has, nothing if it is for another FlashInfer; None without one."""
    version = server.version("flashinfer-jit-cache")
    if not version:
        return None
    if version.partition("+")[0] != server.version("flashinfer-python").partition("+")[0]:
        return {}
    found = [directory for site in server.site_packages for directory in sorted(site.glob("flashinfer_jit_cache*"))]
    names: dict[str, set[str]] = {}
    for directory in found:
        for arch, modules in _modules(directory).items():
            names.setdefault(arch, set()).update(modules)
    return {arch: frozenset(known) for arch, known in names.items()}


def _modules(package: Path) -> Mapping[str, set[str]]:
    """By its manifest; without one, by the libraries that are there."""
    if package.name.endswith((".dist-info", ".egg-info")) or not package.is_dir():
        return {}
    if said := dict(_manifests(package)):
        return said
    return {_ANY: {library.stem for library in package.rglob("*.so") if library.stem == library.parent.name}}


def _manifests(package: Path) -> Iterator[tuple[str, set[str]]]:
    for file in sorted(package.rglob("*.json")):
        try:
            manifest = read_json(file, _MOST_BYTES)
            named = [manifest["cuda_architectures"], manifest["modules"]]
        except (BadInput, KeyError, TypeError):
            continue  # some other file
        if fits(named, list[list[str]]):
            yield together(named[0]), set(named[1])
