"""Is a bundle of use here, and do its receipts fit its files? Asked before anything is moved."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.compile import receipt as receipts
from fitasks.delivery.bundle.bundle import NINJA_FILE, generated_of, version_key
from fitasks.delivery.bundle.manifest import WHOLES, BundleRefused
from fitasks.delivery.tvmffi import same_abi
from fitasks.plan.caches import CACHED_OPS, GENERATED, TVM_FFI

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.receipt import Receipt
    from fitasks.delivery.bundle.manifest import Held, Manifest, PackedFile

# The names of compile/judge/roots.py; paths are normalised when a receipt is made.
_INPUT = re.compile(r"[0-9a-f]{64} (\{(CACHE|FLASHINFER|CUDA|SITE|PYTHON|JIT)\})?(/(?!\.{0,2}(/|$))[^/]+)+")


@dataclass(frozen=True)
class PackedModule:
    """One kernel that was unpacked and proven: `staged` holds what is to become its directory in a cache."""

    held: Held
    name: str
    staged: Path
    receipt: Receipt


def of_use(manifest: Manifest, here: Manifest) -> Manifest:
    """The part of a bundle that is for the architecture sets that are planned here.

    Raises BundleRefused where there is none, and for a bundle of another FlashInfer or machine.
    """
    refuse_foreign(manifest, here.flashinfer, here.platform, here.tvm_ffi_abi)
    if not (shared := manifest.workspaces.keys() & here.workspaces.keys()):
        raise BundleRefused(
            f"it is for the architecture set {', '.join(sorted(manifest.workspaces))}, kernels.yaml's targets here are "
            f"{', '.join(sorted(here.workspaces))}",
            remedy="give both places the same `targets`: FlashInfer looks at one set only, and all of it",
        )
    return manifest.only(shared)


def refuse_foreign(manifest: Manifest, flashinfer: str, platform: str, tvm_ffi: str) -> None:
    """Raise BundleRefused for a bundle of another FlashInfer, machine or ABI of tvm-ffi, or of a newer glibc than here.

    Of that ABI, older bundles and an environment without tvm-ffi's headers say "".
    """
    if manifest.flashinfer != flashinfer:
        raise BundleRefused(
            f"it is for FlashInfer {manifest.flashinfer}, the server here has {flashinfer}",
            remedy=f"make it where FlashInfer {flashinfer} is, or install {manifest.flashinfer} here",
        )
    if tvm_ffi and manifest.tvm_ffi_abi and not same_abi(manifest.tvm_ffi_abi, tvm_ffi):
        raise BundleRefused(
            f"it is compiled against tvm-ffi {manifest.tvm_ffi_abi}, whose ABI isn't that of {tvm_ffi} here",
            remedy="make it where the same apache-tvm-ffi is as here",
        )
    if manifest.platform != platform:
        raise BundleRefused(
            f"it is for {manifest.platform}, this machine is {platform}",
            remedy=f"make it on {platform}",
        )
    glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    if version_key(manifest.glibc) > version_key(glibc):
        raise BundleRefused(
            f"its libraries need glibc {manifest.glibc}, here is {glibc or 'none'}",
            remedy="make it on a system that is as old as this one",
        )


def refuse_too_large(manifest: Manifest, directory: Path) -> None:
    """Raise BundleRefused where `directory` has no room for all files."""
    free = shutil.disk_usage(directory).free
    if manifest.bytes > free:
        raise BundleRefused(
            f"it unpacks to {manifest.bytes} bytes, {directory.resolve().parent} has {free} free",
            remedy="make room there",
        )


def roots_that_differ(manifest: Manifest, here: Manifest) -> dict[str, tuple[str, ...]]:
    """For kernels of each part, the paths of ninja's commands that aren't what they were for the builder, as sentences.

    Where no module of SGLang's own is planned here, nothing is known of its cache.
    """
    both = {"CUDA_HOME": (manifest.cuda_home, here.cuda_home)}
    both |= {"site-packages": (manifest.site_packages, here.site_packages)}
    caches = {f"cache of {name}": (path, here.workspaces[name]) for name, path in manifest.workspaces.items()}
    sglangs = {"SGLang's cache": (manifest.sglang_cache, here.sglang_cache or manifest.sglang_cache)}
    own = {CACHED_OPS: caches, TVM_FFI: sglangs}
    return {part: _differing(both | own[part]) for part in sorted({held.part for held in manifest.modules()} - WHOLES)}


def _differing(pairs: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{name}: {there} there, {ours} here" for name, (there, ours) in pairs.items() if there != ours)


def proven(manifest: Manifest, unpacked: Path) -> list[PackedModule]:
    """The kernels of an unpacked bundle that ninja builds; for the others see whole.py.

    Raises BundleRefused for a receipt that doesn't hold, or fit its files.
    """
    modules = []
    for held in (one for one in manifest.modules() if one.part not in WHOLES):
        name = held.directory if held.part == CACHED_OPS else _named(held, manifest)
        receipt = receipts.said(unpacked / str(held) / receipts.NAME, name)
        if receipt is None:
            raise BundleRefused(f"{held} has no receipt that this fitasks can read")
        if f"{held}/{NINJA_FILE}" not in manifest.files:
            raise BundleRefused(f"{held} has no {NINJA_FILE}")
        if problem := _unsound(receipt) or _unfit(receipt, manifest, held):
            raise BundleRefused(f"the receipt of {held} {problem}")
        modules.append(PackedModule(held, name, unpacked / str(held), receipt))
    _refuse_unknown(manifest, modules)
    if not manifest.modules():
        raise BundleRefused("it holds no kernel")
    return modules


def _named(held: Held, manifest: Manifest) -> str:
    """The module in a directory of SGLang's, `<module>__arch_9.0a__tvmffi_0.1.11`. Raises BundleRefused."""
    names = [name.removesuffix(".so") for name in manifest.below(str(held)) if name.endswith(".so")]
    if len(names) != 1 or not held.directory.startswith(f"{names[0]}__"):
        raise BundleRefused(f"{held} is not named after the one library in it")
    return names[0]


