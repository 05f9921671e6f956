"""One ninja for each file of a kernel, so that any free core can take any file of any kernel.

One ninja for a whole kernel would be the obvious way, sharing cores with others as clients of a jobserver. But ninja
asks for a further slot only when one of its own commands has ended (RealCommandRunner::WaitForCommand in 1.13): a
kernel that had begun on one core kept its other files waiting beside idle ones for as long as its first file took.
Eight modules on 16 cores took 112 s where 95 s are possible (both from measured seconds of each file).

Each of these ninjas runs one of the commands of FlashInfer's own build file, and logs it in a directory of its own,
because two ninjas must not write the same logs. What was logged is then added to the kernel's logs, as if one ninja had
done it all.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from fitasks.base.files import write_atomic
from fitasks.compile.ninja import ninja as ninjas

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.compile.ninja.ninja import Edge, Ninja
    from fitasks.plan.kernel import Kernel

_PLACE = ".fitasks-parts"  # in the module's directory, whose file system gives ninja its times


def begin(kernel: Kernel) -> Path:
    """A new directory for the ninjas of one compile; what a killed one left is removed."""
    place = kernel.build_dir / _PLACE
    end(kernel)
    place.mkdir()
    return place


def end(kernel: Kernel) -> None:
    """Nothing is left of them."""
    shutil.rmtree(kernel.build_dir / _PLACE, ignore_errors=True)


def command(ninja: Ninja, kernel: Kernel, edge: Edge, part: Path) -> list[str]:
    """Runs one command of the kernel's build file, and logs it in `part`, which is made."""
    part.mkdir()
    build_file = ninjas.logging_in(part, kernel.ninja_file)
    return [*ninja.command(kernel.build_dir, build_file), "-j", "1", edge.output]


def add_logs(kernel: Kernel, part: Path) -> None:
    """Add what a part's ninja has logged to the kernel's own logs. For one thread at a time. Raises OSError.

    What is logged of files that are gone, and will be compiled again, is forgotten.
    """
    header, *new = (part / ninjas.LOG).read_text().splitlines()
    header_before, *before = _lines(kernel.build_dir / ninjas.LOG) or [header]
    logged = {_output(line): line for line in [*(before if header_before == header else ()), *new]}
    times = {output: time for output in logged if (time := _mtime_ns(kernel.build_dir / output))}
    deps = _deps(kernel.build_dir) | _deps(part)
    deps = {output: deps[output] for output in times if output in deps}
    ninjas.write_deps(kernel.build_dir, deps, max((times[output] for output in deps), default=0))
    lines = [line for output, line in logged.items() if output in times]
    write_atomic(kernel.build_dir / ninjas.LOG, "\n".join([header, *lines, ""]))


def _mtime_ns(path: Path) -> int:
    """0 where there is no such file."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _deps(directory: Path) -> dict[str, tuple[str, ...]]:
    try:
        return ninjas.read_deps(directory)
    except OSError:
        return {}


def _output(line: str) -> str:
    return line.split("\t")[3] if line.count("\t") == 4 else line
