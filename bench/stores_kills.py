"""Killing those who put, those who fetch, and the server between them, at random moments: `bench/stores.py kills`."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.store.remote import layout
from fitasks.store.remote.manifest import files
from tests.store.elsewhere import whole
from tests.store.servers import serving
from tests.store.test_remote_kills import start

if TYPE_CHECKING:
    from fitasks.compile.receipt import Receipt

_LONGEST = 60.0  # seconds that a run whose server is gone may take, on a busy machine


@dataclass
class World:
    """A server's directory, a machine's own store, kernels, and what was found. Both places outlive the killed."""

    root: Path
    receipts: list[Receipt]
    chosen: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    late: int = 0  # those that had ended before
    wrong: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)  # seconds that a run took to its end after its server's

    @property
    def bucket(self) -> Path:
        """What the server serves, as it lies on its disk."""
        return self.root / "served" / "bucket"

    @property
    def own(self) -> Path:
        """The store of the machine that fetches."""
        return self.root / "two"


def kills(root: Path, receipts: list[Receipt], count: int, seed: int) -> None:
    """Print how many were killed at work, and whether anything was believed or lost that shouldn't be."""
    world = World(root, receipts, random.Random(seed))
    took = {what: _run(world, what) for what in ("put", "fetch")}
    print({what: f"{seconds:.1f} s" for what, seconds in took.items()}, "without a kill", flush=True)
    for number in range(count):
        _one(world, took)
        if number % 50 == 49:
            print(f"  {number + 1}: {dict(world.killed)}, {len(world.wrong)} wrong", flush=True)
    lost = [what for what in ("put", "fetch") if not _run(world, what)]
    lacking = [one.name for one in receipts if not list(world.own.glob(f"{one.name}/{one.fingerprint}"))]
    print(f"{count} kills at random moments ({dict(world.killed)}; {world.late} came after the end):")
    print(f"{len(world.wrong)} wrong {world.wrong[:3]}; lost afterwards: {lost + lacking}")
    print(f"a run whose server was killed ended after {max(world.ends, default=0.0):.1f} s at most")


def _run(world: World, what: str) -> float:
    """One to its end, with a server; its seconds, 0 where not all kernels came through."""
    with serving("webdav", world.root / "served") as at:
        world.bucket.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        process = _started(world, what, at)
        said, _ = process.communicate(timeout=_LONGEST)
        return time.monotonic() - begun if said.startswith(f"{len(world.receipts)} ") else 0.0


def _started(world: World, what: str, at: str) -> subprocess.Popen[str]:
    own = world.own if what == "fetch" else world.root / "one"
    return start(what, own, f"http://{at}/bucket/fi", world.root / "built", world.receipts)


def _one(world: World, took: dict[str, float]) -> None:
    what, victim = world.chosen.choice(("put", "fetch")), world.chosen.choice(("client", "client", "server"))
    if what == "put" and world.chosen.random() < 0.5:
        shutil.rmtree(world.bucket / "fi", ignore_errors=True)
    if what == "fetch" and world.chosen.random() < 0.5:
        shutil.rmtree(world.own, ignore_errors=True)
    with serving("webdav", world.root / "served") as at:
        process = _started(world, what, at)
        time.sleep(world.chosen.uniform(0.2, 1.0) * took[what])
        if process.poll() is not None:  # it has become quicker since that was measured
            world.late += 1
            took[what] *= 0.8
        if victim == "client":
            process.kill()
            process.communicate()
    world.killed[victim if victim == "server" else what] += 1  # the server has just been killed in any case
    begun = time.monotonic()
    try:
        process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        world.wrong.append(f"{what} goes on without its server")
        process.kill()
    if victim == "server":
        world.ends.append(time.monotonic() - begun)
    _look(world)


def _look(world: World) -> None:
    """What has a name must be whole: an entry of the own store, and every file that a manifest names."""
    for one in world.receipts:
        for place in world.own.glob(f"{one.name}/{one.fingerprint}"):
            if not whole(place, one):
                world.wrong.append(str(place))
        if (world.bucket / "fi" / layout.at(layout.KERNELS, one.fingerprint)).exists():
            for output in files(one).values():
                if _digest(world.bucket / "fi" / layout.at(layout.FILES, output.sha256)) != output.sha256:
                    world.wrong.append(f"{one.name}: a manifest without {output.sha256[:12]}")


def _digest(file: Path) -> str:
    with suppress(OSError):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return ""
