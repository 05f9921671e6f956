"""What is being compiled from what: the record that makes a kill at any moment harmless.

Written before the first command, removed after the receipt. Its ctime, which nobody can set, is the moment after which
no input may change.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base import memo
from fitasks.base.files import write_atomic, write_if_changed
from fitasks.compile import receipt as receipts
from fitasks.compile.failure import failed
from fitasks.compile.ninja import ninja as ninjas

if TYPE_CHECKING:
    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel

NAME = "fitasks-begun.json"
_THREADS = "fitasks-threads"  # a line for each object: of how many threads the optimiser had that made it


def begin(kernel: Kernel, judge: Judge, ninja: Ninja, damaged: tuple[str, ...]) -> int:
    """Take the receipt away and say what is being built; the moment from which inputs must not change (ns).

    Objects are kept where only the `damaged` files of a proven build are wrong, or where an interrupted build
    compiled them from the very same things.
    """
    kernel.build_dir.mkdir(parents=True, exist_ok=True)
    before = receipts.read(kernel)
    receipts.path_of(kernel).unlink(missing_ok=True)
    kernel.library.unlink(missing_ok=True)
    failed.forget(kernel)
    record = _record(kernel, judge, ninja)
    begun = kernel.build_dir / NAME
    resumed = _resumable(kernel, record)
    write_if_changed(kernel.ninja_file, kernel.ninja)
    if resumed:
        return resumed
    for name in damaged or (ninjas.LOG,):
        (kernel.build_dir / name).unlink(missing_ok=True)
    (kernel.build_dir / _THREADS).unlink(missing_ok=True)
    if before and damaged:
        note_threads(kernel, before.notes.get("split_compile", 1))
    write_atomic(begun, memo.sealed(record))
    return begun.stat().st_ctime_ns


def remaining(kernel: Kernel, judge: Judge, ninja: Ninja, damaged: tuple[str, ...]) -> list[str]:
    """Names of the sources that would be compiled after `begin`, whose objects it wouldn't keep. Changes nothing.

    ninja is asked where there is something to keep at all.
    """
    interrupted = (kernel.build_dir / NAME).exists() and _resumable(kernel, _record(kernel, judge, ninja))
    if not interrupted and not damaged:
        return [source.name for source in kernel.sources]
    try:
        edges = ninjas.unfinished(ninja, kernel.build_dir, kernel.ninja_file)
        if not interrupted:
            known = ninjas.edges(ninja, kernel.build_dir, kernel.ninja_file)
            edges += [edge for edge in known if Path(edge.output).name in damaged and edge not in edges]
    except (OSError, ValueError):
        return [source.name for source in kernel.sources]
    return [Path(edge.source).name for edge in ninjas.compiling(edges, kernel.library)]


def _record(kernel: Kernel, judge: Judge, ninja: Ninja) -> dict[str, object]:
    return {"commands": judge.commands(kernel), "toolchain": judge.toolchain, "ninja": ninja.version}


def _resumable(kernel: Kernel, record: dict[str, object]) -> int:
    """When the interrupted build began (ns) whose objects may be kept; 0 if none may."""
    begun = kernel.build_dir / NAME
    try:
        if memo.read(begun, dict[str, Any], unsealed=True) != record:
            return 0
        began_ns = begun.stat().st_ctime_ns
        read = {path for paths in ninjas.read_deps(kernel.build_dir).values() for path in paths}
        sources = {str(source) for source in kernel.sources}
        newest = max((os.stat(path).st_ctime_ns for path in read | sources), default=0)  # noqa: PTH116
    except (OSError, ValueError):
        return 0
    return began_ns if newest < began_ns else 0


def note_threads(kernel: Kernel, threads: int) -> None:
    """Remember of how many threads nvcc's optimiser had, also for whoever goes on after an interruption."""
    with (kernel.build_dir / _THREADS).open("a") as stream:
        stream.write(f"{threads}\n")


def most_threads(kernel: Kernel) -> int:
    """Of all objects of the kernel."""
    try:
        return max(map(int, (kernel.build_dir / _THREADS).read_text().split()), default=1)
    except (OSError, ValueError):
        return 1


def end(kernel: Kernel) -> None:
    """The receipt says all that is to be known now."""
    (kernel.build_dir / _THREADS).unlink(missing_ok=True)
    (kernel.build_dir / NAME).unlink(missing_ok=True)
    failed.forget(kernel)


def left(kernel: Kernel) -> str:
    """The name of what `end` would remove; "" where there is nothing. Beside a receipt a killed run left it."""
    return next((name for name in (NAME, _THREADS) if (kernel.build_dir / name).exists()), "")


def edited(receipt: Receipt, judge: Judge, began_ns: int) -> str:
    """An input that was written, replaced or renamed since the build began. Its ctime tells, nobody can set that."""
    for relative, _ in receipts.parse_inputs(receipt.inputs):
        with contextlib.suppress(OSError):
            if os.stat(judge.roots.absolute(relative)).st_ctime_ns >= began_ns:  # noqa: PTH116
                return relative
    return ""
