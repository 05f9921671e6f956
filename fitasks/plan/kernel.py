"""One kernel to build, as data: FlashInfer's own JitSpec, or what SGLang hands to tvm_ffi.cpp."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from fitasks.base.files import is_plain_name
from fitasks.base.shape import fits
from fitasks.config.model import Scalar  # noqa: TC001 - part of Kernel, whose fields are looked at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# FlashInfer's nvcc modules; those of SGLang's own JIT, in tvm-ffi's cache or kept by content; CuTe-DSL objects.
Kind = Literal["flashinfer", "sglang", "sglang-keyed", "cute"]
# What its engine's own code builds in one go, from key to publishing, and how that is called.
WHOLE: dict[Kind, str] = {"cute": "an object of CuTe-DSL's", "sglang-keyed": "a module that SGLang keeps by content"}

_SOURCES_HASH = re.compile(r"_[0-9a-f]{16}$")  # at the end of a module's name of SGLang's
_INCLUDED = re.compile(r'^#include "(/[^"\n]+)"', re.MULTILINE)
_PATHS = ("build_dir", "library", "ninja_file", "lock")


class KeyedMeta(TypedDict):
    """The `meta` of a module that SGLang keeps by content."""

    roots: dict[str, str]  # the words of its lists → the directories that they mean here
    leaves: int  # as many of the newest are looked at


@dataclass(frozen=True)
class Artefact:
    """An ahead-of-time module, and those of the target's architectures that it is loaded for: "sm80", "sm90a"."""

    path: Path
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class NotLoaded:
    """An entry that a model needs on one engine, and that FlashInfer serves without a module here; `why` says how."""

    entry: str
    target: str
    why: str


@dataclass(frozen=True)
class Kernel:
    """A module of one target, exactly as the installed FlashInfer, or SGLang's own JIT, would build it at run time.

    `ninja` is the whole text of build.ninja. `problem` is set instead of paths being usable where
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
    kind: Kind = "flashinfer"
    texts: dict[str, str] = field(default_factory=dict)  # of sources that are written beside the library, by path
    # JSON: what meta.json, its ninja_file, has to say of a CuTe-DSL object; what a module that SGLang keeps by content
    # is looked for with (serving/plan/plan_keyed.py).
    meta: str = ""
    note: str = ""  # what the planner has to say of it, e.g. under which condition a server loads it
    problem: str = ""
    twin: str = ""

    @property
    def workspace(self) -> Path:
        """FlashInfer's cache that a module of its own lies in, of its version and its target's architectures."""
        return self.build_dir.parent.parent

    @property
    def reading(self) -> tuple[Path, ...]:
        """The files that its sources are or, where these are written only for a build, include by absolute paths."""
        found = (Path(path) for text in self.texts.values() for path in _INCLUDED.findall(text))
        return (*self.sources, *found)

    @property
    def packageable(self) -> bool:
        """Whether FlashInfer would load it from a package of kernels; SGLang's own JIT looks into its cache alone."""
        return self.kind == "flashinfer"

    @property
    def built_whole(self) -> bool:
        """Whether its engine's own code builds it in one go, from key to publishing."""
        return self.kind in WHOLE

    @property
    def by_tvm_ffi(self) -> bool:
        """Whether its build.ninja is tvm-ffi's, in a cache that is not FlashInfer's."""
        return self.kind == "sglang"

    @property
    def unfit(self) -> bool:
        """Whether it could be planned, but its code runs on none of the target's GPUs; `problem` says so."""
        return bool(self.problem and self.name)


def asked_as(name: str, kind: str) -> str:
    """Return the name by which a server asks for a module: SGLang's without the hash of its sources."""
    return _SOURCES_HASH.sub("", name) if kind == "sglang" else name


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


def impossible(records: Iterable[dict[str, Any]], targets: Collection[str]) -> str:
    """Return the first of these kernels that can't be one of a plan for these targets, and why; "" if all can.

    They come from FlashInfer, or from a file that may be damaged; each is as `as_record` makes it.
    """
    owners: dict[str, bool] = {}  # label → whether it has a module of its own
    for record in records:
        label, twin, problem = record["label"], record["twin"], record["problem"]
        if not label or label in owners:
            return f"two kernels with the label {label!r}, or none"
        if record["target"] not in targets:
            return f"{label}: a kernel for {record['target']!r}"
        if not problem and not _has_place(record):
            return f"{label}: a kernel named {record['name']!r}, with files that don't lie in {record['build_dir']}"
        if twin and not owners.get(twin):
            return f"{label}: the same as {twin!r}, which is none"
        owners[label] = not problem and not twin
    return ""


def _has_place(record: dict[str, Any]) -> bool:
    """Whether it has a name, sources, and files where its kind has them: in a directory of that name.

    SGLang's is `<name>__arch_9.0a__tvmffi_0.1.11`.
    """
    name, directory, sources = record["name"], record["build_dir"], record["sources"]
    if record["kind"] == "cute":
        return _is_object(record)
    if record["kind"] == "sglang-keyed":
        return _is_keyed(record)
    own = directory.rpartition("/")[2]
    if not name or not sources or not (own == name or (record["kind"] == "sglang" and own.startswith(f"{name}__"))):
        return False
    if not record["texts"].keys() <= set(sources):
        return False
    beside = [record["ninja_file"], *record["texts"]]
    inside = record["library"] == f"{directory}/{name}.so" and all(_is_in(directory, path) for path in beside)
    return inside and all(path.startswith("/") for path in (directory, record["lock"], *sources))


def _is_object(record: dict[str, Any]) -> bool:
    """Whether it is `<family>/<kernel>`, in a directory of that family's name."""
    directory, (family, _, kernel) = record["build_dir"], record["name"].partition("/")
    inside = record["library"] == f"{directory}/{kernel}.o" and record["ninja_file"] == f"{directory}/meta.json"
    absolute = directory.startswith("/") and record["lock"].startswith("/")
    named = is_plain_name(kernel) and is_plain_name(family) and directory.rpartition("/")[2] == family
    return inside and absolute and named and bool(record["meta"])


def _is_keyed(record: dict[str, Any]) -> bool:
    """Whether its files are in `<cache>/<target>/<name>/build-<key>`, and it says what that is searched with."""
    name, directory = record["name"], record["build_dir"]
    own = {"library": f"{name}.so", "ninja_file": "build.ninja", "lock": ".lock"}
    inside = all(record[key] == f"{directory}/{file}" for key, file in own.items())
    named = is_plain_name(name) and directory.startswith("/") and directory.split("/")[-2:-1] == [name]
    return inside and named and not record["texts"] and _has_roots(record["meta"])


def _has_roots(meta: str) -> bool:
    try:
        return fits(json.loads(meta), KeyedMeta, theirs=True)
    except (ValueError, RecursionError):
        return False


def _is_in(directory: str, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    return parent == directory and is_plain_name(name)
