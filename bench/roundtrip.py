"""Names of FlashInfer's default registry → kernels.yaml entries → the same names? Show 4 of "which kernels".

    python bench/roundtrip.py [TARGET]

Asks the FlashInfer of this interpreter for its default registry (9.0a by default), turns each module into an entry in
two ways, as a trace has it (generator and arguments) and from nothing but its name, merges the entries into matrices,
plans these, and compares. Prints both shares, what isn't expressible, and why. Exit status 1 if a planned name differs.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from fitasks.plan.offers import offers  # noqa: E402
from fitasks.plan.plan import Plan, make_plan  # noqa: E402
from fitasks.trace.document import added  # noqa: E402
from fitasks.trace.importing import Planning, kernel_of, kernels_in  # noqa: E402
from fitasks.trace.merge import merge  # noqa: E402
from fitasks.trace.model import Requested  # noqa: E402
from fitasks.trace.resolve import resolve  # noqa: E402

if TYPE_CHECKING:
    from fitasks.plan.offers import Op


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", default="9.0a")
    target: str = parser.parse_args().target
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "kernels.yaml").write_text(f'targets: ["{target}"]\nkernels:\n  page:\n')
        plan = make_plan(Path(directory))
        known = offers(plan.server, plan.toolkit.home, target, plan.state)
        records = registry(plan, target)
        requested = [_requested(record) for record in records if record.get("name")]
        for record in records:
            if not record.get("name"):
                print(f"not planned by the registry itself: {record['label']}: {record['error']['message']}")
        wrong = _round("from traces", plan, known, requested)
        bare = [replace(one, generator="", arguments={}) for one in requested]
        return 1 if wrong + _round("from names alone", plan, known, bare) else 0


def registry(plan: Plan, target: str) -> list[dict[str, Any]]:
    """What FlashInfer's own jit-cache wheels would hold."""
    answer = plan.state / "registry.json"
    command = [str(plan.server.python), str(ROOT / "bench" / "registry.py"), str(answer)]
    subprocess.run(command, env=plan.environment(target), check=True, capture_output=True)
    return list(json.loads(answer.read_text())["kernels"])


def _requested(record: dict[str, Any]) -> Requested:
    return Requested(record["name"], record["generator"], record["params"])


def _round(how: str, plan: Plan, known: tuple[Op, ...], requested: list[Requested]) -> int:
    """One way there and back; how many names came out that were not asked for, or didn't."""
    begin = time.perf_counter()
    ask = Planning(plan).of
    resolved, refused = resolve(requested, known, lambda entries: ask([kernel_of(entry) for entry in entries]))
    matrices = merge((one.entry for one in resolved), ())
    kernels = kernels_in(added("kernels:\n", matrices))
    given = {record.get("name") for records in Planning(plan).of(kernels).values() for record in records}
    wanted = {one.requested.name for one in resolved}
    names = {one.name for one in requested}
    share = len(wanted & given) / len(names)
    print(f"\n{how}: {len(wanted & given)} of {len(names)} names ({share:.1%}) by {len(matrices)} entries,", end=" ")
    print(f"{len(wanted ^ given)} wrong, {len(refused)} not expressible, {time.perf_counter() - begin:.1f} s")
    reasons = collections.Counter((one.requested.name, one.reason) for one in refused)
    for (name, reason), _ in sorted(reasons.items()):
        print(f"  not expressible: {name}: {reason}")
    return len(wanted ^ given)


if __name__ == "__main__":
    sys.exit(main())
