"""What FlashInfer wrote for a plan: the sources that a server compiles, and headers beside them.

FlashInfer writes them again in each process, wherever they differ (write_if_different in jit/utils.py), but not in one
go: a server that was killed meanwhile, or a full disk, leaves a part. Who would compile that would compile something
else than the server, so a plan holds only while they are what planning wrote. What is gone may be: whoever compiles has
it written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitasks.plan.reads import Files, add, changed, seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from fitasks.plan.kernel import Kernel
    from fitasks.plan.target import Target


def written(kernels: Iterable[Kernel], targets: Mapping[str, Target]) -> Files:
    """As it is now, a moment after planning; empty where a machine may plan and not write."""
    files: Files = {}
    for path in sorted({str(path) for kernel in kernels for path in _of(kernel, targets[kernel.target].generated)}):
        if (known := seen(path))[-1]:
            add(files, path, known)
    return files


def _of(kernel: Kernel, generated: Path) -> Iterable[Path]:
    """Its generated sources, and all files of their directories, unless those are of all modules."""
    for source in kernel.sources:
        if generated in source.parents:
            yield source
    for directory in {source.parent for source in kernel.sources if generated in source.parent.parents}:
        yield from (path for path in directory.glob("*") if path.is_file())


def touched(files: Any) -> int | None:
    """None if one of them isn't what planning wrote; or else how many quick looks were taken anew."""
    try:
        return changed(files, may_be_gone=True)
    except (TypeError, ValueError, LookupError, AttributeError):
        return None
