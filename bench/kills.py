"""Kills at random moments of everything that writes: what is trusted afterwards is right, and nothing is left.

    python bench/kills.py [--count 1000] [--only build,store,install,bundle,unbundle,plan] [--seed N]

One project, planned by the real FlashInfer and compiled by a stand-in for nvcc (tests/doit_project.py) whose objects
hold the text of a header; the header has four versions, of each of which a whole build from nothing was made before.
A run is prepared, started, and killed at a moment between its begin and its usual end: SIGKILL to its process group, or
to doit alone, or to one process below it, or SIGTERM or SIGINT to doit. Then the same command is given once more.

    false fresh   `doit list --status` calls a kernel fresh whose library isn't that of the whole build; right after the
                  kill, and after the next run
    lost          the next run compiles what was finished; an entry of the store, an older bundle or the plan is gone
    stray         a process of the killed run (a variable in its environment tells) is alive 2 s later
    left-over     a file in TMPDIR, the caches, the store, the project or site-packages, after the next run, that no
                  clean run leaves
    failed        the next run ends with another status than 0, or the killed one with a traceback

What a killed run leaves is made a minute older before the next run: what is younger may be another run's, and stays.

A KeyboardInterrupt while Python or doit is still importing is not counted: nobody can hear the signal yet.

The plan is kept, for a cold one takes 8 s of CPU: one kill in twenty is of a run that plans. Ends with status 1 if
anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.kills_world import KERNELS, MARKER, PATIENCE, PHASES, World, learn, restore
from fitasks.base import temporary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHARES = {"build": 45, "store": 20, "bundle": 10, "unbundle": 12, "install": 8, "plan": 5}  # percent
KILLS = {"group": 35, "doit": 25, "below": 10, "SIGTERM": 15, "SIGINT": 15}
GRACE = {"install": 5.0}  # seconds in which the watchdog ends what a killed run started; pip may come to its end
_GRACE = 2.0  # of all others
_MINUTE = 61.0


@dataclass
class Tally:
    """What was found; `done` counts kills by phase, by kind, and how many met a run that had not ended."""

    done: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, what: str, text: str) -> None:
        """One finding, said at once."""
        self.counts[what] += 1
        self.found.append(f"{what}: {text}")
        print(f"  {what}: {text}", flush=True)


def kill_once(world: World, phase: str, seed: int, tally: Tally) -> None:
    """Prepare, start, kill, look, run again, look."""
    rng = Random(seed)
    prepare, words_of = PHASES[phase]
    prepare(world, rng)
    words, kind = words_of(world), _chosen(KILLS, rng)
    where = f"{phase}, {kind}, seed {seed}"
    finished, entries, bundle = world.vouched(), world.entries(), _bytes(world.root / "new.tar.gz")
    world.compiled()
    moment = rng.uniform(0.02, world.seconds[phase] * 1.05)
    said, met = _killed(world, words, kind, moment, rng)
    tally.done[phase] += 1
    tally.done[f"met: {phase}"] += met
    if "Traceback" in said and not _was_importing(said):
        tally.note("failed", f"{where}, after {moment:.2f} s: a traceback\n{said[-1500:]}")
    for stray in _strays(world, GRACE.get(phase, _GRACE)):
        tally.note("stray", f"{where}, after {moment:.2f} s: {stray}")
    finished |= world.vouched()
    if phase not in {"plan", "install"}:  # where that would plan first; the next run does
        _false_fresh(world, where, tally)
    if phase == "bundle" and _bytes(world.root / "new.tar.gz") != bundle and not _is_right(world):
        tally.note("lost", f"{where}: the bundle is neither the old one nor the new one")
    world.compiled()
    _again(world, phase, words, where, tally)
    if again := world.compiled() & finished:
        tally.note("lost", f"{where}, after {moment:.2f} s: compiled anew: {', '.join(sorted(again))}")
    if gone := entries - world.entries():
        tally.note("lost", f"{where}, after {moment:.2f} s: not in the store any more: {', '.join(sorted(gone))}")
    for name in sorted(world.files() - world.usual):
        tally.note("left-over", f"{where}, after {moment:.2f} s: {name}{_holders(world.root / name)}")
        _remove(world, name)
    if phase == "install":
        restore(world, "without")


def _again(world: World, phase: str, words: tuple[str, ...], where: str, tally: Tally) -> None:
    """The next run, and what it brought about."""
    _grow_old(world)
    status, said, _ = world.doit(*words)
    if status or "Traceback" in said:
        tally.note("failed", f"{where}: the next run ends with {status}\n{said[-1500:]}")
        world.doit()
    if phase == "bundle" and not _is_right(world):
        tally.note("failed", f"{where}: the next run's bundle holds other libraries than a clean run's")
    if phase == "plan" and not world.plan.exists():
        tally.note("lost", f"{where}: no plan after the next run")
    if phase == "install":
        if _package(world.site) != _package(world.root / "kept" / "with" / "site"):
            tally.note("failed", f"{where}: the installed package is another one than after a clean run")
    elif missing := set(KERNELS) - _false_fresh(world, where, tally):
        tally.note("failed", f"{where}: not fresh after the next run: {', '.join(sorted(missing))}")


def _is_right(world: World) -> bool:
    """Whether the new bundle is whole, and holds the libraries of this version of the header."""
    try:
        with tarfile.open(world.root / "new.tar.gz") as archive:
            held = {Path(one.name).stem: archive.extractfile(one) for one in archive if one.name.endswith(".so")}
            found = {name: hashlib.sha256(stream.read()).hexdigest() for name, stream in held.items() if stream}
    except (OSError, EOFError, tarfile.TarError):
        return False
    return found == world.libraries[world.version]


def _was_importing(said: str) -> bool:
    """Whether SIGINT came before anybody could hear it."""
    if "<frozen importlib" in said and re.search(r"^KeyboardInterrupt$", said, re.MULTILINE):
        return True
    if re.search(r'Exception ignored in: .*\n.*\n  File "<frozen importlib[^\n]*\nKeyboardInterrupt', said):
        return True
    return said.rstrip().endswith("KeyboardInterrupt") and "fitasks" not in said


def _grow_old(world: World) -> None:
    for path in [*(world.root / "tmp").iterdir(), *world.root.rglob(".fitasks-*")]:
        with contextlib.suppress(OSError):
            then = path.stat().st_mtime - _MINUTE
            os.utime(path, (then, then))


def _package(site: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(site)): path.read_bytes()
        for path in site.glob("fitasks_kernels/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _false_fresh(world: World, where: str, tally: Tally) -> set[str]:
    """What is called fresh; each must be what a whole build makes."""
    fresh, trouble = world.fresh()
    if trouble:
        tally.note("failed", f"{where}: doit list\n{trouble[-1500:]}")
    libraries, right = world.digests(), world.libraries[world.version]
    for name in sorted(fresh):
        if libraries.get(name) != right[name]:
            tally.note("false fresh", f"{where}: {name}")
    return fresh


def _killed(world: World, words: tuple[str, ...], kind: str, moment: float, rng: Random) -> tuple[str, bool]:
    """Start, wait, kill; what it said, and whether it hadn't ended before."""
    log = world.root / "tools" / "killed.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "doit", *words],
            cwd=world.project.root,
            env=world.project.env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        met = process.poll() is None
        if met:
            _kill(process.pid, kind, rng)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return "Traceback: it didn't end", met
    return log.read_text(errors="replace"), met


