"""Proofs on one GPU and on all of them, in one run; then on all, with a worker killed in the middle.

    python bench/gpus.py [--runs 3]        on a machine with two GPUs or more of one architecture, Hopper or later

Compiles 48 variants of decode and three small modules in a cache of its own, then runs `doit verify --force` on the
first GPU and on all of them in turn. Prints the medians (until the first proof is there torch and FlashInfer are
imported and CUDA comes up, once for each GPU), how many kernels each GPU has proven, and what became of the kernels
where `kill -9` ended one GPU's process while it was at work.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fitasks.cuda.gpus import all_gpus, visible  # noqa: E402

KERNELS = """\
targets: [auto]
kernels:
  decode:
    op: batch_decode
    dtype_q: [float16, bfloat16]
    head_dim: [64, 128, 256]
    use_sliding_window: [false, true]
    use_logits_soft_cap: [false, true]
  fp8:
    op: batch_decode
    dtype_q: [float16, bfloat16]
    dtype_kv: float8_e4m3fn
    head_dim: [64, 128, 256]
    use_sliding_window: [false, true]
    use_logits_soft_cap: [false, true]
  page:
  cascade:
  quantization:
"""
_PROVEN = re.compile(r"(\S+) \(\S+\): numerical on GPU (\S+?):")
_AFTER = 4  # proofs, of more than one GPU, before a worker is killed


@dataclass
class Proofs:
    """One `doit verify --force`: seconds in all and until the first proof, and which GPU has proven each kernel."""

    seconds: float
    first: float
    gpus: dict[str, str]
    text: str

    @property
    def spread(self) -> str:
        counts = Counter(self.gpus.values())
        return ", ".join(f"{counts[gpu]} on GPU {gpu}" for gpu in sorted(counts))


@dataclass
class Project:
    """A directory with a cache of its own."""

    root: Path

    def doit(self, *words: str, devices: str | None = None) -> subprocess.Popen[str]:
        """Begin it; both of its outputs are one pipe."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHINFER", "FITASKS"))}
        env |= {"FLASHINFER_WORKSPACE_BASE": str(self.root / "base"), "XDG_CACHE_HOME": str(self.root / "xdg")}
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")]), "PYTHONUNBUFFERED": "1"}
        env |= {"CUDA_VISIBLE_DEVICES": devices} if devices is not None else {}
        command = [sys.executable, "-m", "doit", *words]
        return subprocess.Popen(
            command, cwd=self.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def verify(self, *, devices: str | None = None, kill: bool = False) -> Proofs:
        """Prove all again; with `kill`, one GPU's process is killed when some proofs are there."""
        begin, first, lines, gpus = time.perf_counter(), math.inf, list[str](), dict[str, str]()
        process = self.doit("verify", "--force", devices=devices)
        for line in process.stdout or ():
            lines.append(line)
            if proven := _PROVEN.match(line):
                first = min(first, time.perf_counter() - begin)
                gpus[proven[1]] = proven[2]
                if kill and len(gpus) >= _AFTER and len(set(gpus.values())) > 1:
                    kill = not _kill_one(process.pid)
        if process.wait():
            print(*(line for line in lines if ": numerical " not in line), sep="", flush=True)
        return Proofs(time.perf_counter() - begin, first, gpus, "".join(lines))


def _kill_one(doit: int) -> bool:
    """Kill the first of doit's workers that is there."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            child = f"\nPPid:\t{doit}\n" in (process / "status").read_text()
            if child and b"serving/verify/verify.py" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    gpus = visible(all_gpus(), os.environ)
    if len(gpus) < 2:
        sys.exit(f"needs two GPUs; {len(gpus)} visible here")
    with tempfile.TemporaryDirectory(prefix="fitasks-gpus-") as name:
        project = Project(Path(name))
        (project.root / "dodo.py").write_text((ROOT / "dodo.py").read_text())
        (project.root / "kernels.yaml").write_text(KERNELS)
        begin = time.perf_counter()
        out, _ = project.doit().communicate()
        print(f"{out.strip().splitlines()[-1]}, in {time.perf_counter() - begin:.0f} s", flush=True)
        one, many = _compare(project, gpus[0].uuid, runs)
        print(f"\n| GPUs | `doit verify --force`, median of {runs} | first proof | kernels |\n|--:|--:|--:|---|")
        for count, proofs in ((1, one), (len(gpus), many)):
            seconds = statistics.median(proof.seconds for proof in proofs)
            first = statistics.median(proof.first for proof in proofs)
            print(f"| {count} | {seconds:.1f} s | {first:.1f} s | {proofs[-1].spread} |", flush=True)
        killed = project.verify(kill=True)
        print(f"\nwith a worker killed: {killed.seconds:.1f} s; {killed.spread}; {len(killed.gpus)} in all")
        print(*(line for line in killed.text.splitlines() if ": numerical " not in line), sep="\n")


def _compare(project: Project, first: str, runs: int) -> tuple[list[Proofs], list[Proofs]]:
    """One after the other, so that a machine that drifts does so for both."""
    pairs = [(project.verify(devices=first), project.verify()) for _ in range(runs)]
    return [one for one, _ in pairs], [many for _, many in pairs]


if __name__ == "__main__":
    main()
