"""What waits before the first compiler: `fitasks list` in a project that was never planned, of checkouts in turn.

    python bench/planning.py [--runs 5] [--kernels FILE] [CHECKOUT …]      by default this one

Each run has a directory, a cache and an assembled toolkit of its own; nothing is compiled. Prints the median and the
range of wall and of CPU seconds, children included, for each checkout. The first run of all, which reads from a cold
disk, doesn't count.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.pool import ENTRIES  # noqa: E402

KERNELS = "\n".join(['targets: ["9.0a"]', "kernels:", *(f"  {name}: {entry}" for name, entry in ENTRIES.items()), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kernels", type=Path, help="a kernels.yaml; by default bench/pool.py's eight modules")
    wanted = parser.parse_args()
    text = wanted.kernels.read_text() if wanted.kernels else KERNELS
    _once(wanted.checkouts[0], text)
    found: dict[Path, list[tuple[float, float]]] = {one: [] for one in wanted.checkouts}
    for _ in range(wanted.runs):
        for checkout, runs in found.items():
            runs.append(_once(checkout, text))
    print("| checkout | wall s | CPU s |\n|---|--:|--:|")
    for checkout, runs in found.items():
        print(f"| {checkout.name} | {_shown([wall for wall, _ in runs])} | {_shown([cpu for _, cpu in runs])} |")


def _shown(seconds: list[float]) -> str:
    return f"{median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


def _once(checkout: Path, kernels: str) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "kernels.yaml").write_text(kernels)
        places = {"FLASHINFER_WORKSPACE_BASE": str(base / "base"), "XDG_CACHE_HOME": str(base / "xdg")}
        command = [sys.executable, "-m", "fitasks", "list"]
        before, begin = _cpu(), time.perf_counter()
        subprocess.run(
            command, cwd=base, env=os.environ | places | {"PYTHONPATH": str(checkout)}, check=True, capture_output=True
        )
        return time.perf_counter() - begin, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
