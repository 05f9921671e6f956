"""How long a store elsewhere takes: a whole plan of stand-in kernels from a real server, and entries that are refused.

    python bench/stores.py fetch [--modules 682] [--files 4054] [--kilobytes 60] [--server s3]
    python bench/stores.py refuse [--entries 10000]
    python bench/stores.py faults [--count 1000] [--seed 1]
    python bench/stores.py kills [--count 300] [--seed 1]
    python bench/stores.py second [--ops page,quantization,cascade,rope | --stand-ins] [--server s3]

`fetch` puts stand-ins of FlashInfer's default plan for sm_90a (682 modules, 4,054 files; no compiler made them) into
`rclone serve`, and takes them on a machine with an empty store. `refuse` reads manifests that are unsigned, signed by
another key, or altered. `faults` has a server do something wrong at random, to all that is asked or to some of it, and
looks whether what is taken then is whole. `kills` kills who puts, who fetches, and rclone, at
random moments (stores_kills.py). `second` compiles on one machine and takes it on another (stores_second.py).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' stand-ins and servers

from fitasks.store.remote import keys, manifest
from fitasks.store.remote.trouble import Refused
from tests.store.elsewhere import TOOLS, Client, Wanted, find, request, stand_in, whole
from tests.store.servers import KEYS, faulty, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.compile.receipt import Receipt
    from fitasks.config.stores import StoreRequest

FAULTS = ("500", "403", "404", "302", "gone", "wrong", "short", "long", "empty", "cut", "cut always", "endless", "hang")


def fetch(modules: int, files: int, kilobytes: int, server: str) -> None:
    """Put and take; print how long each took."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(served(root / "served", server))
        env = dict(os.environ) | {"XDG_CONFIG_HOME": str(root)}
        trust = (keys.make(keys.usual_file(env)).public,)
        receipts = made(root / "built", modules, files, kilobytes * 1000)
        size = sum(one.size for receipt in receipts for one in manifest.files(receipt).values()) / 1e6
        print(f"{server}: {modules} modules of {files} objects and {modules} libraries, {size:,.0f} MB")
        remote = Client(root / "one").remote(request(url, push=True), env)
        begun = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda one: remote.share(root / "built" / one.name, one), receipts))
        print(f"put there, signed: {time.monotonic() - begun:.1f} s, {done.count(None)} failed")
        take(Client(root / "two"), request(url, trust=trust), env, receipts)


def take(client: Client, store: StoreRequest, env: dict[str, str], receipts: list[Receipt]) -> None:
    """Have all kernels on a machine that has none."""
    chain, wanted = client.chain(store, env=env), [Wanted(one) for one in receipts]
    begun = time.monotonic()
    expected = chain.expect(wanted, {"9.0a": Judging()})  # type: ignore[arg-type,dict-item]
    asked = time.monotonic() - begun
    with ThreadPoolExecutor(16) as pool:  # doit's threads
        found = list(pool.map(lambda one: find(chain, one), receipts))
    took = time.monotonic() - begun
    good = sum(place is not None and whole(place[0], one) for place, one in zip(found, receipts, strict=True))
    print(*client.said, sep="\n")
    print(f"{len(expected)} found in {asked:.1f} s; {good} whole in the own store after {took:.1f} s")


def killed(count: int, seed: int) -> None:
    """Kill at random moments."""
    from bench.stores_kills import kills

    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "served" / "bucket").mkdir(parents=True)
        kills(Path(place), made(Path(place) / "built", 3, 12, 100_000), count, seed)


def another(ops: str, server: str, *, stand_ins: bool) -> None:
    """Have a second machine take what a first one has compiled."""
    from bench.stores_second import second

    with tempfile.TemporaryDirectory() as place, served(Path(place) / "served", server) as url:
        second(url, Path(place), ops.split(","), stand_ins=stand_ins)


