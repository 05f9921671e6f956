"""What an engine's own code builds in one go, in a bundle: CuTe-DSL objects, modules that SGLang keeps by content.

    90a/cute-dsl/<family>.<kernel>/     <kernel>.o, FlashInfer's meta.json, our receipt
    90a/sglang-jit/build-<key>/         <module>.so, SGLang's list of the files that were read, our receipt

The key under which each is looked for travels with it: meta.json, and the two parts of SGLang's. It names packages,
compilers and, FlashInfer's, paths, so that it may be none of the place where the bundle is taken (placing_whole.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitasks.base.border import read_json
from fitasks.base.errors import BadInput
from fitasks.compile.judge import engine_receipt
from fitasks.compile.judge.engine_receipt import SUFFIX
from fitasks.compile.judge.keyed import LIST, leaf_named_by
from fitasks.delivery.bundle.manifest import CUTE, WHOLES, BundleRefused
from fitasks.plan.caches import META

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.judge.engine_receipt import EngineReceipt
    from fitasks.delivery.bundle.manifest import Held, Manifest
    from fitasks.plan.kernel import Kernel, Kind

_MOST_BYTES = 1 << 20  # of meta.json


@dataclass(frozen=True)
class PackedWhole:
    """One that was unpacked and proven: `staged` has its three files."""

    held: Held
    name: str
    staged: Path
    library: Path
    key: Path  # FlashInfer's meta.json, SGLang's list
    receipt: EngineReceipt

    @property
    def kind(self) -> Kind:
        """Whose it is."""
        return "cute" if self.held.part == CUTE else "sglang-keyed"

    @property
    def meta(self) -> dict[str, Any]:
        """The key, as the receipt has it."""
        found: dict[str, Any] = json.loads(self.receipt.meta)
        return found


def directory_of(kernel: Kernel) -> str:
    """What a bundle calls its directory. Of FlashInfer's names neither part has a dot."""
    return kernel.name.replace("/", ".") if kernel.kind == "cute" else kernel.build_dir.name


def files_of(kernel: Kernel) -> dict[str, Path]:
    """Its files by their names in a bundle. Raises OSError where the planned library leads nowhere."""
    library = kernel.library.resolve(strict=True)  # SGLang's is a link to the directory of the build
    key = kernel.ninja_file if kernel.kind == "cute" else library.with_name(LIST)
    return {
        kernel.library.name: library,
        key.name: key,
        f"{kernel.library.stem}{SUFFIX}": engine_receipt.path_of(kernel),
    }


def proven(manifest: Manifest, unpacked: Path) -> list[PackedWhole]:
    """Those of an unpacked bundle. Raises BundleRefused for one whose files don't fit each other."""
    return [_proven(held, manifest, unpacked) for held in manifest.modules() if held.part in WHOLES]


def _proven(held: Held, manifest: Manifest, unpacked: Path) -> PackedWhole:
    library, name, key = _names(held, manifest)
    receipt_name = f"{library.rpartition('.')[0]}{SUFFIX}"
    files, staged = manifest.below(str(held)), unpacked / str(held)
    if files.keys() != {library, key, receipt_name}:
        raise BundleRefused(f"{held} doesn't hold {library!r}, {key} and their receipt, and nothing else")
    receipt = engine_receipt.read_file(staged / receipt_name, name)
    if receipt is None:
        raise BundleRefused(f"{held} has no receipt that this fitasks can read")
    if (receipt.sha256, receipt.size) != (files[library].sha256, files[library].size):
        raise BundleRefused(f"the receipt of {held} is not about the file {library!r} that the bundle holds")
    found = PackedWhole(held, name, staged, staged / library, staged / key, receipt)
    if not _is_under_its_key(found):
        raise BundleRefused(f"the receipt of {held} has another key than {key} beside it")
    return found


def _names(held: Held, manifest: Manifest) -> tuple[str, str, str]:
    """Its library's name, its own, and that of the file with its key. Raises BundleRefused."""
    if held.part == CUTE:
        family, _, kernel = held.directory.partition(".")
        return f"{kernel}.o", f"{family}/{kernel}", META
    libraries = [name for name in manifest.below(str(held)) if name.endswith(".so")]
    if len(libraries) != 1 or not held.directory.startswith("build-"):
        raise BundleRefused(f"{held} is no directory of SGLang's with one library in it")
    return libraries[0], libraries[0].removesuffix(".so"), LIST


def _is_under_its_key(found: PackedWhole) -> bool:
    if found.kind == "sglang-keyed":
        return found.meta == {"leaf": leaf_named_by(found.key)}
    try:
        said = read_json(found.key, _MOST_BYTES)
    except BadInput:
        return False
    return bool(said == found.meta) and all(str(value).isprintable() for value in (*said, *said.values()))
