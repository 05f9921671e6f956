"""A stranger with README on a bare Debian: each command to the letter, in its order, and what README shows of it.

    python -m tests.bare.stranger [--suite trixie] [--directory D] [page ...]

`make test-readme`; not part of `make test`. Needs root and debootstrap, and about 12 GB in the directory (default
/var/tmp/fitasks-bare). The last commit is what is tried. Pages are README.md and those of docs/; by default all.
readme_commands.py says how a page marks what isn't run. The stranger answers yes where apt asks.

Where this machine's torch is a CPU build, which has no libcudart as the one from PyPI has, LD_LIBRARY_PATH stands in for
it from the moment that there is a .venv; that is said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.bare.bare_debian import HOME, ROOT, USER, Debian, WrongError, make_clone, make_machine, say
from tests.bare.readme_commands import Command, Ran, commands, ran, script, sessions
from tests.mirrors import pip_configuration

_SITE = ".venv/lib/python3*/site-packages"
_CPU_BUILD = f"{_SITE}/torch-*+cpu.dist-info"
_STAND_IN = (
    f"! ls -d ~/fitasks/{_CPU_BUILD} >/dev/null 2>&1 || export LD_LIBRARY_PATH=$(echo ~/fitasks/{_SITE}/nvidia/cu*/lib)"
)
_LAST_LINES = 40


def pages(names: list[str]) -> list[Path]:
    """Those that were named, or README and then the others."""
    return [ROOT / name for name in names] or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run_all(debian: Debian, all_commands: list[Command]) -> list[Ran]:
    """In shells of the user, and of root; until one isn't what the page says."""
    done: list[Ran] = []
    for number, group in enumerate(sessions(all_commands), 1):
        if not group[0].root and not (debian.tree / HOME / "fitasks").exists():
            make_clone(debian)
        done += run(debian, number, group)
        for one in done[-len(group) :]:
            say(f"  {'FAILED' if one.problem else 'ok':6} {one.seconds:7.1f} s  {one.command}")
        if problem := next(filter(None, (told(one) for one in done[-len(group) :])), ""):
            raise WrongError(problem)
    return done


def run(debian: Debian, number: int, group: list[Command]) -> list[Ran]:
    """One shell, which goes on to the next command in what the one before has left."""
    user, text = "root" if group[0].root else USER, script(group, "" if group[0].root else _STAND_IN)
    (debian.tree / "tmp" / f"session-{number}.sh").write_text(text)
    line = f"yes | DEBIAN_FRONTEND=noninteractive bash /tmp/session-{number}.sh"
    name = f"session {'abcdefghijklmnopqrstuvwxyz'[number % 26]}, {len(group)} commands of {group[0].page}"
    return ran(group, debian.inside(name, "bash", "-c", line, user=user))


def is_cpu_build(debian: Debian) -> bool:
    """Whether the torch that pip took here has no CUDA."""
    return any((debian.tree / HOME / "fitasks").glob(_CPU_BUILD))


def told(one: Ran) -> str:
    """Which command isn't what its page says, and what it said instead; "" if it is."""
    if not one.problem:
        return ""
    return "\n".join([f"{one.command}", f"  {one.problem}; it said:", *one.said[-_LAST_LINES:]])


def summary(all_commands: list[Command], done: list[Ran]) -> list[str]:
    """How many were run, and why the others weren't."""
    reasons = Counter(one.reason for one in all_commands if one.reason)
    return [
        f"{len(done)} commands run, as README and docs have them; {sum(reasons.values())} not run:",
        *(f"  {count:3}  {reason}" for reason, count in reasons.most_common()),
    ]


def main(arguments: list[str]) -> int:
    """Build, run, say; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp/fitasks-bare"))
    parser.add_argument("--suite", default="bookworm", help="a release of Debian")
    parser.add_argument("pages", nargs="*", help="README.md, docs/server.md")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        say("make test-readme needs root and debootstrap; apt-get install debootstrap")
        return 2
    all_commands = [
        one for page in pages(options.pages) for one in commands(page.read_text(), str(page.relative_to(ROOT)))
    ]
    debian = Debian(options.directory.resolve() / options.suite, pip_configuration()[0])
    debian.directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(debian.tree, ignore_errors=True)
    try:
        make_machine(debian, options.suite)
        done = run_all(debian, all_commands)
    except (WrongError, subprocess.CalledProcessError) as error:
        say(f"{error}\nlogs: {debian.directory}/*.log")
        return 1
    if is_cpu_build(debian):
        say("torch is a CPU build here: LD_LIBRARY_PATH stood in for the libcudart of the one from PyPI")
    say("\n".join(summary(all_commands, done)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
