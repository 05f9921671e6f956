"""`doit bundle`: the fresh kernels of a plan in one file, to be laid into a cache elsewhere.

    manifest.json
    90a/cached_ops/<module>/    the library, objects, build.ninja, ninja's logs, the receipt
    90a/generated/<module>/     what FlashInfer generated
    90a/tvm-ffi/<directory>/    the same of a module of SGLang's own JIT; its source is part of the plan
    90a/cute-dsl/…, 90a/sglang-jit/…    what an engine's own code builds in one go: whole.py

tar in gzip: both are in the standard library of every interpreter that may have to read it (zstd from Python 3.14
on). Times are in the manifest to the nanosecond, and in tar's headers to the second, so that plain `tar xzf` into
FlashInfer's version directory gives a cache that ninja accepts too, where paths are the same. The same kernels give
the same bytes.
"""

from __future__ import annotations

import os
import re
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem, FitasksError
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.compile.judge import engine_receipt
from fitasks.compile.lock import module_lock
from fitasks.delivery.bundle.manifest import CUTE, KEYED, Held, Manifest, Origin, PackedFile
from fitasks.delivery.bundle.reading import DASH, GZIP
from fitasks.delivery.bundle.staging import sweep
from fitasks.delivery.bundle.timestamps import put_right
from fitasks.delivery.bundle.whole import directory_of, files_of
from fitasks.delivery.bundle.writing import write
from fitasks.delivery.collect import refuse_nothing
from fitasks.delivery.tvmffi import headers_abi
from fitasks.plan.caches import CACHED_OPS, GENERATED, TVM_FFI
from fitasks.processes import sessions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitasks.compile.receipt import Receipt
    from fitasks.delivery.bundle.here import Here
    from fitasks.plan.kernel import Kernel, Kind
    from fitasks.plan.plan import Plan

NINJA_FILE = "build.ninja"  # as FlashInfer calls it

PARTS: dict[Kind, str] = {"flashinfer": CACHED_OPS, "sglang": TVM_FFI, "cute": CUTE, "sglang-keyed": KEYED}
_GENERATED = f"{{CACHE}}/{GENERATED}/"
LOCK_TIMEOUT = 1800.0  # seconds to wait for a server that is building the same module
_AGAIN = "run doit, then doit bundle"
_OTHER_KINDS = re.compile(r"(?i)\.(tar|zstd?|tzst|xz|txz|bz2|tbz2?|lz4|lzma|7z|zip|whl)$")


@dataclass(frozen=True)
class Bundled:
    """A finished bundle: `bytes` of its files, `size` of itself; `left_out` are the kernels that weren't fresh."""

    path: Path
    kernels: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]  # label, why
    files: int
    bytes: int
    size: int


def bundle(here: Here, path: Path, names: Sequence[str] = ()) -> Bundled:
    """Write the named kernels (all without names) that are fresh to `path`, whole or not at all.

    First wrong timestamps are put right. Raises FitasksError where none is fresh, where a file isn't what was built,
    and where `path` can't be written.
    """
    refuse_nothing(here.plan, names)
    _refuse_name(path)
    sweep(here)
    try:
        _refuse_to_overwrite(path)
        chosen, left_out = _chosen(here, names)
        sources = {name: file for one in chosen for name, file in one.files.items()}
        files = {name: _entry(sources[name]) for name in sorted(sources)}
        _compare(chosen, files)
        kernels = [one.kernel for one in chosen]
        manifest = replace(
            manifest_of(here, files),
            glibc=_glibc(kernel.library for kernel in kernels if kernel.kind != "cute"),
            kernels=_origins(here.plan, kernels),
        )
        size = write(Path(os.path.realpath(path)), manifest, sources)  # a link stays one
    except OSError as error:
        raise FitasksError(f"{error.filename or path}: {error.strerror or error}; no bundle was written") from None
    labels = tuple(kernel.label for kernel in kernels)
    return Bundled(path, labels, tuple(left_out), len(files), manifest.bytes, size)


def manifest_of(here: Here, files: dict[str, PackedFile]) -> Manifest:
    """The manifest of these files, or with none: what a bundle made here would say of the place."""
    plan = here.plan
    first = plan.first
    used = {path.partition("/")[0] for path in files}
    workspaces = {target.arch: str(target.workspace) for target in plan.targets.values()}
    return Manifest(
        flashinfer=first.flashinfer,
        platform=sysconfig.get_platform(),
        glibc="",
        ninja=here.ninja.version,
        site_packages=str(first.root.parent),
        cuda_home=str(plan.toolkit.home),
        tvm_ffi=first.tvm_ffi,
        tvm_ffi_abi=headers_abi(plan.server.site_packages),
        workspaces={name: workspaces[name] for name in sorted(workspaces) if not files or name in used},
        files=files,
        sglang_cache=str(plan.sglang_cache or ""),
    )


def held(plan: Plan, kernel: Kernel) -> Held:
    """Where a bundle of this plan has a kernel."""
    directory = directory_of(kernel) if kernel.built_whole else kernel.build_dir.name
    return Held(plan.targets[kernel.target].arch, PARTS[kernel.kind], directory)


def promises_another(name: str) -> str:
    """Return the end of a file's name that promises another format than a bundle has, ".tar.zst"; "" if none does."""
    found = _OTHER_KINDS.search(name)
    return found[0] if found else ""


