"""Making one kernel right: look again, put timestamps right, or compile exactly as FlashInfer would.

The order of steps is what makes a kill at any moment harmless: the receipt goes first and comes last, and in between
a `begun` record says what the half-finished objects were compiled from.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fitasks.build import ninja as ninjas
from fitasks.build import process
from fitasks.build import receipt as receipts
from fitasks.build.capacity import memory
from fitasks.build.costs import Cost, Costs
from fitasks.build.diagnose import diagnose
from fitasks.build.headers import system_headers
from fitasks.build.heal import NotHealed, commands_of, heal, outputs_of
from fitasks.build.jobserver import is_client
from fitasks.build.lock import module_lock
from fitasks.build.reasons import Reason, judgement
from fitasks.build.receipt import Receipt
from fitasks.build.schedule import SPLIT_GAIN, Schedule
from fitasks.cuda.elf import inspect_library, is_shared_object, machine_code_architectures
from fitasks.errors import KernelFailure
from fitasks.files import sha256_text, write_atomic, write_if_changed
from fitasks.plan import planner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fitasks.build.freshness import Judge
    from fitasks.build.jobserver import Jobserver
    from fitasks.build.journal import Journal
    from fitasks.build.ninja import Ninja
    from fitasks.build.reasons import Judgement
    from fitasks.build.store import Store
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

BEGUN = "fitasks-begun.json"
Outcome = Literal["fresh", "audited", "healed", "adopted", "compiled"]


@dataclass(frozen=True)
class Done:
    """How a kernel became right, and the seconds of compiling that this took or, adopted, saved."""

    outcome: Outcome
    seconds: float = 0.0


@dataclass
class Builder:
    """Builds the kernels of one plan; shared by all of doit's threads."""

    plan: Plan
    judges: dict[str, Judge]  # per target
    ninja: Ninja
    jobserver: Jobserver
    journal: Journal
    store: Store | None = None
    costs: Costs = field(default_factory=lambda: Costs(Path(os.devnull)))
    schedule: Schedule = field(default_factory=lambda: Schedule((), {}, 0.0))
    lock_timeout: float = 1800.0
    timeout: float | None = None
    say: Callable[[str], None] | None = None
    _regenerating: threading.Lock = field(default_factory=threading.Lock)

    def build(self, kernel: Kernel, *, force: bool = False) -> Done:
        """Bring one kernel up to date. Raises KernelFailure; other kernels aren't touched."""
        try:
            done = self._build(kernel, force=force)
        except OSError as error:
            failure = _no_place(kernel, error)
            self.journal.write("end", label=kernel.label, outcome="failed", error=str(failure))
            raise failure from None
        except KernelFailure as error:
            self.journal.write("end", label=kernel.label, outcome="failed", error=str(error))
            raise
        receipt = receipts.read(kernel)
        costs = {"cpu_seconds": receipt.cpu_seconds, "peak_rss": receipt.peak_rss} if receipt else {}
        size = kernel.library.stat().st_size
        self.journal.write(
            "end", label=kernel.label, outcome=done.outcome, seconds=done.seconds, bytes=size, error="", **costs
        )
        return done

    def _build(self, kernel: Kernel, *, force: bool) -> Done:
        if kernel.problem:
            raise KernelFailure(kernel.problem)
        with module_lock(kernel.lock, timeout=self.lock_timeout, stopping=process.stopping, say=self.say):
            if any(not source.exists() for source in kernel.sources):
                self._regenerate(kernel)
            judge = self.judges[kernel.target].anew()  # somebody may have built it while we waited
            return self._make_right(kernel, judge, force=force)

    def _make_right(self, kernel: Kernel, judge: Judge, *, force: bool) -> Done:
        judged = judgement("stale", [Reason("forced", "asked for")]) if force else judge.judge(kernel)
        verdict, receipt = judged.verdict, receipts.read(kernel)
        if receipt and verdict == "fresh":
            return Done("fresh")
        if receipt and verdict == "look":
            receipts.write(kernel, replace(receipt, stamp=judge.stamp))
            return Done("audited")
        if receipt and verdict == "heal":
            try:
                healed = heal(kernel, receipt, judge.roots, self.ninja)
            except (NotHealed, OSError) as error:
                refused = Reason("log", f"could not be put right: {error}")
                return self._compile(kernel, judge, judgement("stale", [refused]))
            receipts.write(kernel, replace(healed, stamp=judge.stamp))
            return Done("healed")
        if not force and (adopted := self._adopt(kernel, judge)):
            receipts.write(kernel, adopted)
            return Done("adopted", adopted.seconds)
        return self._compile(kernel, judge, judged)

    def _adopt(self, kernel: Kernel, judge: Judge) -> Receipt | None:
        """A finished kernel of the store whose every input is equal, accepted by ninja; None where there is none."""
        if self.store is None or not (found := self.store.find(kernel, judge)):
            return None
        place, receipt = found
        try:
            kernel.build_dir.mkdir(parents=True, exist_ok=True)
            receipts.path_of(kernel).unlink(missing_ok=True)
            self.store.take(place, receipt, kernel)
            (kernel.build_dir / ninjas.DEPS).unlink(missing_ok=True)
            healed = heal(kernel, receipt, judge.roots, self.ninja)
        except (NotHealed, OSError):
            return None
        (kernel.build_dir / BEGUN).unlink(missing_ok=True)
        notes = {"adopted_from": receipt.flashinfer, "adopted": _utc()}
        flashinfer = self.plan.server.version("flashinfer-python")
        return replace(healed, stamp=judge.stamp, flashinfer=flashinfer, target=kernel.target, notes=notes)

    def _compile(self, kernel: Kernel, judge: Judge, judged: Judgement) -> Done:
        """Twice if inputs were edited meanwhile, so that what is recorded is what was compiled."""
        damaged = judged.damaged
        for _ in range(2):
            began_ns = _begin(kernel, judge, self.ninja, damaged)
            finished = self._run_ninja(kernel, judged)
            _check(kernel)
            receipt = _receipt(self, kernel, judge.anew(), finished)
            if not (edited := _edited(receipt, judge, began_ns)):
                receipts.write(kernel, self._accepted(kernel, receipt, judge))
                self._learn(kernel, finished)
                (kernel.build_dir / BEGUN).unlink()
                if self.store:
                    self.store.put(kernel, receipt)
                return Done("compiled", finished.seconds)
            damaged = ()
            (kernel.build_dir / BEGUN).unlink()
        raise KernelFailure(f"{kernel.label}: {edited} keeps changing while it is compiled")

    def _accepted(self, kernel: Kernel, receipt: Receipt, judge: Judge) -> Receipt:
        """As ninja accepts it: an input from the future (a clock set back) would make it compile again and again."""
        if not ninjas.explain(self.ninja, kernel.build_dir, kernel.ninja_file):
            return receipt
        with contextlib.suppress(NotHealed, OSError):
            return heal(kernel, receipt, judge.roots, self.ninja)
        return receipt

    def _announce(self, kernel: Kernel, judged: Judgement) -> None:
        why = [str(reason) for reason in judged.reasons]
        facts = {"label": kernel.label, "op": kernel.op, "target": kernel.target, "files": len(kernel.sources)}
        self.journal.write("begin", **facts, why=why)
        if self.say:
            count = sum(not name.endswith(".so") for name in judged.damaged) if judged.damaged else len(kernel.sources)
            work = f"compiling {count} file{'s'[: count != 1]}" if count else "linking"
            self.say(f"kernel:{kernel.label}: {work}; {judged.reasons[0]}")

    def _run_ninja(self, kernel: Kernel, judged: Judgement) -> process.Finished:
        """Compile in the pool; once more and alone what was killed for want of memory. Raises KernelFailure."""
        threads, order = self.threads(kernel), self.schedule.order
        weight = -float(order.index(kernel.label) if kernel.label in order else len(order))
        with self.jobserver.slot(weight, count=1 + (threads > 1), stopping=process.stopping):
            self._announce(kernel, judged)
            finished = self._one_ninja(kernel, threads, [])
        if _was_killed(finished, self._log(kernel)):
            self._say(f"kernel:{kernel.label}: a compiler was killed for want of memory; again, alone")
            with self.jobserver.alone(process.stopping):
                finished = self._one_ninja(kernel, 1, ["-j", "1"])
        if finished.stopped:
            raise KernelFailure(f"{kernel.label}: stopped; what was finished stays, run doit again to go on")
        if finished.status or finished.timed_out:
            raise _failure(kernel, finished, self._log(kernel))
        return finished

    def _one_ninja(self, kernel: Kernel, threads: int, jobs: list[str]) -> process.Finished:
        if not is_client(self.ninja.version):
            jobs = ["-j", "1"]  # one slot each: doit starts as many ninjas as there are slots
        env = self.plan.environment(kernel.target)
        env |= {"MAKEFLAGS": self.jobserver.makeflags} | split_variables(env, threads)
        begin = time.time()
        # An interrupted nvcc leaves three to seven temporary files (measured): they go with their directory.
        with tempfile.TemporaryDirectory(prefix="fitasks-nvcc-", ignore_cleanup_errors=True) as scratch:
            finished = process.run(
                [*self.ninja.command(kernel.build_dir, kernel.ninja_file), *jobs],
                cwd=kernel.build_dir,
                env=env | {"TMPDIR": scratch},
                log=self._log(kernel),
                timeout=self.timeout,
            )
        for output, (first, last) in ninjas.read_times(kernel.build_dir).items():
            self.journal.write("file", begin=begin + first, end=begin + last, label=kernel.label, output=output)
        return finished

    def _learn(self, kernel: Kernel, finished: process.Finished) -> None:
        """For the order and the pool of later runs; nothing where only some files were compiled."""
        times = {output: last - first for output, (first, last) in ninjas.read_times(kernel.build_dir).items()}
        if finished.cpu_seconds > 1 and len(times) > len(kernel.sources):
            longest = max(times, key=lambda output: times[output])
            seconds = times[longest] / (SPLIT_GAIN if self.threads(kernel) > 1 else 1.0)  # as if it weren't split
            self.costs.learn(kernel, Cost(finished.cpu_seconds, seconds, finished.peak_rss, longest))

    def threads(self, kernel: Kernel) -> int:
        """Of nvcc's optimiser."""
        return self.schedule.split.get(kernel.label, 1)

    def _log(self, kernel: Kernel) -> Path:
        return self.plan.state / "logs" / f"{kernel.label}.log"

    def _say(self, text: str) -> None:
        if self.say:
            self.say(text)

    def _regenerate(self, kernel: Kernel) -> None:
        """FlashInfer's generators write `generated/` when asked; ask them all at once, one thread at a time."""
        with self._regenerating:
            if all(source.exists() for source in kernel.sources):
                return
            config, home = self.plan.config, self.plan.toolkit.home
            planner.ask(self.plan.server, home, [kernel.target], config.kernels, sm90=config.sm90)
        if missing := [str(source) for source in kernel.sources if not source.exists()]:
            raise KernelFailure(f"{kernel.label}: FlashInfer did not generate {missing[0]}")


