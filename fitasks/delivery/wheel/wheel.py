"""`doit wheel`: the planned kernels as a package that FlashInfer loads them from, without ninja, nvcc or a cache.

    fitasks_kernels/                         __init__.py (payload/kernels.py), manifest.json, receipts.json
    fitasks_kernels/sm90a/<name>/<name>.so   one directory for each architecture set that was planned for
    fitasks_kernels/shim/flashinfer_jit_cache/__init__.py    (payload/shim.py)
    fitasks-kernels.pth                      puts the shim's directory at the end of sys.path

FlashInfer imports `flashinfer_jit_cache`. That name belongs to its own package, so no file of ours is ever installed
there; the .pth line makes ours the one that is found where FlashInfer's isn't. From 0.7 on, FlashInfer's own also
finds us, by the entry point. Hashes in it are of what it holds (stripped.py); those of the libraries as they were built
differ with each compile, and stay in the receipts of the machine that built them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from fitasks.base import temporary
from fitasks.base.files import sha256_text
from fitasks.base.wording import counted
from fitasks.cuda.elf import inspect_library
from fitasks.delivery.provenance import receipts_text
from fitasks.delivery.stripped import find_strip, packed
from fitasks.delivery.tvmffi import headers_abi
from fitasks.delivery.wheel.archive import File, write_zip
from fitasks.delivery.wheel.installed import DISTRIBUTION, PACKAGE
from fitasks.delivery.wheel.tag import platform_tag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.delivery.collect import Complete
    from fitasks.plan.server import Server

_PAYLOAD = Path(__file__).parent / "payload"
_SPDX = {b"Apache License": "Apache-2.0", b"BSD 3-Clause": "BSD-3-Clause", b"MIT License": "MIT"}
_GROUP = "flashinfer.jit_cache.providers"


@dataclass(frozen=True)
class Wheel:
    """A finished wheel: its file, what it holds, and the bytes that each library takes inside it.

    `stripped` says whether its bytes depend on the kernels' contents alone.
    """

    path: Path
    version: str
    flashinfer: str
    kernels: tuple[Complete, ...]
    compressed: dict[str, int]  # "sm90a/page" → bytes
    stripped: bool

    @property
    def bytes(self) -> int:
        """Of the file."""
        return self.path.stat().st_size


def build_wheel(kernels: Iterable[Complete], server: Server, directory: Path) -> Wheel:
    """Write the wheel of these kernels for a server into `directory`, in place of earlier ones of ours.

    The same kernels give the same bytes, whenever they were compiled, if there is a `strip`. Raises
    OSError, which names the file.
    """
    unique = sorted({_key(one): one for one in kernels}.values(), key=_key)
    strip = find_strip(server.env)
    with temporary.directory("wheel") as copies:
        return _write(server, packed(unique, copies, strip), directory, stripped=bool(strip))


def _write(server: Server, kernels: tuple[Complete, ...], directory: Path, *, stripped: bool) -> Wheel:
    flashinfer = kernels[0].target.flashinfer
    version = version_of(flashinfer, kernels)
    tag = f"py3-none-{platform_tag(_symbol_versions(kernels))}"
    path = directory / f"{PACKAGE}-{version}-{tag}.whl"
    sizes = write_zip(path, _files(server, kernels, flashinfer, version, tag), record=f"{_info(version)}/RECORD")
    remove_earlier(directory, keep=path)
    compressed = {_key(one): sizes[_library(one)] for one in kernels}
    return Wheel(path, version, flashinfer, kernels, compressed, stripped)


def remove_earlier(directory: Path, *, keep: Path | None = None) -> None:
    """Remove wheels of ours, so that a pattern finds the one that is meant, or none."""
    for old in directory.glob(f"{PACKAGE}-*.whl"):
        if old != keep and (old.is_file() or old.is_symlink()):
            old.unlink(missing_ok=True)  # another run may be at it


def version_of(flashinfer: str, kernels: Iterable[Complete]) -> str:
    """FlashInfer's version with a local part that is made from the kernels: `0.7.2.post1+k1f3a9c0d2`."""
    made_for = Version(flashinfer)
    content = sha256_text("\n".join(sorted(f"{_key(one)} {one.sha256}" for one in kernels)))
    local = f"{made_for.local}.k{content[:9]}" if made_for.local else f"k{content[:9]}"
    return f"{made_for.public}+{local}"


def _symbol_versions(kernels: Iterable[Complete]) -> set[str]:
    libraries = (inspect_library(one.library) for one in kernels)
    return {symbol.version for library in libraries for symbol in library.undefined}


