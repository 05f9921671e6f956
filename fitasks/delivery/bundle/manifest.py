"""What a bundle says of itself: where its kernels were built, and hash, size and time of every file in it.

It is the first member, and every later one is measured by it. A manifest comes from elsewhere: nothing in it is used
before `parse` has looked at it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from fitasks.base.errors import FitasksError
from fitasks.base.files import is_plain_name
from fitasks.delivery.tvmffi import is_version
from fitasks.plan.caches import CACHED_OPS, GENERATED, LOCKS, TVM_FFI

if TYPE_CHECKING:
    from collections.abc import Collection

NAME = "manifest.json"
FORMAT = "fitasks bundle"
# An earlier fitasks reads 1 alone, and knows no modules of SGLang's own JIT; or 1 and 2, and nothing that its engine
# builds in one go.
VERSION, WITH_SGLANG, WITH_WHOLE = 1, 2, 3
_NEWEST = WITH_WHOLE
CUTE, KEYED = "cute-dsl", "sglang-jit"  # parts of a bundle whose directories are no cache's
WHOLES = frozenset({CUTE, KEYED})
LIMIT = 16 << 20  # bytes; 655 kernels with 20 files each take 6 MB

_TEXTS = ("flashinfer", "platform", "glibc", "ninja", "site_packages", "cuda_home")
_LATER_TEXTS = ("tvm_ffi", "tvm_ffi_abi", "sglang_cache")  # older bundles have none
_ARCHITECTURE = re.compile(r"[0-9a-z_]{1,100}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_GLIBC = re.compile(r"([0-9]{1,4}(\.[0-9]{1,4}){0,3})?")
_PARTS = WHOLES | {CACHED_OPS, GENERATED, TVM_FFI}
_LONGEST_PATH = 1024
_LONGEST_TEXT = 4096
_DEEPEST = 50  # lists in lists, of parameters
_LARGEST = 1 << 62  # of sizes and of times in nanoseconds: os.utime takes no more than 63 bits


class BundleRefused(FitasksError):
    """A bundle that is not taken, with the reason; nothing at the destination has changed."""


@dataclass(frozen=True)
class PackedFile:
    """One file: SHA-256 in hex, bytes, and the mtime (ns) under which ninja accepts it."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Origin:
    """What the builder's plan called a kernel, which its receipt doesn't know: a package made of it says so."""

    op: str
    params: dict[str, object]  # as the generator got them, in its order


@dataclass(frozen=True, order=True)
class Held:
    """Where a kernel is in a bundle: `<architecture set>/<part>/<directory>`, of FlashInfer's cache or of SGLang's."""

    architecture: str
    part: str  # "cached_ops", "tvm-ffi"; "cute-dsl", "sglang-jit"
    directory: str  # there, or, of the last two, a name of ours

    def __str__(self) -> str:
        return f"{self.architecture}/{self.part}/{self.directory}"


@dataclass(frozen=True)
class Manifest:
    """All of it. `files` has keys like `90a/cached_ops/page/page.so`; roots are absolute paths of the builder."""

    flashinfer: str
    platform: str  # "linux-x86_64"
    glibc: str  # the oldest that the libraries load with, "2.34"; "" where they ask for none
    ninja: str  # version whose logs these are
    site_packages: str
    cuda_home: str
    workspaces: dict[str, str]  # architecture set, as in FlashInfer's paths ("90a") → its cache directory
    files: dict[str, PackedFile]
    kernels: dict[str, Origin] = field(default_factory=dict)  # "90a/page"; older bundles have none
    tvm_ffi: str = ""  # version of the package that the kernels have headers of; "" in older bundles
    tvm_ffi_abi: str = ""  # what those headers say, "0.1.16"
    sglang_cache: str = ""  # where the builder's SGLang looks for its own modules; "" without any

    def modules(self) -> list[Held]:
        """The place of every kernel, sorted."""
        parts = (path.split("/") for path in self.files)
        return sorted({Held(*words[:3]) for words in parts if words[1] != GENERATED})

    @property
    def version(self) -> int:
        """Of the format, the oldest that can say it."""
        parts = {held.part for held in self.modules()}
        return WITH_WHOLE if parts & WHOLES else WITH_SGLANG if TVM_FFI in parts else VERSION

    def only(self, architectures: Collection[str]) -> Manifest:
        """The part for these architecture sets."""
        workspaces = {name: path for name, path in self.workspaces.items() if name in architectures}
        files = {path: entry for path, entry in self.files.items() if path.partition("/")[0] in workspaces}
        kernels = {name: origin for name, origin in self.kernels.items() if name.partition("/")[0] in workspaces}
        return replace(self, workspaces=workspaces, files=files, kernels=kernels)

    def below(self, directory: str) -> dict[str, PackedFile]:
        """The files below a directory, by their path in it."""
        prefix = f"{directory}/"
        return {path.removeprefix(prefix): entry for path, entry in self.files.items() if path.startswith(prefix)}

    @property
    def bytes(self) -> int:
        """All files, unpacked."""
        return sum(entry.size for entry in self.files.values())