def _begin(kernel: Kernel, judge: Judge, ninja: Ninja, damaged: tuple[str, ...]) -> int:
    """Take the receipt away and say what is being built; the moment from which inputs must not change (ns).

    Objects are kept where only the `damaged` files of a proven build are wrong, or where an interrupted build
    compiled them from the very same things.
    """
    kernel.build_dir.mkdir(parents=True, exist_ok=True)
    receipts.path_of(kernel).unlink(missing_ok=True)
    kernel.library.unlink(missing_ok=True)
    record: dict[str, object] = {
        "commands": judge.commands(kernel),
        "toolchain": judge.toolchain,
        "ninja": ninja.version,
    }
    begun = kernel.build_dir / BEGUN
    resumed = _resumable(kernel, record)
    write_if_changed(kernel.ninja_file, kernel.ninja)
    if resumed:
        return resumed
    for name in damaged or (ninjas.LOG,):
        (kernel.build_dir / name).unlink(missing_ok=True)
    write_atomic(begun, json.dumps(record))
    return begun.stat().st_ctime_ns


def _resumable(kernel: Kernel, record: dict[str, object]) -> int:
    """When the interrupted build began (ns) whose objects may be kept; 0 if none may."""
    begun = kernel.build_dir / BEGUN
    try:
        if json.loads(begun.read_bytes()) != record:
            return 0
        began_ns = begun.stat().st_ctime_ns
        read = {path for paths in ninjas.read_deps(kernel.build_dir).values() for path in paths}
        sources = {str(source) for source in kernel.sources}
        newest = max((os.stat(path).st_ctime_ns for path in read | sources), default=0)  # noqa: PTH116
    except (OSError, ValueError):
        return 0
    return began_ns if newest < began_ns else 0


