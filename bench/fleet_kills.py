"""Killing workers, the scheduler, and who asks, at random moments: nothing half-made may be believed, nothing lost.

    python bench/fleet_kills.py [--count 300] [--seed 1]

A scheduler, two workers and an asker, each a process with a directory and caches of its own, compile eight small
kernels of two files with a stand-in that only copies. One of them is killed (SIGKILL) while the asker is at work. Then
whatever has a receipt must be whole, and the next asker must get all kernels. Every other round begins with empty
caches. Exit status 1 if a kernel was wrong or lost, or a run didn't end. Needs distributed; no GPU, and no FlashInfer.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fitasks.base.files import sha256_file  # noqa: E402
from fitasks.compile import receipt as receipts  # noqa: E402
from fitasks.store.remote.manifest import files  # noqa: E402
from tests.fleet.conftest import Cluster  # noqa: E402

ASKER, WORKERS = "asker", ("first", "second")
_GOOD = {"compiled", "fresh"}
_COMPILER = """\
#!/bin/sh
case " $* " in *" -c "*) ;; *) exec c++ "$@";; esac
c++ -E "$@" && sleep 0.2
while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done
cp "$(dirname "$0")/one.o" "$out"
"""  # which copies: what is looked for isn't in the compiler
_LONGEST = 90.0  # seconds that a run may take to its end


@dataclass
class World:
    """The processes, and what was found."""

    cluster: Cluster
    chosen: random.Random
    took: float = 0.0  # seconds of the last run that nobody was killed in
    killed: Counter[str] = field(default_factory=Counter)
    late: int = 0  # kills after the run's end
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)  # by victim, the longest that a run took to its end afterwards


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-kills-") as name:
        world = World(_cluster(Path(name)), random.Random(wanted.seed))
        try:
            _rounds(world, wanted.count)
        finally:
            world.cluster.stop()
    print(f"{wanted.count} kills {dict(world.killed)}, {world.late} of them after the run's end")
    print(f"{len(world.wrong)} wrong {world.wrong[:3]}, {len(world.lost)} lost {world.lost[:3]}")
    print("a run ended at most so many seconds after:", {who: round(took, 1) for who, took in world.ends.items()})
    return int(bool(world.wrong or world.lost))


def _cluster(root: Path) -> Cluster:
    made = Cluster(root)
    made.tools.mkdir()
    (made.tools / "c++").write_text(_COMPILER)
    (made.tools / "c++").chmod(0o755)
    (made.tools / "one.c").write_text("")
    subprocess.run(["cc", "-c", "-fPIC", "one.c"], cwd=made.tools, check=True)
    return made


def _rounds(world: World, count: int) -> None:
    for number in range(count):
        if not number % 2:
            _empty(world)
        _repair(world)
        if not number:
            world.took = _unharmed(world, "without a kill")
            _empty(world)
            _repair(world)
        _one(world)
        _repair(world)
        _look(world)
        _unharmed(world, f"after kill {number + 1}")
        if number % 50 == 49:
            print(f"  {number + 1}: {dict(world.killed)}, {len(world.wrong)} wrong, {len(world.lost)} lost", flush=True)


def _empty(world: World) -> None:
    """No worker, and nothing that any has made."""
    world.cluster.stop(all_but="scheduler")
    for name in (ASKER, *WORKERS):
        shutil.rmtree(world.cluster.root / name, ignore_errors=True)


def _repair(world: World) -> None:
    """Start whoever isn't there; workers whose scheduler is gone are started anew with it."""
    cluster = world.cluster
    if not _lives(cluster, "scheduler"):
        cluster.stop()
        cluster.scheduler()
    for name in WORKERS:
        if not _lives(cluster, name):
            cluster.worker(name)


def _lives(cluster: Cluster, name: str) -> bool:
    return name in cluster.processes and cluster.processes[name].poll() is None


def _one(world: World) -> None:
    cluster, victim = world.cluster, world.chosen.choice((ASKER, *WORKERS, "scheduler"))
    asker = cluster.ask(ASKER)
    time.sleep(world.chosen.uniform(0.2, 1.0) * world.took)
    if asker.poll() is not None:
        world.late += 1
        world.took *= 0.9
    cluster.processes[victim].kill()
    cluster.processes[victim].wait()
    world.killed["worker" if victim in WORKERS else victim] += 1
    begun = time.monotonic()
    try:
        asker.wait(_LONGEST)
    except subprocess.TimeoutExpired:
        world.wrong.append(f"goes on {_LONGEST:g} s after its {victim} was killed")
        asker.kill()
    world.ends[victim] = max(world.ends.get(victim, 0.0), time.monotonic() - begun)


def _unharmed(world: World, when: str) -> float:
    """A run that nobody is killed in must bring all kernels; its seconds."""
    begun = time.monotonic()
    world.cluster.ask(ASKER)
    try:
        ends = world.cluster.end(ASKER)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        world.lost.append(f"{when}: {error}"[:500])
        return time.monotonic() - begun
    world.lost += [
        f"{when}: {label}: {end}" for label, end in ends.items() if end not in {"compiled", "fresh", "healed"}
    ]
    _look(world)
    return time.monotonic() - begun


def _look(world: World) -> None:
    """What has a receipt must be whole: in every cache and every store."""
    for file in world.cluster.root.rglob(receipts.NAME):
        receipt = receipts.parse(file.read_bytes())
        if receipt is None or any(_digest(file.parent / name) != one.sha256 for name, one in files(receipt).items()):
            world.wrong.append(str(file.parent))


def _digest(file: Path) -> str:
    return sha256_file(file) if file.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
