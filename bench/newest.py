"""Does fitasks work with a FlashInfer that is newer than the pinned one? So that a release is noticed here first.

    python bench/newest.py [--version 0.7.2.post1]      (or: make test-newest)

Asks PyPI for the newest version; where that is no newer than pyproject.toml's, says so and is done. Otherwise, and for
a version that is named, with its wheel beside this environment's other packages: does it import, and with which unmet
requirements; is the shipped kernels.yaml planned; do its wrappers ask for what is planned (names.py); does its default
registry survive a round trip through kernels.yaml (roundtrip.py); is page compiled, fresh for the server, and taken
from our wheel. Takes some minutes and one compile. Exit status 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.names import compared  # noqa: E402
from bench.upgrade import environment  # noqa: E402
from bench.wrapper_calls import configurations  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "flashinfer-python"
PLAN = ROOT / "fitasks" / "serving" / "plan" / "plan.py"


class Failed(Exception):
    """A trial's outcome is not what it should be."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", help="try this one, as if it were the newest")
    named: str | None = parser.parse_args().version
    version = named or newest()
    if not named and Version(version) <= Version(pinned()):
        print(f"{PACKAGE} {pinned()} is pinned, and PyPI has none that is newer ({version})")
        return 0
    print(f"{PACKAGE} {version}; pinned is {pinned()}")
    with tempfile.TemporaryDirectory(prefix="fitasks-newest-") as name:
        fine = [_step(what, trial, Path(name), version) for what, trial in TRIALS.items()]
    return 0 if all(fine) else 1


def pinned() -> str:
    """Return the version that pyproject.toml pins."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = next(one for one in map(Requirement, extras["flashinfer"]) if one.name == PACKAGE)
    return next(iter(found.specifier)).version


def newest() -> str:
    """Return the newest release that pip finds."""
    command = [sys.executable, "-m", "pip", "index", "versions", PACKAGE]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.match(rf"{PACKAGE} \((.+?)\)", said)
    if match is None:
        raise SystemExit(f"pip says no version of {PACKAGE}: {said[:200]}")
    return match[1]


def _step(what: str, trial: Callable[[Path, str], str], root: Path, version: str) -> bool:
    begin = time.perf_counter()
    try:
        said, fine = trial(root, version), True
    except (Failed, subprocess.CalledProcessError, SystemExit) as error:
        said, fine = f"{error}\n{getattr(error, 'stdout', '') or ''}{getattr(error, 'stderr', '') or ''}".strip(), False
    print(f"{'ok    ' if fine else 'FAILED'} {what}: {said} ({time.perf_counter() - begin:.0f} s)", flush=True)
    return fine


def _demand(fine: object, otherwise: str) -> None:
    if not fine:
        raise Failed(otherwise)


def _imports(root: Path, version: str) -> str:
    env = environment(root, version)
    site = env["PYTHONPATH"].split(os.pathsep)[0]
    said = _run([sys.executable, "-c", _REQUIREMENTS, site], root, env).splitlines()
    _demand(not said, f"unmet: {', '.join(said)}")
    return "all of its requirements are met here"


# Requirements that this environment doesn't meet. A distribution is looked for by its directory: the environment has
# another version of the same.
_REQUIREMENTS = """
import importlib.metadata as metadata, sys
from packaging.requirements import Requirement
def met(one):
    try:
        return one.specifier.contains(metadata.version(one.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
found = next(iter(metadata.distributions(name="flashinfer-python", path=[sys.argv[1]])))
wanted = [Requirement(line) for line in found.requires or ()]
wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
print(*(f"{one}" for one in wanted if not met(one)), sep="\\n", end="")
"""


def _plans(root: Path, version: str) -> str:
    project = root / "shipped"
    project.mkdir()
    for name in ("dodo.py", "kernels.yaml"):
        shutil.copy(ROOT / name, project)
    said = _doit(["list", "--all", "--status"], project, environment(root, version))
    kernels = [line.strip() for line in said.splitlines() if " kernel:" in f" {line}"]
    failed = [line for line in kernels if line.startswith("E")]
    _demand(kernels, said)
    _demand(not failed, "\n".join(failed))
    return f"{len(kernels)} tasks of the shipped kernels.yaml"


def _asks(_root: Path, version: str) -> str:
    answers = compared(version, configurations())
    wrong = [f"{one.label}: planned {one.planned}, asked {one.asked}" for one in answers if one.wrong]
    missing = [one.label for one in answers if one.missing]
    _demand(not wrong, "\n".join(wrong))
    return f"{len(answers) - len(missing)} configurations, 0 wrong; not taken: {', '.join(missing) or 'none'}"


def _round_trip(root: Path, version: str) -> str:
    said = _run([sys.executable, str(ROOT / "bench" / "roundtrip.py")], root, environment(root, version))
    return "; ".join(re.findall(r"from .*? names \(.*?\)", said))


def _compiles(root: Path, version: str) -> str:
    project = _page(root)
    env = environment(root, version)
    _doit([], project, env)
    said = _doit(["check"], project, env)
    return said.strip().splitlines()[-1]


def _provides(root: Path, version: str) -> str:
    """Our wheel, unpacked beside that FlashInfer: does it look there for page?"""
    project, env, site = _page(root), environment(root, version), root / "provider"
    _doit(["wheel"], project, env)
    wheel = next((project / "dist").glob("*.whl"))
    _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], root, env)
    (root / "request.json").write_text('{"version": 1, "kernels": [{"id": 0, "op": "page"}]}', encoding="utf-8")
    # Its .pth file is read where site-packages are, and not in a directory on PYTHONPATH.
    (root / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(site)!r})\n", encoding="utf-8")
    served = env | {"PYTHONPATH": f"{env['PYTHONPATH']}{os.pathsep}{root}", "FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
    _run([sys.executable, str(PLAN), str(root / "request.json"), str(root / "planned.json")], root, served)
    found = json.loads((root / "planned.json").read_text(encoding="utf-8"))["kernels"][0]["aot"]
    _demand(found, f"FlashInfer does not find page in {wheel.name}")
    return wheel.name


def _page(root: Path) -> Path:
    project = root / "page"
    if not project.exists():
        project.mkdir()
        shutil.copy(ROOT / "dodo.py", project)
        (project / "kernels.yaml").write_text('targets: ["9.0a"]\nkernels:\n  page:\n', encoding="utf-8")
    return project


def _doit(words: list[str], project: Path, env: dict[str, str]) -> str:
    return _run([sys.executable, "-m", "doit", *words], project, env)


def _run(command: list[str], directory: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=True)
    return done.stdout


TRIALS = {
    "requirements": _imports,
    "plan": _plans,
    "names": _asks,
    "round trip": _round_trip,
    "compile": _compiles,
    "provider": _provides,
}


if __name__ == "__main__":
    sys.exit(main())
