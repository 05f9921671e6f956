"""Making one kernel right: look again, put timestamps right, or compile exactly as FlashInfer would.

The order of steps is what makes a kill at any moment harmless: the receipt goes first and comes last, and in between
a `begun` record says what the half-finished objects were compiled from.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from fitasks.base import temporary
from fitasks.base.errors import FitasksError, KernelFailure
from fitasks.base.files import write_if_changed
from fitasks.base.wording import counted, labelled
from fitasks.compile import begun, whole
from fitasks.compile import receipt as receipts
from fitasks.compile.failure import failed
from fitasks.compile.failure.noplace import no_place
from fitasks.compile.heal import NotHealed, heal
from fitasks.compile.judge.reasons import Reason, judgement
from fitasks.compile.lock import module_lock
from fitasks.compile.ninja import ninja as ninjas
from fitasks.compile.outcome import check, receipt_of, utc
from fitasks.config.generators import may_make_object
from fitasks.cuda.survey import host_compiler
from fitasks.plan import planner
from fitasks.plan.unbuildable import misplaced
from fitasks.processes import sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.compile.judge.freshness import Judge
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.compile.pool.costs import Cost
    from fitasks.compile.receipt import Receipt
    from fitasks.compile.runner import Runner
    from fitasks.plan.kernel import Kernel
    from fitasks.processes.process import Finished

Outcome = Literal["fresh", "audited", "healed", "adopted", "compiled"]


@dataclass(frozen=True)
class Done:
    """How a kernel became right, and the seconds of compiling that this took or, adopted, saved."""

    outcome: Outcome
    seconds: float = 0.0


class KernelStore(Protocol):
    """Finished kernels by content. Trouble with it is the same as "not there"."""

    @property
    def afar(self) -> bool:
        """Whether some of it has to come from elsewhere, by `fetch`, before `find` finds it."""

    def fetch(self, kernel: Kernel, judge: Judge) -> None:
        """Wait until a kernel is here, if it is anywhere, so that `find` waits for nobody."""

    def find(self, kernel: Kernel, judge: Judge) -> tuple[Path, Receipt] | None:
        """A kernel all of whose inputs are what they are now: where it is, and its receipt."""

    def take(self, place: Path, receipt: Receipt, directory: Path) -> None:
        """Lay its files, but not the receipt, into a directory. Raises OSError."""

    def put(self, name: str, directory: Path, receipt: Receipt) -> None:
        """Keep a module whose files lie in a directory."""

    def share(self, directory: Path, receipt: Receipt) -> None:
        """Give a module whose files lie in a directory to others, where that is asked for."""

    def explain(self, kernel: Kernel, judge: Judge, judged: Judgement) -> list[str]:
        """What is said of a kernel that is not fresh: whether it is there, or what keeps it from being taken."""


class Makers(Protocol):
    """Other machines that compile kernels for this one."""

    def makes(self, kernel: Kernel) -> bool:
        """Whether they can."""

    def make(self, kernel: Kernel, judge: Judge, cost: Cost, place: Path) -> tuple[KernelStore, Receipt]:
        """Have it made, what takes longest first; what came, in an empty directory. Raises KernelFailure, OSError."""


@dataclass
class Builder:
    """Builds the kernels of one plan; shared by all of doit's threads."""

    runner: Runner
    judges: dict[str, Judge]  # per target
    store: KernelStore | None = None
    makers: Makers | None = None
    lock_timeout: float = 1800.0  # seconds to wait for a server that is building the same module
    fetch_only: bool = False  # a kernel that would have to be compiled fails
    _regenerating: threading.Lock = field(default_factory=threading.Lock)

    def build(self, kernel: Kernel, *, force: bool = False) -> Done:
        """Bring one kernel up to date. Raises KernelFailure; other kernels aren't touched."""
        try:
            done = self._build(kernel, force=force)
            size = kernel.library.stat().st_size
        except Exception as error:  # noqa: BLE001 - whatever it is, this kernel is over, and who shows the run must know
            failure = self._failure(kernel, error)
            outcome = "stopped" if sessions.stopping() else "failed"
            self.runner.journal.write("end", label=kernel.label, outcome=outcome, error=str(failure))
            raise failure from None
        receipt = receipts.read(kernel)
        costs = {"cpu_seconds": receipt.cpu_seconds, "peak_rss": receipt.peak_rss} if receipt else {}
        self.runner.journal.write(
            "end", label=kernel.label, outcome=done.outcome, seconds=done.seconds, bytes=size, error="", **costs
        )
        if self.store and receipt and done.outcome == "compiled" and not kernel.built_whole:
            # Without FlashInfer's lock, which a server may wait for: what is sent is compared with the receipt.
            self.store.share(kernel.build_dir, receipt)
        return done

    def _failure(self, kernel: Kernel, error: Exception) -> KernelFailure:
        """In words; of what nobody has foreseen the traceback goes into the kernel's log."""
        if isinstance(error, KernelFailure):
            return error
        if isinstance(error, FitasksError):
            return KernelFailure(f"{kernel.label}: {error.message}", remedy=error.remedy)
        if isinstance(error, OSError):
            return no_place(kernel, error)
        if isinstance(error, UnicodeEncodeError) and error.object == kernel.ninja:
            what = f"{kernel.label}: {kernel.ninja_file} would name a path with letters that this locale can't write"
            return KernelFailure(what, remedy="set LC_ALL=C.UTF-8, for servers as well; run doit again")
        log = self.runner.log(kernel)
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8", errors="replace") as stream:
            stream.writelines(traceback.format_exception(error))
        return KernelFailure(f"{kernel.label}: {type(error).__name__}: {error}\n  log: {log}")

    def _build(self, kernel: Kernel, *, force: bool) -> Done:
        if kernel.problem:
            raise KernelFailure(kernel.problem)
        if problem := misplaced(kernel):
            raise KernelFailure(f"{kernel.label}: {problem.message}", remedy=problem.remedy)
        if kernel.built_whole:
            return self._whole(kernel, force=force)
        if not force and self.store and self.store.afar and (done := self._fetched(kernel, self.store)):
            return done
        with self._locked(kernel) as judge:
            found = self._spared(kernel, judge, force=force)
            if isinstance(found, Done):
                return found
            if self.fetch_only or not (self.makers and self.makers.makes(kernel)):
                return self._compile(kernel, judge, found)
        return self._have_made(kernel, judge, self.makers)

    def _fetched(self, kernel: Kernel, store: KernelStore) -> Done | None:
        """Look first whether it is needed, then wait for what comes; a server that wants the lock needn't wait too."""
        with self._locked(kernel) as judge:
            found = self._spared(kernel, judge, force=False)
        if isinstance(found, Done):
            return found
        store.fetch(kernel, judge)
        return None

    @contextlib.contextmanager
    def _locked(self, kernel: Kernel) -> Iterator[Judge]:
        """Under FlashInfer's lock, with its sources there; a judge that looks again, since somebody may have built."""
        with module_lock(kernel.lock, timeout=self.lock_timeout, stopping=sessions.stopping, say=self.runner.say):
            if kernel.texts:
                _write_sources(kernel)
            elif any(not source.exists() for source in kernel.sources):
                self._regenerate(kernel)
            yield self.judges[kernel.target].refreshed()

    def _whole(self, kernel: Kernel, *, force: bool) -> Done:
        """By its engine's own code, under the engine's lock; under one of ours two doits build it once."""
        forced = judgement("stale", [Reason("forced", "asked for")])
        own = whole.lock_of(kernel)
        with module_lock(own, timeout=self.lock_timeout, stopping=sessions.stopping, say=self.runner.say):
            judged = forced if force else self.judges[kernel.target].refreshed().judge(kernel)
            if judged.verdict == "fresh":
                return Done("fresh")
            if self.fetch_only:
                raise KernelFailure(f"{kernel.label}: no store keeps its kind, and --fetch-only forbids to compile it")
            return Done("compiled", whole.make(kernel, self.runner, judged))

    def _spared(self, kernel: Kernel, judge: Judge, *, force: bool) -> Done | Judgement:
        """Bring it up to date without compiling; where that can't be, why it has to be compiled."""
        judged = judgement("stale", [Reason("forced", "asked for")]) if force else judge.judge(kernel)
        verdict, receipt = judged.verdict, receipts.read(kernel)
        if receipt and verdict == "fresh":
            return Done("fresh")
        if receipt and verdict == "look":
            receipts.write(kernel, replace(receipt, stamp=judge.stamp))
            begun.end(kernel)
            return Done("audited")
        if receipt and verdict == "heal":
            try:
                healed = heal(kernel, receipt, judge.roots, self.runner.ninja)
            except (NotHealed, OSError) as error:
                return judgement("stale", [Reason("log", f"could not be put right: {error}")])
            receipts.write(kernel, replace(healed, stamp=judge.stamp))
            return Done("healed")
        if not force and (adopted := self._adopt(kernel, judge, self.store)):
            receipts.write(kernel, adopted)
            return Done("adopted", adopted.seconds)
        return judged

    def _have_made(self, kernel: Kernel, judge: Judge, makers: Makers) -> Done:
        """Compiled by another machine, and adopted from what came.

        Nobody waits for our lock meanwhile: a server here, or that machine itself, whose cache may be ours.
        """
        with temporary.directory("put") as place, self._remembering(kernel, judge):
            came, receipt = makers.make(kernel, judge, self.runner.costs.of(kernel), place)
            with self._locked(kernel) as again:
                if again.judge(kernel).verdict != "fresh":
                    self._take(kernel, again, came)
                if self.store:
                    self.store.put(kernel.name, kernel.build_dir, receipt)
        return Done("compiled", receipt.seconds)

    def _take(self, kernel: Kernel, judge: Judge, came: KernelStore) -> None:
        adopted = self._adopt(kernel, judge, came)
        if adopted is None:
            raise KernelFailure(f"{kernel.label}: what another machine made is not what ninja would make here")
        receipts.write(kernel, adopted)

    def _adopt(self, kernel: Kernel, judge: Judge, store: KernelStore | None) -> Receipt | None:
        """A finished kernel of a store whose every input is equal, accepted by ninja; None where there is none."""
        if store is None or not (found := store.find(kernel, judge)):
            return None
        place, receipt = found
        try:
            kernel.build_dir.mkdir(parents=True, exist_ok=True)
            receipts.path_of(kernel).unlink(missing_ok=True)
            store.take(place, receipt, kernel.build_dir)
            (kernel.build_dir / ninjas.DEPS).unlink(missing_ok=True)
            healed = heal(kernel, receipt, judge.roots, self.runner.ninja)
        except (NotHealed, OSError):
            return None
        begun.end(kernel)
        fetched = {name: said for name, said in receipt.notes.items() if name == receipts.FETCHED}
        notes = {"adopted_from": receipt.flashinfer, "adopted": utc()} | fetched
        flashinfer = self.runner.plan.server.version("flashinfer-python")
        return replace(healed, stamp=judge.stamp, flashinfer=flashinfer, target=kernel.target, notes=notes)

    def _compile(self, kernel: Kernel, judge: Judge, judged: Judgement) -> Done:
        """Twice if inputs were edited meanwhile, so that what is recorded is what was compiled."""
        if self.fetch_only:
            raise self._lacking(kernel, judge, judged)
        host_compiler(self.runner.plan.server.env)  # before anything that is there is touched
        damaged = judged.damaged
        for _ in range(2):
            began_ns = begun.begin(kernel, judge, self.runner.ninja, damaged)
            finished = self._run(kernel, judge, judged)
            check(kernel)
            receipt = receipt_of(self.runner, kernel, judge.refreshed(), finished)
            if not (changed := begun.edited(receipt, judge, began_ns)):
                receipts.write(kernel, self._accepted(kernel, receipt, judge))
                begun.end(kernel)
                if self.store:
                    self.store.put(kernel.name, kernel.build_dir, receipt)
                return Done("compiled", finished.seconds)
            damaged = ()
            begun.end(kernel)
        raise KernelFailure(f"{kernel.label}: {changed} keeps changing while it is compiled")

    def _run(self, kernel: Kernel, judge: Judge, judged: Judgement) -> Finished:
        """Compile. Raises KernelFailure, OSError."""
        with self._remembering(kernel, judge):
            return self.runner.run(kernel, functools.partial(self._announce, kernel, judge, judged))

    @contextlib.contextmanager
    def _remembering(self, kernel: Kernel, judge: Judge) -> Iterator[None]:
        """What would fail again is remembered."""
        try:
            yield
        except KernelFailure as error:
            if error.lasting:
                failed.remember(kernel, judge.refreshed(), error.lasting)
            raise

    def _accepted(self, kernel: Kernel, receipt: Receipt, judge: Judge) -> Receipt:
        """As ninja accepts it: an input from the future (a clock set back) would make it compile again and again."""
        if not ninjas.explain(self.runner.ninja, kernel.build_dir, kernel.ninja_file):
            return receipt
        with contextlib.suppress(NotHealed, OSError):
            return heal(kernel, receipt, judge.roots, self.runner.ninja)
        return receipt

    def _lacking(self, kernel: Kernel, judge: Judge, judged: Judgement) -> KernelFailure:
        why = "; ".join([str(judged), *self._apart(kernel, judge, judged)])
        return KernelFailure(
            f"{kernel.label}: not to be had from a store, and --fetch-only forbids to compile it: {why}"
        )

    def _apart(self, kernel: Kernel, judge: Judge, judged: Judgement) -> list[str]:
        return self.store.explain(kernel, judge, judged) if self.store else []

    def _announce(self, kernel: Kernel, judge: Judge, judged: Judgement, count: int) -> None:
        why, apart = [str(reason) for reason in judged.reasons], self._apart(kernel, judge, judged)
        facts = {"label": kernel.label, "op": kernel.op, "target": kernel.target, "files": len(kernel.sources)}
        self.runner.journal.write("begin", **facts, why=why + apart)
        work = f"compiling {counted(count, 'file')}" if count else "linking"
        said = labelled("; ".join([work, *why[:1], *apart]), kernel.name, kernel.label)
        self.runner.say(f"kernel:{kernel.label}: {said}")

    def _regenerate(self, kernel: Kernel) -> None:
        """FlashInfer's generators write `generated/` when asked; ask them all at once, one thread at a time."""
        with self._regenerating:
            if all(source.exists() for source in kernel.sources):
                return
            config, home = self.runner.plan.config, self.runner.plan.toolkit.home
            own = [one for one in config.kernels if not may_make_object(one.op) and not one.op.startswith("sglang.")]
            ask = functools.partial(planner.ask, sm90=config.sm90, generators=config.generators)
            ask(self.runner.plan.server, home, [kernel.target], own)
        if missing := [str(source) for source in kernel.sources if not source.exists()]:
            raise KernelFailure(f"{kernel.label}: FlashInfer did not generate {missing[0]}")


def _write_sources(kernel: Kernel) -> None:
    """Beside the library, as SGLang does before it asks ninja. Raises OSError."""
    for path, text in kernel.texts.items():
        write_if_changed(Path(path), text)
