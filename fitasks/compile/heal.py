"""Putting timestamps right: making ninja agree that a kernel is current whose contents are proven equal.

Instead of setting back the times of headers, which belong to other packages and are often not writable, the outputs
of the kernel, which are ours, are given a time that is newer than every input, and ninja's two logs are written to
say so. ninja itself is then asked; where it doesn't agree the kernel is compiled.

Called under the module's lock, for kernels whose inputs, commands and outputs were all compared by content.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.files import sha256_file, sha256_text, write_atomic, write_if_changed
from fitasks.compile import receipt as receipts
from fitasks.compile.ninja import ninja as ninjas
from fitasks.compile.ninja.commandhash import command_hash
from fitasks.compile.receipt import Output

if TYPE_CHECKING:
    from fitasks.compile.judge.roots import Roots
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel


class NotHealed(Exception):
    """ninja would compile all the same; says why."""


def heal(kernel: Kernel, receipt: Receipt, roots: Roots, ninja: Ninja) -> Receipt:
    """Rewrite the outputs' timestamps and ninja's logs; the new receipt, not yet written. Raises NotHealed."""
    write_if_changed(kernel.ninja_file, kernel.ninja)
    commands = commands_of(kernel, ninja)
    deps = _deps(kernel, receipt, roots, commands)
    inputs = {roots.absolute(relative) for relative, _ in receipts.parse_inputs(receipt.inputs)}
    moment = max(time.time_ns(), *map(_mtime, inputs.union(*deps.values())))
    for output in commands:
        path = kernel.build_dir / output
        _own(path)
        os.utime(path, ns=(moment, moment))
    _write_log(kernel.build_dir, commands, log_version(ninja), moment)
    ninjas.write_deps(kernel.build_dir, deps, moment)
    if reasons := ninjas.explain(ninja, kernel.build_dir, kernel.ninja_file):
        raise NotHealed(reasons[0])
    outputs = outputs_of(kernel, commands)
    text = sha256_text(kernel.ninja)
    return replace(receipt, outputs=outputs, sealed_ns=moment, ninja=ninja.version, build_ninja=text)


def log_version(ninja: Ninja) -> int:
    """The version of the log that this ninja writes: it is given an empty command and leaves a header behind."""
    with temporary.directory("ninja") as directory:
        Path(directory, "build.ninja").write_text("rule nothing\n  command = :\nbuild all: nothing\n")
        subprocess.run([ninja.executable, "-C", directory], capture_output=True, check=False)
        try:
            header = Path(directory, ninjas.LOG).read_text().partition("\n")[0]
            return int(header.removeprefix("# ninja log v"))
        except (OSError, ValueError):
            return 0


def outputs_of(kernel: Kernel, commands: dict[str, str]) -> dict[str, Output]:
    """The state of everything the build made, ninja's logs included. Raises OSError."""
    names = [os.path.relpath(kernel.build_dir / path, kernel.build_dir) for path in commands]
    found = {}
    for name in [*names, ninjas.LOG, ninjas.DEPS]:
        path = kernel.build_dir / name
        stat = path.stat()
        found[name] = Output(sha256_file(path), stat.st_size, stat.st_mtime_ns)
    return found


def commands_of(kernel: Kernel, ninja: Ninja) -> dict[str, str]:
    """Output, as the build file says it → command, as ninja evaluates it."""
    try:
        return {edge.output: edge.command for edge in ninjas.edges(ninja, kernel.build_dir, kernel.ninja_file)}
    except ValueError as error:
        raise NotHealed(str(error)) from None


def _deps(kernel: Kernel, receipt: Receipt, roots: Roots, commands: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """What each object's compiler read: from ninja's log if it is whole and of this place, else all inputs."""
    objects = [path for path in commands if not path.endswith(".so")]
    try:
        logged = ninjas.read_deps(kernel.build_dir)
    except OSError:
        logged = {}
    here = receipt.build_ninja == sha256_text(kernel.ninja)
    if here and all(path in logged for path in objects):
        return {path: logged[path] for path in objects}
    everything = tuple(roots.absolute(relative) for relative, _ in receipts.parse_inputs(receipt.inputs))
    return dict.fromkeys(objects, everything)


def _own(path: Path) -> None:
    """A file whose times may be changed: the store's, and so another cache's, would change with a hard link's."""
    if path.stat().st_nlink > 1:
        copy = path.with_name(f"{path.name}.fitasks")
        shutil.copy2(path, copy)
        copy.replace(path)


def _mtime(path: str) -> int:
    return os.stat(path).st_mtime_ns  # noqa: PTH116


def _write_log(build_dir: Path, commands: dict[str, str], version: int, moment: int) -> None:
    lines = [f"# ninja log v{version}"]
    for output, command in commands.items():
        hashed = command_hash(command, version)
        if hashed is None:
            raise NotHealed(f"this ninja writes logs of version {version}, which isn't known here")
        lines.append(f"0\t1\t{moment}\t{output}\t{hashed:x}")
    write_atomic(build_dir / ninjas.LOG, "\n".join([*lines, ""]))