def _no_place(kernel: Kernel, error: OSError) -> KernelFailure:
    """The disk is full, the cache read-only, or something stands in the way."""
    where = error.filename or kernel.build_dir
    return KernelFailure(
        f"{kernel.label}: {where}: {error.strerror or error}",
        remedy=f"make {kernel.build_dir.parent} writable and leave room in it; run doit again",
    )


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check(kernel: Kernel) -> None:
    if problem := is_shared_object(kernel.library):
        raise KernelFailure(f"{kernel.label}: the compiler made no usable library: {problem}")


def _receipt(builder: Builder, kernel: Kernel, judge: Judge, finished: process.Finished) -> Receipt:
    """What was built from what, with every input as it is after the compile."""
    commands = commands_of(kernel, builder.ninja)
    deps = ninjas.read_deps(kernel.build_dir)
    read = {path for output in commands for path in deps.get(output, ())} | {str(path) for path in kernel.sources}
    read |= system_headers(commands.values(), kernel.build_dir)
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
        flashinfer=builder.plan.server.version("flashinfer-python"),
        target=kernel.target,
        generator=kernel.generator,
        commands=judge.commands(kernel),
        toolchain=judge.toolchain,
        inputs=inputs,
        fingerprint=receipts.fingerprint(judge.commands(kernel), judge.toolchain, inputs),
        ninja=builder.ninja.version,
        build_ninja=sha256_text(kernel.ninja),
        sealed_ns=min(logged[output] for output in commands),
        outputs=outputs_of(kernel, commands),
        stamp=judge.stamp,
        seconds=round(finished.seconds, 2),
        cpu_seconds=round(finished.cpu_seconds, 2),
        peak_rss=finished.peak_rss,
        built=_utc(),
        needed=library.needed,
        undefined=tuple(map(str, library.cuda_symbols())),
        architectures=machine_code_architectures(kernel.library),
        notes={"split_compile": threads} if (threads := builder.threads(kernel)) > 1 else {},
    )