def _kill(pid: int, kind: str, rng: Random) -> None:
    with contextlib.suppress(ProcessLookupError):
        if kind == "group":
            os.killpg(pid, signal.SIGKILL)
        elif kind == "below":
            os.kill(rng.choice(_below(pid) or [pid]), signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL if kind == "doit" else signal.Signals[kind])


def _below(root: int) -> list[int]:
    """Pids of all children and theirs."""
    parents = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _strays(world: World, grace: float) -> list[str]:
    """Processes of the killed run that are alive after the grace; they are ended."""
    needle = f"{MARKER}={world.project.env[MARKER]}".encode()
    deadline = time.monotonic() + grace
    while (found := _marked(needle)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(found.values())


def _marked(needle: bytes) -> dict[int, str]:
    found = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = words.decode(errors="replace")[:120]
    return found


def _is_locked(place: Path) -> bool:
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except OSError:  # it was removed meanwhile
        return False
    try:
        return not temporary.lock(descriptor)
    finally:
        os.close(descriptor)


def _holders(path: Path) -> str:
    """Of what lies in a directory with a lock: whether somebody has that, and who has the directory open."""
    places = [one for one in (path, *path.parents) if one.name.endswith("-locked")]
    if not places:
        return ""
    holders = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if places[0] in (one.readlink() for one in Path(f"/proc/{pid}/fd").iterdir()):
                holders.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return f" (locked: {_is_locked(places[0])}, open in {holders}, {time.time() - places[0].stat().st_mtime:.0f} s old)"


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remove(world: World, name: str) -> None:
    """So that one left-over is told once; names that were made alike stay, and are usual from now on."""
    path = world.root / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()
    else:
        world.usual.add(name)


def _chosen(shares: dict[str, int], rng: Random) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def main() -> int:
    """0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", default=",".join(SHARES))
    parser.add_argument("--seed", type=int, default=16)
    wanted = parser.parse_args()
    only = set(wanted.only.split(","))
    if unknown := only - set(SHARES):
        parser.error(f"no phase {', '.join(sorted(unknown))}; there are {', '.join(SHARES)}")
    if "fitasks" not in {one.dist.name for one in entry_points(group="doit.COMMAND") if one.dist}:
        parser.error("fitasks isn't installed here: doit's own `run` would be killed, which sweeps nothing")
    root = Path(tempfile.mkdtemp(prefix="kills-")).resolve()
    try:
        return _run(root, wanted.count, only, wanted.seed)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(root: Path, count: int, only: set[str], seed: int) -> int:
    world, tally = World.make(root), Tally()
    learn(world, only)
    usual = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in world.seconds.items())
    print(f"without a kill: {usual}", flush=True)
    shares, begin = {name: share for name, share in SHARES.items() if name in only}, time.monotonic()
    for number in range(count):
        kill_once(world, _chosen(shares, Random(f"{seed}-{number}")), seed * 1_000_000 + number, tally)
        if number % 10 == 9 or number == count - 1:
            spent = time.monotonic() - begin
            print(f"{number + 1} kills in {spent:.0f} s, {dict(tally.counts) or 'nothing found'}", flush=True)
    print(summary(tally, only, time.monotonic() - begin))
    return 1 if tally.counts else 0


def summary(tally: Tally, only: Iterable[str], seconds: float) -> str:
    """The table."""
    lines = ["| phase | kills | of runs at work |", "|---|--:|--:|"]
    lines += [f"| {name} | {tally.done[name]} | {tally.done[f'met: {name}']} |" for name in SHARES if name in only]
    kinds = ("false fresh", "lost", "stray", "left-over", "failed")
    found = ", ".join(f"{tally.counts[kind]} {kind}" for kind in kinds)
    return "\n".join([*lines, f"{found}; {seconds:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