def to_json(manifest: Manifest) -> bytes:
    """The member's bytes; the same manifest, in the same order, gives the same bytes."""
    return json.dumps({"format": FORMAT, "version": manifest.version} | asdict(manifest), indent=1).encode()


def parse(data: bytes) -> Manifest:
    """The manifest in a member's bytes. Raises BundleRefused where it is none, or names a wrong place."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        raise BundleRefused("its manifest is damaged") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise BundleRefused("its manifest is not one of a fitasks bundle")
    if said.get("version") not in range(VERSION, _NEWEST + 1):
        raise BundleRefused(
            f"its manifest has format version {said.get('version')!r:.40}; this fitasks reads {VERSION} to {_NEWEST}",
            remedy="make the bundle and take it with the same fitasks",
        )
    texts = {name: _text(said.get(name), name) for name in _TEXTS}
    if not _GLIBC.fullmatch(texts["glibc"]):
        raise BundleRefused("its manifest says nothing usable of glibc")
    workspaces = _workspaces(said.get("workspaces"))
    files = said.get("files")
    if not isinstance(files, dict):
        raise BundleRefused("its manifest says nothing usable of files")
    entries = {path: _entry(path, files[path], workspaces) for path in files}
    if clash := next((path for path in entries if any(above in entries for above in _above(path))), ""):
        raise BundleRefused(f"its manifest names {clash!r}, which is below a file")
    texts |= {name: _text(said.get(name, ""), name) for name in _LATER_TEXTS}
    if texts["tvm_ffi_abi"] and not is_version(texts["tvm_ffi_abi"]):
        raise BundleRefused("its manifest says nothing usable of tvm_ffi_abi")
    found = Manifest(**texts, workspaces=workspaces, files=entries, kernels=_origins(said.get("kernels", {})))
    if found.version > said["version"]:
        unknown = "modules of SGLang's own" if said["version"] == VERSION else "such kernels as it names"
        raise BundleRefused(f"its manifest has format version {said['version']}, which knows no {unknown}")
    return found


def _text(said: object, name: str) -> str:
    """A text that may be shown: on one line, and without what a terminal would obey."""
    if not isinstance(said, str) or not said.isprintable() or len(said) > _LONGEST_TEXT:
        raise BundleRefused(f"its manifest says nothing usable of {name}")
    return said


def _workspaces(said: object) -> dict[str, str]:
    if not isinstance(said, dict) or not said or not all(map(_ARCHITECTURE.fullmatch, said)):
        raise BundleRefused("its manifest says nothing usable of workspaces")
    return {name: _text(path, "workspaces") for name, path in said.items()}


def _origins(said: object) -> dict[str, Origin]:
    found = {}
    for name, origin in said.items() if isinstance(said, dict) else [("", said)]:
        match origin:
            case {"op": str(op), "params": dict(params)} if _shallow(params):
                found[name] = Origin(_text(op, "kernels"), params)
            case _:
                raise BundleRefused("its manifest says nothing usable of kernels")
    return found


def _shallow(value: object, levels: int = _DEEPEST) -> bool:
    """Whether it can be written as JSON again, wherever."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_shallow(one, levels - 1) for one in inner)


def _above(path: str) -> list[str]:
    """The directories that a path is in."""
    return [path[: match.start()] for match in re.finditer("/", path)]


def _entry(path: str, said: object, workspaces: dict[str, str]) -> PackedFile:
    if problem := _misplaced(path, workspaces):
        raise BundleRefused(f"its manifest names {path!r:.300}, {problem}")
    match said:
        case {"sha256": str(digest), "size": int(size), "mtime_ns": int(mtime_ns), **rest} if not rest:
            if _DIGEST.fullmatch(digest) and 0 <= size < _LARGEST and 0 <= mtime_ns < _LARGEST:
                return PackedFile(digest, size, mtime_ns)
    raise BundleRefused(f"its manifest says nothing usable of {path!r}")


def _misplaced(path: str, workspaces: dict[str, str]) -> str:
    """Why no file may go to this path; "" for `90a/cached_ops/<module>/…`, `…/generated/…` and the other parts."""
    words = path.split("/")
    if path.startswith("/"):
        return "an absolute path"
    if ".." in words:
        return "which leads out of the cache"
    if len(words) < 4 or words[0] not in workspaces or words[1] not in _PARTS:
        return "which has no place in a cache"
    if words[1:3] == [CACHED_OPS, LOCKS] or (words[1] == TVM_FFI and words[3] == "lock"):
        return "where locks are"
    if not all(map(is_plain_name, words)):
        return "which is no plain path"
    return "which is too long a path" if len(path.encode()) > _LONGEST_PATH else ""
