"""Mutants of everything that comes from elsewhere: none may end in a traceback, write elsewhere, or run anything.

    python bench/mutants.py [--borders kernels,trace] [--count 10000] [--seed N]

For each border a real sample is changed at random (bytes flipped, cut and joined; values of JSON replaced by others of
every shape; header fields of archives; or a directory, a pipe, a link in the file's place), and read as the commands
read it, in this process. Writes outside of the border's own directory and commands are watched by audit hooks, and
stopped. Mutant number i of a run with seed N is mutant 0 of one with seed N+i: `--count 1 --seed <seed>` repeats one,
with its traceback. Ends with status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.mutants_borders import BORDERS  # noqa: E402
from bench.mutants_mutate import VICTIM  # noqa: E402
from bench.mutants_watch import Asked, Stopped, Watch  # noqa: E402
from bench.mutants_worlds import Border  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SLOW = 1.0  # seconds of CPU: another process's load makes nothing slow
HANG = 6.0  # seconds by the clock, after which a mutant is given up: it waits for something
MEMORY = 2 << 30  # bytes more than the sample takes; who reads a device to its end has a MemoryError
KIND_SHARE = 0.02  # of mutants that are no file at all


class Hangs(BaseException):
    """Given up."""


@dataclass
class Found:
    """What one border's mutants came to. `kinds` maps what was found to the first seed that shows it."""

    border: str
    mutants: int = 0
    refused: int = 0  # ended with an error of fitasks
    asked: int = 0  # a memo that no longer counts: the program would be asked
    counts: Counter[str] = field(default_factory=Counter)  # traceback, write, command, slow
    kinds: dict[str, int] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)  # how often each kind
    slowest: float = 0.0
    slowest_seed: int = 0

    def note(self, what: str, kind: str, seed: int) -> None:
        """One finding."""
        self.counts[what] += 1
        self.times[f"{what}: {kind}"] += 1
        self.kinds.setdefault(f"{what}: {kind}", seed)


def run(name: str, count: int, seed: int, *, show: bool = False, progress: bool = False) -> Found:
    """All mutants of one border, in a temporary directory that is removed."""
    home = Path(tempfile.mkdtemp(prefix="mutants-")).resolve()
    world, outside = home / "world", home / "outside"
    for place in (world, outside, world / "tmp"):
        place.mkdir()
    for place in (home, outside):
        (place / VICTIM).write_text("whole")
    tempfile.tempdir = str(world / "tmp")
    try:
        with environment():
            border = BORDERS[name](world)
            (world / "tmp").mkdir(exist_ok=True)
            return Runner(name, border, (world, *border.world), outside, show=show).all(count, seed, progress=progress)
    finally:
        tempfile.tempdir = None
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """A border may set variables and the directory."""
    before, place = dict(os.environ), Path.cwd()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(place)


