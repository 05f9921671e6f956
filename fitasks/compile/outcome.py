"""What a finished compile made, from what: the receipt, put together with every input as it is afterwards."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fitasks.base.errors import KernelFailure
from fitasks.base.files import sha256_text
from fitasks.compile import begun
from fitasks.compile import receipt as receipts
from fitasks.compile.heal import commands_of, outputs_of
from fitasks.compile.judge.headers import system_headers
from fitasks.compile.ninja import ninja as ninjas
from fitasks.compile.receipt import Receipt
from fitasks.cuda.elf import inspect_library, is_shared_object, machine_code_architectures

if TYPE_CHECKING:
    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel
    from fitasks.processes.process import Finished


def check(kernel: Kernel) -> None:
    if problem := is_shared_object(kernel.library):
        raise KernelFailure(f"{kernel.label}: the compiler made no usable library: {problem}")


def receipt_of(runner: Runner, kernel: Kernel, judge: Judge, finished: Finished) -> Receipt:
    """What was built from what, with every input as it is after the compile."""
    commands = commands_of(kernel, runner.ninja)
    deps = ninjas.read_deps(kernel.build_dir)
    read = {path for output in commands for path in deps.get(output, ())} | {str(path) for path in kernel.sources}
    read |= system_headers(commands.values(), kernel.build_dir)
    read -= kernel.texts.keys()  # they are part of the commands
    digests = []
    for path in read:
        if (state := judge.contents.state(path)) is None:
            raise KernelFailure(f"{kernel.label}: {path} was read by the compiler and is gone")
        digests.append((judge.roots.relative(os.path.normpath(path)), state.digest))
    inputs = receipts.input_lines(digests)
    logged = ninjas.read_log(kernel.build_dir)
    library = inspect_library(kernel.library)
    return Receipt(
        name=kernel.name,
        flashinfer=runner.plan.server.version("flashinfer-python"),
        target=kernel.target,
        generator=kernel.generator,
        commands=judge.commands(kernel),
        toolchain=judge.toolchain,
        inputs=inputs,
        fingerprint=receipts.fingerprint(judge.commands(kernel), judge.toolchain, inputs),
        ninja=runner.ninja.version,
        build_ninja=sha256_text(kernel.ninja),
        sealed_ns=min(logged[output] for output in commands),
        outputs=outputs_of(kernel, commands),
        stamp=judge.stamp,
        seconds=round(finished.seconds, 2),
        cpu_seconds=round(finished.cpu_seconds, 2),
        peak_rss=finished.peak_rss,
        built=utc(),
        needed=library.needed,
        undefined=tuple(map(str, library.cuda_symbols())),
        architectures=machine_code_architectures(kernel.library),
        notes={"split_compile": threads} if (threads := begun.most_threads(kernel)) > 1 else {},
    )


def utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
