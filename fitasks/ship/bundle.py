"""`doit bundle`: the fresh kernels of a plan in one file, to be laid into a cache elsewhere.

    manifest.json
    90a/cached_ops/<module>/    the library, objects, build.ninja, ninja's logs, the receipt
    90a/generated/<module>/     what FlashInfer generated

tar in gzip: both are in the standard library of every interpreter that may have to read it (zstd from Python 3.14
on). Times are in the manifest to the nanosecond, and in tar's headers to the second, so that plain `tar xzf` into
FlashInfer's version directory gives a cache that ninja accepts too, where paths are the same. The same kernels give
the same bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fitasks.build import receipt as receipts
from fitasks.errors import FitasksError
from fitasks.files import sha256_file
from fitasks.ship import manifest as manifests
from fitasks.ship.manifest import Entry, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitasks.build.receipt import Receipt
    from fitasks.plan.kernel import Kernel
    from fitasks.session import Session

_GENERATED = "{CACHE}/generated/"
_GOOD = {"fresh", "look"}  # to look again is about this machine's libcudart
_AGAIN = "run doit, then doit bundle"


@dataclass(frozen=True)
class Bundled:
    """A finished bundle: `bytes` of its files, `size` of itself; `left_out` are the kernels that weren't fresh."""

    path: Path
    kernels: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]  # label, why
    files: int
    bytes: int
    size: int


def bundle(session: Session, path: Path) -> Bundled:
    """Write the planned kernels that are fresh to `path`, whole or not at all.

    Raises FitasksError where none is fresh, where a file isn't what was built, and where `path` can't be written.
    """
    chosen, left_out = _chosen(session)
    sources: dict[str, Path] = {}
    for kernel, receipt in chosen:
        sources |= _files(session, kernel, receipt)
    try:
        files = {name: _entry(sources[name]) for name in sorted(sources)}
        _compare(session, chosen, files)
        manifest = manifest_of(session, files, glibc=_glibc(kernel.library for kernel, _ in chosen))
        size = _write(path, manifest, sources)
    except OSError as error:
        raise FitasksError(f"{error.filename or path}: {error.strerror or error}; no bundle was written") from None
    labels = tuple(kernel.label for kernel, _ in chosen)
    return Bundled(path, labels, tuple(left_out), len(files), manifest.bytes, size)


def manifest_of(session: Session, files: dict[str, Entry], *, glibc: str = "") -> Manifest:
    """The manifest of these files, or with none: what a bundle made here would say of the place."""
    plan = session.plan
    first = next(iter(plan.facts.values()))
    used = {path.partition("/")[0] for path in files}
    workspaces = {facts["arch"]: facts["workspace"] for facts in plan.facts.values()}
    return Manifest(
        flashinfer=first["flashinfer"],
        platform=sysconfig.get_platform(),
        glibc=glibc,
        ninja=session.ninja.version,
        site_packages=str(Path(first["flashinfer_root"]).parent),
        cuda_home=str(plan.toolkit.home),
        workspaces={name: workspaces[name] for name in sorted(workspaces) if not files or name in used},
        files=files,
    )


def _chosen(session: Session) -> tuple[list[tuple[Kernel, Receipt]], list[tuple[str, str]]]:
    """The fresh kernels with their receipts, and the others with their reasons. Raises FitasksError if none is."""
    chosen, left_out = [], []
    for kernel in session.plan.kernels:
        if kernel.twin:
            continue
        if kernel.problem:
            left_out.append((kernel.label, kernel.problem))
        elif (judged := session.judge(kernel)).verdict in _GOOD and (receipt := receipts.read(kernel)):
            chosen.append((kernel, receipt))
        else:
            left_out.append((kernel.label, str(judged)))
    if not chosen:
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise FitasksError(f"no planned kernel is fresh, so there is nothing to bundle{why}", remedy=_AGAIN)
    return chosen, left_out


def _files(session: Session, kernel: Kernel, receipt: Receipt) -> dict[str, Path]:
    """Name in the archive → file, of one kernel."""
    facts = session.plan.facts[kernel.target]
    workspace = Path(facts["workspace"])
    paths = [kernel.build_dir / name for name in (*receipt.outputs, kernel.ninja_file.name, receipts.NAME)]
    for name in generated_of(receipt):
        place = workspace / "generated" / name
        paths += [path for path in sorted(place.rglob("*")) if path.is_file()]
    return {f"{facts['arch']}/{path.relative_to(workspace)}": path for path in paths}


def generated_of(receipt: Receipt) -> list[str]:
    """The directories of `generated` that a kernel's inputs are in; mostly the one that is named like the module."""
    inputs = (
        path.removeprefix(_GENERATED)
        for path, _ in receipts.parse_inputs(receipt.inputs)
        if path.startswith(_GENERATED)
    )
    return sorted({path.partition("/")[0] for path in inputs})


def _entry(path: Path) -> Entry:
    digest, stat = sha256_file(path), path.stat()
    return Entry(digest, stat.st_size, stat.st_mtime_ns)


def _compare(session: Session, chosen: list[tuple[Kernel, Receipt]], files: dict[str, Entry]) -> None:
    """Freshness reads objects only where their times differ; what travels is read whole."""
    for kernel, receipt in chosen:
        arch = session.plan.facts[kernel.target]["arch"]
        for name, output in receipt.outputs.items():
            if files[f"{arch}/cached_ops/{kernel.build_dir.name}/{name}"].sha256 != output.sha256:
                raise FitasksError(
                    f"{kernel.label}: {kernel.build_dir / name} is not what was built; no bundle was written",
                    remedy=f"rm {kernel.build_dir / receipts.NAME}, {_AGAIN}",
                )


def _glibc(libraries: Iterable[Path]) -> str:
    """The oldest glibc that has every symbol which the libraries ask for, "2.34"; "" where they ask for none."""
    from fitasks.cuda.elf import inspect_library

    versions = {symbol.version for path in libraries for symbol in inspect_library(path).undefined}
    asked = [version.removeprefix("GLIBC_") for version in versions if version.startswith("GLIBC_2.")]
    return max(asked, key=version_key, default="")


def version_key(version: str) -> tuple[int, ...]:
    """To compare "2.4" and "2.34" by."""
    return tuple(int(word) for word in version.split(".") if word.isdecimal())


def _write(path: Path, manifest: Manifest, sources: dict[str, Path]) -> int:
    """The archive, complete under a temporary name before it gets its own; its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            with _compressed(stream) as tar:
                text = manifests.to_json(manifest)
                tar.addfile(_member(manifests.NAME, len(text), 0), io.BytesIO(text))
                for name, entry in manifest.files.items():
                    _add(tar, name, sources[name], entry)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    return path.stat().st_size


@contextlib.contextmanager
def _compressed(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Without file name and time in gzip's header, which would make equal bundles differ."""
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, source: Path, entry: Entry) -> None:
    with source.open("rb") as stream:
        reader = _Hashing(stream)
        tar.addfile(_member(name, entry.size, entry.mtime_ns // 10**9), reader)
    if reader.digest.hexdigest() != entry.sha256:
        raise FitasksError(f"{source} changed while it was bundled; no bundle was written", remedy=_AGAIN)


def _member(name: str, size: int, mtime: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, mtime
    member.mode = 0o755 if name.endswith(".so") else 0o644
    return member


class _Hashing:
    """A file that hashes what is read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self.digest.update(data)
        return data