class Runner:
    """Uses mutants of one border, one after the other."""

    def __init__(self, name: str, border: Border, allowed: Sequence[Path], outside: Path, *, show: bool) -> None:
        self.border, self.outside, self.show = border, str(outside), show
        self.watch = Watch(tuple(map(str, allowed)), border.programs)
        self.found = Found(name)

    def all(self, count: int, seed: int, *, progress: bool) -> Found:
        """First the sample itself, which must be understood."""
        self._warm_up()
        with limited_memory(MEMORY):
            for number in range(count):
                self._one(seed + number)
                if progress and number % 500 == 499:
                    print(
                        f"  {self.found.border}: {number + 1}, {dict(self.found.counts)}", file=sys.stderr, flush=True
                    )
        return self.found

    def _warm_up(self) -> None:
        """Use the samples, which imports what is imported late, and once more, watched: they must be understood."""
        for sample, file in zip(self.border.samples, self._files(), strict=True):
            for watched in (contextlib.nullcontext(), self.watch.watching()):
                file.write_bytes(sample)
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), watched:
                    self._understood(file)
                self.border.renew()

    def _understood(self, file: Path) -> None:
        try:
            self.border.use(file)
        except Asked as error:
            if Path(str(error)).name not in self.border.asks:
                raise SystemExit(f"{self.found.border}: {error} is asked anew for what nobody has changed") from None

    def _files(self) -> list[Path]:
        return self.border.files or [self.border.file] * len(self.border.samples)

    def _one(self, seed: int) -> None:
        rng, found = Random(seed), self.found
        index = rng.randrange(len(self.border.samples))
        file = self._files()[index]
        kept = file.stat() if file.exists() else None
        if rng.random() < KIND_SHARE:
            no_file(file, rng.choice(self.border.others))
        else:
            data = self.border.mutate(self.border.samples[index], self.border.samples, rng, self.outside)
            if file.is_symlink() or not file.is_file():
                file.unlink(missing_ok=True)
            file.write_bytes(data)
        if kept and rng.random() < 0.5:
            with contextlib.suppress(OSError):  # also what is only taken anew where its time is another
                os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns), follow_symlinks=False)
        found.mutants += 1
        begin = time.process_time()
        self._use(file, seed)
        spent = time.process_time() - begin
        if spent > found.slowest:
            found.slowest, found.slowest_seed = spent, seed
        if spent > SLOW:
            found.note("slow", f"over {SLOW:g} s", seed)
        for what, texts in (("write", self.watch.writes), ("command", self.watch.commands)):
            for text in texts[:1]:
                found.note(what, text.replace(self.outside, "OUTSIDE")[:100], seed)
        cleared(file)
        self.border.renew()

    def _use(self, file: Path, seed: int) -> None:
        from fitasks.base.errors import FitasksError

        said = io.StringIO()
        try:
            with (
                limited(HANG),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(said),
                self.watch.watching(),
            ):
                self.border.use(file)
        except FitasksError as error:
            self.found.refused += 1
            str(error)
        except Asked:
            self.found.asked += 1
        except Stopped:
            pass  # in the watch's lists
        except Hangs:
            self.found.note("slow", "given up", seed)
        except BaseException as error:  # noqa: BLE001 - SystemExit as well: it is what this is about
            self.found.note("traceback", f"{type(error).__name__} at {_place(error)}", seed)
            if self.show:
                traceback.print_exc()
        if self.show:
            print(
                "".join(char if char.isprintable() or char == "\n" else repr(char) for char in said.getvalue()[-3000:])
            )


def no_file(path: Path, other: str) -> None:
    """Something else in its place; "nothing" is nothing at all."""
    cleared(path)
    match other:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "circle":
            path.symlink_to(path.name)


def cleared(path: Path) -> None:
    """Nothing there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hangs in the block after so long. What C code does goes on to its end."""

    def ring(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Of this process, beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _place(error: BaseException) -> str:
    """The last line of this project's own code that a traceback passes through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{ROOT}/fitasks/" in frame.filename]
    if not frames:
        return "bench"
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno} ({frames[-1].name})"


def table(results: Sequence[Found]) -> str:
    """One line for each border, then each kind of finding with the seed that repeats it."""
    heads = ("border", "mutants", "refused", "tracebacks", "writes outside", "commands", "over 1 s", "slowest")
    rows = [heads, ("---", *["--:"] * (len(heads) - 1))]
    for one in results:
        counts = [str(one.counts[what]) for what in ("traceback", "write", "command", "slow")]
        slowest = f"{one.slowest:.2f} s (seed {one.slowest_seed})"
        rows.append((one.border, str(one.mutants), str(one.refused + one.asked), *counts, slowest))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    for one in results:
        for kind, seed in sorted(one.kinds.items(), key=lambda pair: -one.times[pair[0]]):
            lines.append(
                f"{one.border}: {kind}, {one.times[kind]} times; --borders {one.border} --count 1 --seed {seed}"
            )
    return "\n".join(lines)


def main() -> int:
    """0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--borders", default=",".join(BORDERS), help="of " + ", ".join(BORDERS))
    parser.add_argument("--count", type=int, default=10_000, help="mutants of each border")
    parser.add_argument("--seed", type=int, default=16_000_000)
    wanted = parser.parse_args()
    names = wanted.borders.split(",")
    if unknown := set(names) - set(BORDERS):
        parser.error(f"no border {', '.join(sorted(unknown))}")
    if len(names) > 1:
        return _each_alone(names, wanted.count, wanted.seed)
    found = run(names[0], wanted.count, wanted.seed, show=wanted.count == 1, progress=True)
    print(table([found]))
    return 1 if found.kinds else 0


def _each_alone(names: Sequence[str], count: int, seed: int) -> int:
    """In a process each: FlashInfer is in that of traces alone, and what one leaves behind is no other's."""
    statuses = []
    for name in names:
        words = [sys.executable, __file__, "--borders", name, "--count", str(count), "--seed", str(seed)]
        statuses.append(subprocess.run(words, check=False).returncode)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