def _refuse_unknown(manifest: Manifest, modules: list[PackedModule]) -> None:
    """Raise BundleRefused for a generated file that no kernel was made from."""
    known = {f"{one.held.architecture}/{GENERATED}/{name}" for one in modules for name in generated_of(one.receipt)}
    held = (path for path in manifest.files if path.split("/")[1] == GENERATED)
    if unknown := min(set(held) - known, default=""):
        raise BundleRefused(f"no receipt in it knows of the file {unknown!r}")


def _unsound(receipt: Receipt) -> str:
    """What is wrong with what a receipt says. Its fingerprint becomes a path, its inputs are read, much is shown."""
    if receipt.fingerprint != receipts.fingerprint(receipt.commands, receipt.toolchain, receipt.inputs):
        return "has another fingerprint than what it says of commands, toolchain and inputs"
    for line in receipt.inputs.split("\n"):
        if not _INPUT.fullmatch(line) or not line.isprintable():
            return f"has an input that means nothing here: {line!r:.300}"
    shown = [receipt.flashinfer, receipt.target, receipt.generator, receipt.ninja, receipt.built]
    shown += [*receipt.commands.split("\n"), *receipt.toolchain, *receipt.toolchain.values()]
    shown += [*receipt.needed, *receipt.undefined, *receipt.architectures, *map(str, receipt.notes.values())]
    if odd := next((text for text in shown if not text.isprintable()), ""):
        return f"says what can't be shown: {odd!r:.300}"
    return ""


def _unfit(receipt: Receipt, manifest: Manifest, held: Held) -> str:
    """What is wrong between a receipt and the files of its module: each is known, and as the receipt has it."""
    files = manifest.below(str(held))
    for name, output in receipt.outputs.items():
        if name not in files or (files[name].sha256, files[name].size) != (output.sha256, output.size):
            return f"is not about the file {name!r} that the bundle holds"
    if problem := receipts.unmade(receipt):
        return problem
    if unknown := sorted(files.keys() - receipt.outputs.keys() - {NINJA_FILE, receipts.NAME}):
        return f"knows nothing of the file {unknown[0]!r} beside it"
    return _unfit_sources(receipt, manifest.below(f"{held.architecture}/{GENERATED}"))


def _unfit_sources(receipt: Receipt, files: dict[str, PackedFile]) -> str:
    for name, digest in generated_of(receipt).items():
        if name in files and files[name].sha256 != digest:
            return f"is not about the source {name!r} that the bundle holds"
    return ""
