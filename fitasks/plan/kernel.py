"""One kernel to build: FlashInfer's own JitSpec, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.config.model import Scalar  # noqa: TC001 - part of Kernel, whose fields are looked at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_PATHS = ("build_dir", "library", "ninja_file", "lock")


@dataclass(frozen=True)
class Artefact:
    """An ahead-of-time module, and those of the target's architectures that it is loaded for: "sm80", "sm90a"."""

    path: Path
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """A module of one target, exactly as the installed FlashInfer would build it at run time.

    `ninja` is the whole text of FlashInfer's build.ninja. `problem` is set instead of paths being usable where
    the configuration could not be planned; such a kernel fails alone. `twin` names the label of an earlier kernel
    that is the very same module.
    """

    label: str  # doit's subtask name, unique over all targets
    entry: str
    op: str
    target: str  # "9.0a", as FLASHINFER_CUDA_ARCH_LIST says it
    place: str  # "kernels.yaml:14:3"
    given: dict[str, Scalar]  # the parameters as written
    params: dict[str, object] = field(default_factory=dict)  # as the generator got them
    name: str = ""
    generator: str = ""  # "flashinfer.jit.page:gen_page_module"
    build_dir: Path = Path()
    library: Path = Path()
    ninja_file: Path = Path()
    lock: Path = Path()
    sources: tuple[Path, ...] = ()
    aot: tuple[Artefact, ...] = ()  # what FlashInfer found ahead of time when this was planned
    ninja: str = ""
    note: str = ""  # what the planner has to say of it, e.g. under which condition a server loads it
    problem: str = ""
    twin: str = ""

    @property
    def unfit(self) -> bool:
        """Whether it could be planned, but its code runs on none of the target's GPUs; `problem` says so."""
        return bool(self.problem and self.name)


def as_record(kernel: Kernel) -> dict[str, Any]:
    """The kernel for JSON."""
    paths = {name: str(getattr(kernel, name)) for name in _PATHS}
    aot = [asdict(found) | {"path": str(found.path)} for found in kernel.aot]
    return asdict(kernel) | paths | {"sources": list(map(str, kernel.sources)), "aot": aot}


def from_record(record: dict[str, Any]) -> Kernel:
    """The kernel that `as_record` was given."""
    paths = {name: Path(record[name]) for name in _PATHS}
    aot = tuple(Artefact(Path(found["path"]), tuple(found["architectures"])) for found in record["aot"])
    return Kernel(**record | paths | {"sources": tuple(map(Path, record["sources"])), "aot": aot})


def impossible(kernels: Iterable[Kernel], targets: Collection[str]) -> str:
    """Return the first of these kernels that can't be one of a plan for these targets, and why; "" if all can.

    They come from FlashInfer, or from a file that may be damaged.
    """
    owners: dict[str, bool] = {}  # label → whether it has a module of its own
    for kernel in kernels:
        if not kernel.label or kernel.label in owners:
            return f"two kernels with the label {kernel.label!r}, or none"
        if kernel.target not in targets:
            return f"{kernel.label}: a kernel for {kernel.target!r}"
        if not kernel.problem and not _has_place(kernel):
            return f"{kernel.label}: a kernel named {kernel.name!r}, with files that don't lie in {kernel.build_dir}"
        if kernel.twin and not owners.get(kernel.twin):
            return f"{kernel.label}: the same as {kernel.twin!r}, which is none"
        owners[kernel.label] = not kernel.problem and not kernel.twin
    return ""


def _has_place(kernel: Kernel) -> bool:
    """Whether it has a name, and files where FlashInfer has them: in a directory of that name."""
    directory, inside = kernel.build_dir, (kernel.library, kernel.ninja_file)
    places = (directory, *inside, kernel.lock, *kernel.sources)
    named = kernel.name and kernel.name == directory.name and kernel.library.name == f"{kernel.name}.so"
    return bool(
        named and kernel.sources and all(p.is_absolute() for p in places) and all(p.parent == directory for p in inside)
    )