def _refuse_name(path: Path) -> None:
    """Raise EnvironmentProblem for a name that is none for a bundle, or promises another format than the file has."""
    if path == DASH:
        raise EnvironmentProblem(
            "a bundle can't be written to standard output: it gets its name when it is whole",
            remedy="doit bundle kernels.tar.gz",
        )
    if path.is_dir():
        raise EnvironmentProblem(f"{path} is a directory", remedy=f"doit bundle {path / 'kernels.tar.gz'}")
    if other := promises_another(path.name):
        good = path.with_name(_OTHER_KINDS.sub("", path.name.removesuffix(other)) + ".tar.gz")
        raise EnvironmentProblem(
            f"{path}: a bundle is tar in gzip, its name says {other}", remedy=f"doit bundle {good}"
        )


def _refuse_to_overwrite(path: Path) -> None:
    """Raise EnvironmentProblem where something is there, at a link's end, that is neither a bundle nor empty."""
    if not path.exists():
        return
    if not path.is_file():
        raise EnvironmentProblem(f"{path} is no regular file, and would be replaced by one", remedy="name another file")
    with path.open("rb") as stream:
        start = stream.read(len(GZIP))
    if start and start != GZIP:
        raise EnvironmentProblem(
            f"{path} is there and is no bundle; it was not overwritten", remedy=f"name another file, or rm {path} first"
        )


@dataclass(frozen=True)
class _Chosen:
    """A fresh kernel: its files by their names in the archive, and the hashes that its receipt has of some of them."""

    kernel: Kernel
    receipt: Path
    files: dict[str, Path]
    made: dict[str, str]


def _chosen(here: Here, names: Sequence[str]) -> tuple[list[_Chosen], list[tuple[str, str]]]:
    """The fresh kernels, and the others with their reasons. Raises FitasksError if none is."""
    chosen, left_out = [], []
    for kernel in here.plan.chosen(names):
        why = kernel.problem or _unfit(here, kernel)
        if not why and (found := _whole(here.plan, kernel) if kernel.built_whole else _built(here.plan, kernel)):
            chosen.append(found)
        else:
            left_out.append((kernel.label, why or "its receipt is gone"))
    if not chosen:
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise FitasksError(f"no planned kernel is fresh, so there is nothing to bundle{why}", remedy=_AGAIN)
    return chosen, left_out


def _unfit(here: Here, kernel: Kernel) -> str:
    """Why it is not to be bundled, "" if it is; where only its timestamps are wrong, they are put right."""
    judged = here.judges[kernel.target].judge(kernel)
    if judged.verdict != "heal":
        return str(judged) if judged.verdict == "stale" else ""
    try:
        with module_lock(kernel.lock, timeout=LOCK_TIMEOUT, stopping=sessions.stopping):
            return put_right(kernel, here.judges[kernel.target], here.ninja)
    except OSError as error:
        return f"{judged}, which can't be put right: {error.strerror or error}"


def _built(plan: Plan, kernel: Kernel) -> _Chosen | None:
    """One that ninja builds; None without its receipt."""
    if not (receipt := receipts.read(kernel)):
        return None
    place, target = held(plan, kernel), plan.targets[kernel.target]
    files = {f"{place}/{name}": kernel.build_dir / name for name in (*receipt.outputs, NINJA_FILE, receipts.NAME)}
    files |= {f"{target.arch}/{GENERATED}/{name}": target.generated / name for name in generated_of(receipt)}
    made = {f"{place}/{name}": output.sha256 for name, output in receipt.outputs.items()}
    return _Chosen(kernel, receipts.path_of(kernel), files, made)


def _whole(plan: Plan, kernel: Kernel) -> _Chosen | None:
    """One that its engine's own code builds; None without its receipt."""
    if not (receipt := engine_receipt.read(kernel)):
        return None
    place = held(plan, kernel)
    files = {f"{place}/{name}": file for name, file in files_of(kernel).items()}
    return _Chosen(kernel, engine_receipt.path_of(kernel), files, {f"{place}/{kernel.library.name}": receipt.sha256})


def generated_of(receipt: Receipt) -> dict[str, str]:
    """The kernel's inputs below `generated`, `page/page.cu`, with their hashes."""
    inputs = receipts.parse_inputs(receipt.inputs)
    return {path.removeprefix(_GENERATED): digest for path, digest in inputs if path.startswith(_GENERATED)}


def _origins(plan: Plan, kernels: Iterable[Kernel]) -> dict[str, Origin]:
    """By architecture set and module, `90a/page`, of those that a package may hold."""
    packed = (kernel for kernel in kernels if kernel.packageable)
    return {f"{plan.targets[one.target].arch}/{one.name}": Origin(one.op, one.params) for one in packed}


def _entry(path: Path) -> PackedFile:
    digest, stat = sha256_file(path), path.stat()
    return PackedFile(digest, stat.st_size, stat.st_mtime_ns)


def _compare(chosen: list[_Chosen], files: dict[str, PackedFile]) -> None:
    """Freshness reads objects only where their times differ; what travels is read whole."""
    for one in chosen:
        for name, digest in one.made.items():
            if files[name].sha256 != digest:
                raise FitasksError(
                    f"{one.kernel.label}: {one.files[name]} is not what was built; no bundle was written",
                    remedy=f"rm {one.receipt}, {_AGAIN}",
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
