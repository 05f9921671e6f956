"""FlashInfer's cache directories, of each engine: size, room, whether they can be written, whether on a network."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.trust import others
from fitasks.compile.clear import bytes_in
from fitasks.doctor.finding import Finding, failure, kept
from fitasks.plan.caches import of_engines, used
from fitasks.server.mounts import existing, mount_of
from fitasks.store.local import SHARED, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitasks.plan.server import Server
    from fitasks.server.place import Place
    from fitasks.store.local import Store

_SECTION = "caches"
_ROOM = 2 * 10**9  # bytes; all 655 modules of the default registry take 1.9 GB (FlashInfer's published figure)
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "ceph", "gpfs", "beegfs", "fuse.sshfs", "glusterfs"}


def examine(server: Server, place: Place) -> Iterator[Finding]:
    """Each engine's directory once; the one that is used must be fit for the server's user."""
    try:
        in_use, bases = used(server.env), _bases(server.env)
    except EnvironmentProblem as problem:
        yield failure(_SECTION, "in use", problem)
        return
    for base, engines in bases.items():
        yield from kept(engines, _directory(base, engines, place if base == in_use else None), section=_SECTION)


def examine_store(store: Store) -> Iterator[Finding]:
    """Whether finished kernels are adopted from there, and who else may put some."""
    who = others(store.root)
    if who and store.shared:
        value = f"{store.root}: used as {VARIABLE}={SHARED} says, though {who}"
        yield Finding(_SECTION, "store", value, "note", "servers here will load what others put there")
    elif who:
        yield Finding(_SECTION, "store", f"{store.root}: not used, {who}", "note", store.remedy)
    else:
        yield Finding(_SECTION, "store", f"{store.root}")


def _bases(env: dict[str, str]) -> dict[Path, str]:
    """Directory → the engines that read it."""
    found = {used(env): "in use"}
    for base, engines in of_engines(env).items():
        found[base] = f"{found[base]}: {engines}" if base in found else engines
    return found


def _directory(base: Path, engines: str, place: Place | None) -> Iterator[Finding]:
    """`place` is given for the one that is used."""
    there = existing(base)
    free = shutil.disk_usage(there).free
    kind = mount_of(there)[1]
    size = f"{bytes_in(base) / 1e6:.0f} MB" if there == base else "not there"
    value = f"{base}: {size}, {free / 1e9:.0f} GB free" + (f", on {kind}" if kind in _NETWORK else "")
    if place and (barred := place.using(base)):
        told, _, remedy = barred.reason.partition("; ")
        yield Finding(_SECTION, engines, f"{value}; {told}", "problem", remedy)
    elif place and free < _ROOM:
        yield Finding(_SECTION, engines, value, "note", "make room: doit gc, doit clear_incomplete")
    elif place and kind in _NETWORK:
        remedy = "locks and timestamps of network disks are unreliable: FLASHINFER_WORKSPACE_BASE on a local one"
        yield Finding(_SECTION, engines, value, "note", remedy)
    else:
        yield Finding(_SECTION, engines, value)
