"""Planned names against what FlashInfer's own wrappers ask for, in several versions. Show 2 of "every prediction true".

    python bench/names.py [VERSION …] [--target 9.0a] [--only WORD] [--unasked]

Each version's wheel is installed without dependencies below .test-cache/. Its wrappers are called on CPU tensors
(wrapper_calls.py beside this says how), its modules planned by serving/plan/plan.py from entries as kernels.yaml has
them. Compared are the name and build.ninja. Prints a table and what is wrong; exit status 1 if anything is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.wrapper_calls import Configuration, configurations  # noqa: E402
from tests.serving.flashinfer_wheels import directory_of  # noqa: E402

VERSIONS = ("0.6.7.post3", "0.6.15.post1", "0.6.18.post1", "0.7.2.post1", "0.7.4")
PLAN = ROOT / "fitasks" / "serving" / "plan" / "plan.py"
ASK = Path(__file__).with_name("wrapper_calls.py")
_OWN = ("FLASHINFER_", "CUDA_", "NVCC_", "MAX_JOBS")


@dataclass(frozen=True)
class Answer:
    """What was planned for a configuration, and what the wrapper asked for: names, or why there is none."""

    label: str
    planned: str
    asked: str
    missing: bool  # this version's wrapper doesn't take it
    same_ninja: bool

    @property
    def wrong(self) -> bool:
        """Whether a server would load something other than what was planned."""
        return not self.missing and not (self.planned == self.asked and self.same_ninja)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--target", default="9.0a")
    parser.add_argument("--only", default="", help="configurations with this in their label")
    parser.add_argument(
        "--unasked", action="store_true", help="say which configurations a version's wrappers don't take"
    )
    wanted = parser.parse_args()
    chosen = [one for one in configurations() if wanted.only in one.label]
    answers = {version: compared(version, chosen, wanted.target) for version in wanted.versions}
    print(f"| FlashInfer, {wanted.target} | configurations | same name and build.ninja | wrong | not in this version |")
    print("|---|--:|--:|--:|--:|")
    for version, found in answers.items():
        wrong, missing = (sum(getattr(one, what) for one in found) for what in ("wrong", "missing"))
        asked = len(found) - missing
        print(f"| {version} | {asked} | {asked - wrong} | {wrong} | {missing} |")
    told = [(version, one) for version, found in answers.items() for one in found]
    for version, one in told:
        if one.wrong or (wanted.unasked and one.missing):
            print(f"{version}: {one.label}\n  planned {one.planned}\n  asked   {one.asked}")
            print("  build.ninja differs" if one.planned == one.asked else "", end="")
    return 1 if any(one.wrong for _, one in told) else 0


def compared(version: str, chosen: list[Configuration], target: str = "9.0a") -> list[Answer]:
    """Plan the configurations with this version, and have its wrappers ask."""
    with tempfile.TemporaryDirectory(prefix="fitasks-names-") as name:
        base = Path(name)
        env = environment(base, version, target)
        request = base / "request.json"
        request.write_text(json.dumps(_request(chosen)), encoding="utf-8")
        planned = _answer_of([PLAN, request], base / "planned.json", env)
        asked = _answer_of([ASK], base / "asked.json", env, [one.label for one in chosen])
    return [_compared(one, planned["kernels"][at], asked[one.label]) for at, one in enumerate(chosen)]


def _compared(one: Configuration, planned: dict[str, Any], asked: dict[str, str]) -> Answer:
    name = planned.get("name") or planned["error"]["message"]
    same = planned.get("ninja") == asked.get("ninja")
    return Answer(one.label, name, asked.get("name") or asked["missing"], "missing" in asked, same)


def _request(chosen: list[Configuration]) -> dict[str, Any]:
    kernels = [{"id": at, "op": one.op, "params": one.params} for at, one in enumerate(chosen)]
    return {"version": 1, "sm90": True, "kernels": kernels}


def _answer_of(script: list[Path], answer: Path, env: dict[str, str], more: list[str] | None = None) -> Any:
    command = [sys.executable, *map(str, script), str(answer), *(more or [])]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if not answer.exists():
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-4000:]}")
    said = json.loads(answer.read_text(encoding="utf-8"))
    if "fatal" in said:
        raise SystemExit(f"{command[1]}: {said['fatal']['message']}; {said['fatal']['remedy']}")
    return said


def environment(base: Path, version: str, target: str) -> dict[str, str]:
    """A server's of that version, with nothing of the developer's own, and a toolkit that can only say its release."""
    nvcc = base / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n", encoding="utf-8")
    nvcc.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    return {
        **clean,
        "PYTHONPATH": str(directory_of(version) or ""),
        "CUDA_HOME": str(base / "cuda"),
        "FLASHINFER_WORKSPACE_BASE": str(base),
        "FLASHINFER_CUDA_ARCH_LIST": target,
        "FLASHINFER_USE_CUDA_NORM": "1",  # the server loads norm from nvcc then, and CuTe-DSL's otherwise
    }


if __name__ == "__main__":
    sys.exit(main())