def _files(server: Server, kernels: tuple[Complete, ...], flashinfer: str, version: str, tag: str) -> list[File]:
    manifest = _manifest(server, kernels, flashinfer, version, tag)
    info = _info(version)
    licences = _licences(server)
    return [
        File(f"{PACKAGE}/__init__.py", (_PAYLOAD / "kernels.py").read_bytes()),
        File(f"{PACKAGE}/manifest.json", _json(manifest)),
        File(f"{PACKAGE}/receipts.json", receipts_text(kernels).encode()),
        File(f"{PACKAGE}/shim/flashinfer_jit_cache/__init__.py", (_PAYLOAD / "shim.py").read_bytes()),
        File("fitasks-kernels.pth", f"{PACKAGE}/shim\n".encode()),
        *(File(_library(one), one.library, one.sha256) for one in kernels),
        File(f"{info}/METADATA", _metadata(flashinfer, version, kernels, licences).encode()),
        File(f"{info}/WHEEL", _wheel(tag).encode()),
        File(f"{info}/entry_points.txt", _entry_points(manifest["providers"]).encode()),
        File(f"{info}/top_level.txt", f"{PACKAGE}\n".encode()),
        *(File(f"{info}/licenses/{name}", content) for name, content in licences.items()),
    ]


def _manifest(server: Server, kernels: tuple[Complete, ...], flashinfer: str, version: str, tag: str) -> dict[str, Any]:
    target = kernels[0].target
    abi = target.tvm_ffi_abi
    return {
        "distribution": DISTRIBUTION,
        "version": version,
        "flashinfer": flashinfer,
        "tvm_ffi": target.tvm_ffi,
        "tvm_ffi_abi": headers_abi(server.site_packages) if abi is None else abi,
        "tag": tag,
        "directories": {one.directory: one.directory.split("-") for one in kernels},
        "providers": _providers(kernels, version),
        "kernels": [
            {
                "directory": one.directory,
                "name": one.kernel.name,
                "op": one.kernel.op,
                "architectures": one.architectures,
                "sha256": one.sha256,
                "size": one.size,
                "needed": one.receipt.needed,
                "required": required(one.library),
            }
            for one in kernels
        ],
    }


def required(library: Path) -> list[str]:
    """The symbols without which the loader refuses it: the gate looks for them where a driver is missing."""
    return sorted(map(str, inspect_library(library).required))


def _providers(kernels: tuple[Complete, ...], version: str) -> dict[str, Any]:
    """FlashInfer 0.7's records: one for each set of architectures, since a record speaks for all its modules."""
    groups: dict[str, list[Complete]] = {}
    for one in kernels:
        only = "-".join(one.architectures)
        suffix = "" if only == one.directory else f"-only-{only}"
        groups.setdefault(f"fitasks-{one.directory}{suffix}", []).append(one)
    return {
        provider_id: {
            "schema_version": 1,
            "provider_id": provider_id,
            "distribution": DISTRIBUTION,
            "version": version,
            "cuda_architectures": group[0].architectures,
            "modules": sorted(one.kernel.name for one in group),
            "directory": group[0].directory,
        }
        for provider_id, group in groups.items()
    }


def _licences(server: Server) -> dict[str, bytes]:
    """FlashInfer's own licence files, as its distribution has them: these kernels are its code."""
    for site in server.site_packages:
        for info in sorted(site.glob("flashinfer_python-*.dist-info")):
            root = info / "licenses"
            return {
                str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
            }
    return {}


def _metadata(flashinfer: str, version: str, kernels: tuple[Complete, ...], licences: dict[str, bytes]) -> str:
    count, directories = counted(len(kernels), "kernel"), ", ".join(dict.fromkeys(one.directory for one in kernels))
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {DISTRIBUTION}",
        f"Version: {version}",
        f"Summary: {count} of FlashInfer {flashinfer}, compiled ahead of time for {directories}",
        *_expression(licences.values()),
        *(f"License-File: {name}" for name in licences),
        "Requires-Python: >=3.10",
    ]
    return "\n".join(lines) + "\n"


def _expression(texts: Iterable[bytes]) -> list[str]:
    """Of FlashInfer's own licence and those that its notices name (CUTLASS: BSD, KDA: MIT); no line without texts."""
    whole = b"\n".join(texts)
    found = [name for words, name in _SPDX.items() if words in whole]
    return [f"License-Expression: {' AND '.join(found)}"] if found else []


def _wheel(tag: str) -> str:
    return f"Wheel-Version: 1.0\nGenerator: fitasks\nRoot-Is-Purelib: false\nTag: {tag}\n"


def _entry_points(providers: Iterable[str]) -> str:
    lines = [f"{name} = {PACKAGE}:provider_{name.replace('-', '_')}" for name in providers]
    return "\n".join([f"[{_GROUP}]", *lines]) + "\n"


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _info(version: str) -> str:
    return f"{PACKAGE}-{version}.dist-info"


def _key(one: Complete) -> str:
    return f"{one.directory}/{one.kernel.name}"


def _library(one: Complete) -> str:
    return f"{PACKAGE}/{_key(one)}/{one.library.name}"
