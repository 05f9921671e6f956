"""Our package of kernels as it is installed: what it says of its files, and of what they were built from."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base.files import is_plain_name, regular, sha256_file
from fitasks.base.shape import fits
from fitasks.delivery.tvmffi import is_version
from fitasks.plan.server import find_package

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

DISTRIBUTION = "fitasks-kernels"
PACKAGE = "fitasks_kernels"
MANIFEST, RECEIPTS = "manifest.json", "receipts.json"


class _Key(TypedDict):
    """Of one kernel, in both files."""

    directory: str
    name: str


class _Packed(_Key):
    """In the manifest."""

    sha256: str
    size: int


class _Compiled(_Key):
    """In the receipts."""

    fingerprint: str


class _Provider(TypedDict):
    directory: str
    modules: list[str]


class _Manifest(TypedDict):
    version: str
    flashinfer: str
    directories: dict[str, list[str]]
    providers: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class InstalledModule:
    """One module as the package was made: SHA-256 and bytes of its file, and its receipt's fingerprint."""

    sha256: str
    size: int
    fingerprint: str


def is_ours(library: Path) -> bool:
    """Whether it lies where our package has its libraries."""
    return len(library.parts) > 3 and library.parents[2].name == PACKAGE


def packaged(library: Path) -> InstalledModule | None:
    """What our package says of one of its libraries; None where it says nothing usable."""
    root, key = library.parents[2], (library.parent.parent.name, library.parent.name)
    try:
        said, receipt = _by_key(root / MANIFEST)[key], _by_key(root / RECEIPTS)[key]
    except (OSError, ValueError, KeyError):
        return None
    usable = fits(_only(said, _Packed), _Packed) and fits(_only(receipt, _Compiled), _Compiled)
    return InstalledModule(said["sha256"], said["size"], receipt["fingerprint"]) if usable else None


def built_with(library: Path) -> str:
    """The version of tvm-ffi's C ABI that our package was compiled against, "0.1.16"; "" where it doesn't say."""
    try:
        said = _said(library.parents[2] / MANIFEST).get("tvm_ffi_abi", "")
    except (OSError, ValueError):
        return ""
    return said if isinstance(said, str) and is_version(said) else ""


def installed(site: Path) -> tuple[str, str, Collection[tuple[str, str]]] | None:
    """The FlashInfer that a package there was made for, its version, and (directory, name) of each module.

    None where there is none that is whole.
    """
    if damage(site) or not (site / PACKAGE / MANIFEST).exists():
        return None
    said = _said(site / PACKAGE / MANIFEST)
    return said["flashinfer"], said["version"], _by_key(site / PACKAGE / MANIFEST).keys()


def damage(site: Path) -> str:
    """Return what is wrong with our package in a directory of site-packages, in a sentence.

    "" where it is whole, as far as that is told without reading its libraries, and where there is none.
    """
    root, info = site / PACKAGE, find_package(DISTRIBUTION, (site,))
    if not info and not any((root / name).exists() for name in (MANIFEST, RECEIPTS)):
        return ""
    try:
        _refuse_damage(root, info.version if info else "")
    except OSError as error:
        return f"{error.filename or root}: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    return ""


def _refuse_damage(root: Path, version: str) -> None:
    """Raise ValueError with what is wrong, OSError."""
    manifest = _said(root / MANIFEST)
    if not fits(_only(manifest, _Manifest), _Manifest):
        raise ValueError(f"{root / MANIFEST} doesn't say what a package of kernels says")
    if version and manifest["version"] != version:
        raise ValueError(f"{root / MANIFEST} is of version {manifest['version']!r:.100}, {version} is installed")
    packed, compiled = (_by_key(root / name) for name in (MANIFEST, RECEIPTS))
    for key in sorted(packed.keys() | compiled.keys()):
        where = f"{key[0]!r:.100}, {key[1]!r:.100}"
        if not all(map(is_plain_name, key)):
            raise ValueError(f"{root / MANIFEST} names a kernel that has no place in it: {where}")
        library = root / key[0] / key[1] / f"{key[1]}.so"
        if packaged(library) is None:
            raise ValueError(f"{root / MANIFEST} and {root / RECEIPTS} don't agree on a kernel: {where}")
        if not library.is_file():
            raise ValueError(f"{library} is missing")
    for name, provider in manifest["providers"].items():
        if not fits(_only(provider, _Provider), _Provider):
            raise ValueError(f"{root / MANIFEST} doesn't say what provider {name!r:.100} has")
        if not {(provider["directory"], one) for one in provider["modules"]} <= packed.keys():
            raise ValueError(f"{root / MANIFEST} offers more than it has: provider {name!r:.100}")


def altered(library: Path, module: InstalledModule | None) -> str:
    """How the file differs from what was packaged, in a sentence; "" if it doesn't. Without a module nobody knows."""
    if module is None:
        return f"{library} has no usable entry in its package's manifest.json and receipts.json"
    size = library.stat().st_size
    if size != module.size:
        return f"{library} has {size} bytes, {module.size} by its package's manifest"
    digest = sha256_file(library)
    if digest != module.sha256:
        return f"{library} is altered: its hash is {digest[:12]}, {module.sha256[:12]} by its package's manifest"
    return ""


def _said(file: Path) -> dict[str, Any]:
    """Raises ValueError where a file isn't an object of JSON, OSError."""
    return _read(file, file.stat().st_mtime_ns)[0]


def _by_key(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """A file's `kernels` by (directory, name). Raises ValueError where it doesn't list them, each once, OSError."""
    return _read(file, file.stat().st_mtime_ns)[1]


@functools.lru_cache(maxsize=8)
def _read(file: Path, _mtime_ns: int) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """Hundreds of kernels share a file. A newer one is read anew."""
    with regular(file) as stream:
        data = stream.read()
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not JSON") from None
    kernels = said.get("kernels") if isinstance(said, dict) else None
    if not isinstance(kernels, list) or not all(fits(_only(one, _Key), _Key) for one in kernels):
        raise ValueError(f"{file} doesn't say which kernels it is about")
    by_key = {(one["directory"], one["name"]): one for one in kernels}
    if len(by_key) < len(kernels):
        raise ValueError(f"{file} names a kernel twice")
    return said, by_key


def _only(said: Any, shape: Any) -> Any:
    """What is asked of an object that may say more, now or in a later fitasks."""
    return {name: said[name] for name in shape.__annotations__ if name in said} if isinstance(said, dict) else said
