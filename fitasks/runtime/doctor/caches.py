"""FlashInfer's cache directories, of each engine: size, room, whether they can be written, whether on a network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.build.clear import bytes_in
from fitasks.environment import home
from fitasks.errors import EnvironmentProblem
from fitasks.plan.server import sglang_base
from fitasks.runtime.doctor.finding import Finding, failure, kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.server import Server

_SECTION = "caches"
_ROOM = 2 * 10**9  # bytes; all 655 modules of the default registry take 1.9 GB (FlashInfer's published figure)
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "ceph", "gpfs", "beegfs", "fuse.sshfs", "glusterfs"}


def examine(server: Server) -> Iterator[Finding]:
    """Each engine's directory once; the one that is used must be writable."""
    try:
        used, bases = used_base(server.env), _bases(server.env)
    except EnvironmentProblem as problem:
        yield failure(_SECTION, "in use", problem)
        return
    for base, engines in bases.items():
        yield from kept(engines, _directory(base, engines, is_used=base == used), section=_SECTION)


def used_base(env: dict[str, str]) -> Path:
    """Where FlashInfer looks in this environment (flashinfer/jit/env.py). Raises EnvironmentProblem without a home."""
    return Path(env.get("FLASHINFER_WORKSPACE_BASE") or home(env)) / ".cache" / "flashinfer"


def _bases(env: dict[str, str]) -> dict[Path, str]:
    """Directory → the engines that read it."""
    sglang = Path(sglang_base(env)) / ".cache" / "flashinfer"
    bases = {used_base(env): "in use"}
    for base, engines in ((home(env) / ".cache" / "flashinfer", "FlashInfer, vLLM"), (sglang, "SGLang")):
        bases[base] = f"{bases[base]}: {engines}" if base in bases else engines
    return bases


def _directory(base: Path, engines: str, *, is_used: bool) -> Iterator[Finding]:
    existing = next(path for path in (base, *base.parents) if os.path.exists(path))  # noqa: PTH110, never raises
    free = shutil.disk_usage(existing).free
    kind = file_system(existing)
    size = f"{bytes_in(base) / 1e6:.0f} MB" if existing == base else "not there"
    value = f"{base}: {size}, {free / 1e9:.0f} GB free" + (f", on {kind}" if kind in _NETWORK else "")
    if is_used and not os.access(existing, os.W_OK):
        remedy = f"make {existing} writable, or set FLASHINFER_WORKSPACE_BASE for doit and the server"
        yield Finding(_SECTION, engines, f"{value}, not writable", "problem", remedy)
    elif is_used and free < _ROOM:
        yield Finding(_SECTION, engines, value, "note", "make room: doit gc, doit clear_incomplete")
    elif is_used and kind in _NETWORK:
        remedy = "locks and timestamps of network disks are unreliable: FLASHINFER_WORKSPACE_BASE on a local one"
        yield Finding(_SECTION, engines, value, "note", remedy)
    else:
        yield Finding(_SECTION, engines, value)


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that `path` is on ("ext4", "nfs4"), "" where it isn't known."""
    best, kind = Path(), ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real = path.resolve()
    for fields in (line.split() for line in lines):
        point = Path(fields[1].replace("\\040", " "))
        if real.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, fields[2]
    return kind