def _edited(receipt: Receipt, judge: Judge, began_ns: int) -> str:
    """An input that was written, replaced or renamed since the build began. Its ctime tells, nobody can set that."""
    for relative, _ in receipts.parse_inputs(receipt.inputs):
        with contextlib.suppress(OSError):
            if os.stat(judge.roots.absolute(relative)).st_ctime_ns >= began_ns:  # noqa: PTH116
                return relative
    return ""


def split_variables(env: Mapping[str, str], threads: int) -> dict[str, str]:
    """What makes nvcc optimise one file with several threads, beside what the user appends already."""
    if threads < 2:
        return {}
    return {"NVCC_APPEND_FLAGS": f"{env.get('NVCC_APPEND_FLAGS', '')} --split-compile={threads}".strip()}


def _was_killed(finished: process.Finished, log: Path) -> bool:
    if not finished.status or finished.timed_out or finished.stopped:
        return False
    return diagnose(log.read_text(errors="replace"), finished.status).out_of_memory


def _failure(kernel: Kernel, finished: process.Finished, log: Path) -> KernelFailure:
    if finished.timed_out:
        return KernelFailure(
            f"{kernel.label}: not finished after {finished.seconds:.0f} s, and stopped\n  log: {log}",
            remedy="raise `timeout:` in kernels.yaml (seconds; 0 is no limit)",
        )
    found = diagnose(log.read_text(errors="replace"), finished.status)
    hint = f"\n  hint: {found.hint}" if found.hint else ""
    if found.out_of_memory:
        hint += f"; {memory().available / 1e9:.1f} GB are free; it was tried alone as well"
    return KernelFailure(f"{kernel.label}: {found.first_error}{hint}\n  log: {log}")
