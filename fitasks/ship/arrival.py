"""Is a bundle of use here, and do its receipts fit its files? Asked before anything is moved."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.build import receipt as receipts
from fitasks.ship.bundle import version_key
from fitasks.ship.manifest import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.build.receipt import Receipt
    from fitasks.ship.manifest import Manifest

_INPUT = re.compile(r"[0-9a-f]{64} (\{(CACHE|FLASHINFER|CUDA|SITE)\})?/.*")  # the names of build/roots.py


@dataclass(frozen=True)
class Module:
    """One kernel that was unpacked and proven: `staged` is what is to become its directory in cached_ops."""

    architecture: str
    name: str
    staged: Path
    receipt: Receipt


def refuse_foreign(manifest: Manifest, here: Manifest) -> None:
    """Raise Refused for a bundle of another FlashInfer, machine or architecture set than `here` has."""
    if manifest.flashinfer != here.flashinfer:
        raise Refused(
            f"it is for FlashInfer {manifest.flashinfer}, the server here has {here.flashinfer}",
            remedy=f"make it where FlashInfer {here.flashinfer} is, or install {manifest.flashinfer} here",
        )
    if manifest.platform != here.platform:
        raise Refused(
            f"it is for {manifest.platform}, this machine is {here.platform}",
            remedy=f"make it on {here.platform}",
        )
    if foreign := sorted(manifest.workspaces.keys() - here.workspaces.keys()):
        raise Refused(
            f"it is for the architecture set {', '.join(foreign)}, kernels.yaml's targets here are "
            f"{', '.join(sorted(here.workspaces))}",
            remedy="give both places the same `targets`: FlashInfer looks at one set only, and all of it",
        )
    glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    if version_key(manifest.glibc) > version_key(glibc):
        raise Refused(
            f"its libraries need glibc {manifest.glibc}, here is {glibc or 'none'}",
            remedy="make it on a system that is as old as this one",
        )


def refuse_too_large(manifest: Manifest, directory: Path) -> None:
    """Raise Refused where `directory` has no room for all files."""
    free = shutil.disk_usage(directory).free
    if manifest.bytes > free:
        raise Refused(
            f"it unpacks to {manifest.bytes} bytes, {directory.parent} has {free} free",
            remedy="make room there",
        )


def roots_that_differ(manifest: Manifest, here: Manifest) -> tuple[str, ...]:
    """The paths that are part of ninja's commands and not what they were for the builder, one sentence each."""
    pairs = {"CUDA_HOME": (manifest.cuda_home, here.cuda_home)}
    pairs |= {"site-packages": (manifest.site_packages, here.site_packages)}
    pairs |= {f"cache of {name}": (path, here.workspaces[name]) for name, path in manifest.workspaces.items()}
    return tuple(f"{name}: {there} there, {ours} here" for name, (there, ours) in pairs.items() if there != ours)


def proven(manifest: Manifest, unpacked: Path) -> list[Module]:
    """The kernels of an unpacked bundle. Raises Refused for one whose receipt doesn't hold or doesn't fit its files."""
    modules = []
    for architecture, name in manifest.modules():
        inside = f"{architecture}/cached_ops/{name}"
        receipt = receipts.read_file(unpacked / inside / receipts.NAME, name)
        if receipt is None:
            raise Refused(f"{inside} has no receipt that this fitasks can read")
        if problem := _unfit(receipt, manifest, inside):
            raise Refused(f"the receipt of {inside} {problem}")
        modules.append(Module(architecture, name, unpacked / inside, receipt))
    if not modules:
        raise Refused("it holds no kernel")
    return modules


def _unfit(receipt: Receipt, manifest: Manifest, inside: str) -> str:
    """What is wrong with it. Its fingerprint and its outputs' names become paths, so they are looked at closely."""
    if receipt.fingerprint != receipts.fingerprint(receipt.commands, receipt.toolchain, receipt.inputs):
        return "has another fingerprint than what it says of commands, toolchain and inputs"
    if line := next((line for line in receipt.inputs.split("\n") if not _INPUT.fullmatch(line)), ""):
        return f"has an input that means nothing here: {line!r}"
    files = manifest.below(inside)
    for name, output in receipt.outputs.items():
        if name not in files or files[name].sha256 != output.sha256:
            return f"is not about the file {name!r} that the bundle holds"
    return ""
