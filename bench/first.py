"""What the first build's order is worth: the pool, simulated, with what files really take known to nobody but it.

    python bench/first.py [--slots 4,8,12,16,24,32] [--noise 0.1] [--runs 20]

Eight modules of FlashInfer 0.7.4. What their files really take is what measured.json says, but each file another random
part more or less (the standard deviation of the logarithm is `--noise`): another machine, compiler or FlashInfer. They
are ordered, and some of them split, by what families take, as before anything was shipped; by what is shipped; and by
the truth itself, as in a second build. Prints the mean, and the worst, of the time that this takes over the larger of
the two bounds that no order can beat. Not simulated: planning, judging, linking.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fitasks.compile.pool import schedule as scheduling  # noqa: E402
from fitasks.compile.pool.costs import Cost, Costs, guess  # noqa: E402
from fitasks.compile.pool.forecast import Work, makespan  # noqa: E402
from fitasks.compile.pool.measured import Measured, measured  # noqa: E402
from fitasks.plan.kernel import Kernel  # noqa: E402
from tests.measured import SECONDS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Seconds = Mapping[str, float]

NOWHERE = Path("/dev/null")
ADDED = {"quantization": ("csf_scales.cu",)}  # by 0.7.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="4,8,12,16,24,32")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--runs", type=int, default=20)
    wanted = parser.parse_args()
    kernels = list(map(_kernel, SECONDS))
    print("| slots | by families, as before | by what is shipped | second build |\n|--:|--:|--:|--:|")
    for slots in map(int, wanted.slots.split(",")):
        found = [_ratios(kernels, _truth(seed, wanted.noise), slots) for seed in range(wanted.runs)]
        columns = zip(*found, strict=True)
        print(f"| {slots} | {' | '.join(f'{fmean(one):.3f}, {max(one):.3f}' for one in columns)} |", flush=True)


def _kernel(module: str) -> Kernel:
    family = "batch_prefill_sm90" if module == "fa3" else module  # as its real name says
    sources = tuple(map(Path, (*SECONDS[module], *ADDED.get(module, ()))))
    return Kernel(module, module, module, "9.0a", "", {}, name=family, sources=sources)


def _truth(seed: int, noise: float) -> Seconds:
    dice = random.Random(seed)
    return {name: one.seconds * dice.lognormvariate(0.0, noise) for name, one in measured().files.items()}


def _ratios(kernels: Sequence[Kernel], truth: Seconds, slots: int) -> tuple[float, float, float]:
    learnt = Costs(NOWHERE, {kernel.name: _cost(kernel, truth) for kernel in kernels})
    longest = max(guess(kernel).gain * truth[one.name] for kernel in kernels for one in kernel.sources)
    bound = max(sum(learnt.of(one).cpu_seconds for one in kernels) / slots, longest)
    families, shipped = Costs(NOWHERE, shipped=Measured({})), Costs(NOWHERE)
    with patch.object(scheduling, "_CASES", 0):
        before = _took(kernels, families, truth, slots)
    return before / bound, _took(kernels, shipped, truth, slots) / bound, _took(kernels, learnt, truth, slots) / bound


def _cost(kernel: Kernel, truth: Seconds) -> Cost:
    files = {one.name: truth[one.name] for one in kernel.sources}
    return Cost(sum(files.values()), max(files.values()), 1 << 30, files=files)


def _took(kernels: Sequence[Kernel], costs: Costs, truth: Seconds, slots: int) -> float:
    """In the order, and with the threads, that `costs` lead to."""
    turns = scheduling.schedule(kernels, costs, slots, split=True).turns
    gains = {kernel.label: guess(kernel).gain for kernel in kernels}
    files = [(turn, gains[label], truth[name]) for label, turned in turns.items() for name, turn in turned.items()]
    files.sort(key=lambda file: -file[0].seconds)
    return makespan([Work(each, gain if turn.threads > 1 else 1.0, turn.patient) for turn, gain, each in files], slots)


if __name__ == "__main__":
    main()