def made(directory: Path, modules: int, files: int, size: int) -> list[Receipt]:
    """Stand-ins, each with a receipt of 700 headers."""
    counts = [files // modules + (place < files % modules) for place in range(modules)]
    return [
        stand_in(directory / f"m{place}", f"m{place}", files=count, size=size, headers=700)
        for place, count in enumerate(counts)
    ]


@contextmanager
def served(directory: Path, server: str) -> Iterator[str]:
    """The URL of a store that a server has in this directory."""
    (directory / "bucket").mkdir(parents=True)
    if server == "directory":
        yield f"{directory}/bucket/fi"
        return
    words = ["--auth-key", f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"] if server == "s3" else []
    with serving(server, directory, *words) as at:
        os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://{at}")
        yield "s3://bucket/fi" if server == "s3" else f"http://{at}/bucket/fi"


def faults(count: int, seed: int) -> None:
    """Take three kernels from a server that does something wrong; print how many runs believed what they shouldn't."""
    chosen = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        receipts = made(root / "built", 3, 12, 100_000)
        remote = Client(root / "one").remote(request(root / "share", push=True))
        for one in receipts:
            remote.share(root / "built" / one.name, one)
        wrong = got = 0
        lost: list[float] = []
        said: Counter[int] = Counter()
        for number in range(count):
            with faulty(root / "share") as server:
                server.fault = chosen.choice(FAULTS)
                server.only = chosen.choice(
                    ["", "/index/", "/kernels/", "/files/", chosen.choice("0123456789abcdef") * 2]
                )
                client = Client(root / f"two-{number}")
                chain, begun = client.chain(request(server.url)), time.monotonic()
                found = [find(chain, one) for one in receipts]
                lost.append(time.monotonic() - begun)
            taken = [(place, one) for place, one in zip(found, receipts, strict=True) if place]
            got += len(taken)
            wrong += sum(not whole(place[0], one) for place, one in taken)
            said[len(client.said)] += 1
            shutil.rmtree(client.root, ignore_errors=True)
            if number % 50 == 49:
                print(f"  {number + 1}: {wrong} wrong, a run lost at most {max(lost):.1f} s", flush=True)
        print(f"{count} runs with {', '.join(FAULTS)}: {got} kernels taken, {wrong} of them wrong")
        lines = dict(sorted(said.items()))
        print(f"a run lost at most {max(lost):.1f} s, median {median(lost):.2f} s; lines said: {lines}")


class Judging:
    """Judges each stand-in by what it itself wants."""

    toolchain = TOOLS

    def commands(self, kernel: Wanted) -> str:
        return kernel.receipt.commands

    def differences(self, kernel: Wanted, receipt: Receipt) -> list[str]:
        return kernel.differences(None, receipt)


def refuse(entries: int) -> None:
    """Read entries that must not be believed; print how many were, and the time that one took."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        ours, theirs = (keys.make(root / f"{name}.pem") for name in ("ours", "theirs"))
        receipt = stand_in(root / "page", files=6, headers=700)
        good = manifest.text(receipt, ours)
        bad = [manifest.text(receipt, None), manifest.text(receipt, theirs), *altered(good, entries // 2)]
        trust = (ours.public,)
        times = [timed(bad[number % len(bad)], receipt, trust) for number in range(entries)]
        taken = sum(believed for _, believed in times)
        slowest = max(seconds for seconds, _ in times) * 1000
        print(f"{entries} manifests of {len(good) / 1000:.0f} kB, unsigned, signed by another key or altered:")
        middle = median(seconds for seconds, _ in times) * 1000
        print(f"{taken} believed; CPU time: median {middle:.2f} ms, slowest {slowest:.1f} ms")
        print(f"a good one: {median(timed(good, receipt, trust)[0] for _ in range(100)) * 1000:.2f} ms")


def altered(good: bytes, count: int) -> list[bytes]:
    """Copies with one to three other bytes."""
    chosen, made = random.Random(1), []
    for _ in range(count):
        data = bytearray(good)
        for _ in range(chosen.randrange(1, 4)):
            data[chosen.randrange(len(data))] ^= chosen.randrange(1, 256)
        made.append(bytes(data))
    return made


def timed(data: bytes, receipt: Receipt, trust: tuple[str, ...]) -> tuple[float, bool]:
    """CPU seconds to read a manifest, and whether it was believed."""
    begun = time.thread_time()
    try:
        manifest.believed(data, receipt.fingerprint, trust)
    except Refused:
        return time.thread_time() - begun, False
    return time.thread_time() - begun, True


def main() -> None:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("fetch")
    one.add_argument("--modules", type=int, default=682)
    one.add_argument("--files", type=int, default=4054)
    one.add_argument("--kilobytes", type=int, default=60, help="of each file")
    one.add_argument("--server", choices=["s3", "webdav", "directory"], default="s3")
    other = ways.add_parser("refuse")
    other.add_argument("--entries", type=int, default=10_000)
    third = ways.add_parser("faults")
    third.add_argument("--count", type=int, default=1000)
    third.add_argument("--seed", type=int, default=1)
    fifth = ways.add_parser("kills")
    fifth.add_argument("--count", type=int, default=300)
    fifth.add_argument("--seed", type=int, default=1)
    fourth = ways.add_parser("second")
    fourth.add_argument("--ops", default="page,quantization,cascade,rope")
    fourth.add_argument("--stand-ins", action="store_true", help="41 modules, compiled by a stand-in for nvcc")
    fourth.add_argument("--server", choices=["s3", "webdav", "directory"], default="s3")
    given = vars(parser.parse_args())
    way = given.pop("way")
    if way == "fetch":
        fetch(**given)
    elif way == "refuse":
        refuse(**given)
    elif way == "kills":
        killed(**given)
    elif way == "second":
        another(**given)
    else:
        faults(**given)


if __name__ == "__main__":
    main()
