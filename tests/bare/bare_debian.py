"""README's two commands and the suite on a bare Debian: debootstrap, the packages that README names, an ordinary user.

    python -m tests.bare.bare_debian [--suite trixie] [--directory D] [pytest's arguments]

`make test-bare`; not part of `make test`. Needs root and debootstrap, and about 12 GB in the directory (default
/var/tmp/fitasks-bare), where logs stay, and debootstrap's tree for a later run. The last commit is what is tried. Everything
is mounted in a namespace of its own, which ends with the command in it: nothing stays mounted, however that ends.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.mirrors import apt_sources, pip_configuration

ROOT = Path(__file__).parents[2]
USER = "reader"
HOME = Path("home", USER)
_PIP_LOG = HOME / "pip.log"
_PATH = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MOUNTS = """
cd "$1"; shift
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
while [ "$1" != -- ]; do mount -o bind,ro "$1" ".$1"; shift; done
shift
exec chroot "$@"
"""


class WrongError(Exception):
    """What was expected and isn't so."""


def say(line: str) -> None:
    """Print, at once."""
    print(line, flush=True)  # noqa: T201


@dataclass
class Debian:
    """A tree below `directory`, commands in it, and what they took."""

    directory: Path
    places: list[Path]  # of this machine, seen read-only by the user
    took: dict[str, float] = field(default_factory=dict)  # seconds, by step

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    def step(self, name: str, command: list[str], statuses: tuple[int, ...] = (0,)) -> str:
        """Run a command of this machine; its output, which also goes into a log."""
        say(f"{name} …")
        log, begun = self.directory / f"{re.sub('[^a-z]+', '-', name.lower())}.log", time.monotonic()
        with log.open("w") as stream:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False
            )
        self.took[name] = time.monotonic() - begun
        output = log.read_text(errors="replace")
        say(f"  {self.took[name]:.1f} s, exit status {done.returncode}, {log}")
        if done.returncode not in statuses:
            tail = "\n".join(output.splitlines()[-60:])
            raise WrongError(f"{name}: exit status {done.returncode}\n{tail}")
        return output

    def inside(self, name: str, *words: str, user: str = "root", statuses: tuple[int, ...] = (0,)) -> str:
        """Run a command in the tree; root doesn't see this machine's files."""
        places = self.places if user != "root" else []
        for place in places:
            self._mountpoint(place)
        home = f"/{HOME}" if user != "root" else "/root"
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", _MOUNTS, "sh"]
        environment = ["env", "-i", _PATH, f"HOME={home}", f"USER={user}", "LANG=C.UTF-8"]
        chroot = ["--", f"--userspec={user}:{user}", ".", *environment]
        return self.step(name, [*namespace, str(self.tree), *map(str, places), *chroot, *words], statuses)

    def as_reader(self, name: str, line: str, statuses: tuple[int, ...] = (0,)) -> str:
        """Run a line of shell as the ordinary user, in the clone where there is one."""
        return self.inside(
            name, "sh", "-c", f"cd; [ ! -d fitasks ] || cd fitasks; {line}", user=USER, statuses=statuses
        )

    def size(self, below: str = "") -> int:
        """MB on the disk."""
        command = ["du", "-smx", str(self.tree / below)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])

    def _mountpoint(self, place: Path) -> None:
        there = self.tree / place.relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            there.mkdir(exist_ok=True)
        else:
            there.touch()


def readmes_packages() -> list[str]:
    """What README tells to install on a bare machine."""
    found = re.search(r"^# apt-get install (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    if not found:
        raise WrongError("README.md has no line '# apt-get install …'")
    return found[1].split()


def make_machine(debian: Debian, suite: str) -> None:
    """Debian minimal with all updates, and a user. What debootstrap made is kept for a later run."""
    sources, base = apt_sources(suite), debian.directory / "base"
    if not base.exists():
        begun = debian.directory / "begun"
        shutil.rmtree(begun, ignore_errors=True)
        debian.step("debootstrap", ["debootstrap", "--variant=minbase", suite, str(begun), sources[0].split()[1]])
        begun.rename(base)
    debian.step("copy of debootstrap's tree", ["cp", "-a", str(base), str(debian.tree)])
    (debian.tree / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
    shutil.copy("/etc/resolv.conf", debian.tree / "etc/resolv.conf")
    debian.inside("updates", "sh", "-ec", "apt-get update; DEBIAN_FRONTEND=noninteractive apt-get -y full-upgrade")
    debian.inside("user", "useradd", "--create-home", "--shell=/bin/bash", USER)


def make_clone(debian: Debian) -> None:
    """The last commit, where the user can clone it from, and pip's configuration."""
    bare = debian.tree / "srv/fitasks.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", "--no-local", "--depth=1", f"file://{ROOT}", bare], check=True)
    config = debian.tree / HOME / ".config/pip/pip.conf"
    config.parent.mkdir(parents=True)
    config.touch(mode=0o600)
    config.write_text(f"{pip_configuration()[1]}log = /{_PIP_LOG}\n")
    owned = [str(Path("/") / path.relative_to(debian.tree)) for path in (bare, config.parents[1])]
    debian.inside("ownership", "chown", "-R", f"{USER}:{USER}", *owned)
    debian.as_reader("git clone", "git clone --quiet /srv/fitasks.git fitasks")


def readmes_commands(debian: Debian) -> list[str]:
    """Run both; what they took and said, as lines."""
    made = debian.as_reader("make kernels", "make kernels K=kernel:page")
    checked = debian.as_reader("make check", "make check K=page", statuses=(0, 2))  # make's own status is 2
    if "libcudart" in checked:  # a CPU build of torch: what check names is done
        remedy = "LD_LIBRARY_PATH=$(echo $PWD/.venv/lib/python3*/site-packages/nvidia/cu*/lib)"
        checked = debian.as_reader("make check with its remedy", f"{remedy} make check K=page")
    compiled = re.search(r"kernel:page: compiled in ([\d.]+) s", made)
    row = next((line for line in checked.splitlines() if line.split()[:1] == ["page"]), "no line about page")
    if not compiled or "cached" not in row:
        raise WrongError(f"make kernels:\n{made}\nmake check:\n{checked}")
    seconds = debian.took["make kernels"] - float(compiled[1])
    return [
        f"make kernels: {seconds:.0f} s for the environment, {compiled[1]} s for page",
        f"downloaded by pip, without what this machine's disk has: {downloaded(debian.tree / _PIP_LOG)} MB",
        f".venv: {debian.size(f'{HOME}/fitasks/.venv')} MB; ~/.cache: {debian.size(f'{HOME}/.cache')} MB",
        f"make check: {row}",
    ]


def downloaded(log: Path) -> int:
    """MB that pip has downloaded, by its log. Files of this machine are not among them."""
    found = re.findall(r"Downloading \S+ \(([\d.]+) (kB|MB|GB)\)", log.read_text(errors="replace"))
    return round(sum(float(size) * {"kB": 0.001, "MB": 1, "GB": 1000}[unit] for size, unit in found))


def attempt(debian: Debian, suite: str, tests: list[str]) -> list[str]:
    """All of it; lines about times and sizes. Raises WrongError."""
    if debian.tree.exists():
        shutil.rmtree(debian.tree)
    debian.directory.mkdir(parents=True, exist_ok=True)
    make_machine(debian, suite)
    before, packages = debian.size(), readmes_packages()
    install = "DEBIAN_FRONTEND=noninteractive apt-get -y install"
    said = debian.inside("apt-get install", "sh", "-c", f"{install} {' '.join(packages)}")
    got = re.search(r"^Need to get (.+?) of archives", said, re.MULTILINE)
    make_clone(debian)
    lines = [f"apt-get install: {got[1] if got else '?'} downloaded, {debian.size() - before} MB on the disk"]
    lines += readmes_commands(debian)
    say("\n".join(lines))
    tested = debian.as_reader("make test", f"make test K={shlex.quote(' '.join(tests))}", statuses=(0, 1))
    return [
        *lines,
        *(line for line in tested.splitlines() if re.match(r"FAILED|ERROR|=+ .*(passed|failed|error)", line)),
    ]


def main(arguments: list[str]) -> int:
    """Build, run, say; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp/fitasks-bare"))
    parser.add_argument("--suite", default="bookworm", help="a release of Debian")
    options, tests = parser.parse_known_args(arguments)
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        say("make test-bare needs root and debootstrap; apt-get install debootstrap")
        return 2
    debian = Debian(options.directory.resolve() / options.suite, pip_configuration()[0])
    try:
        lines = attempt(debian, options.suite, tests)
    except (WrongError, subprocess.CalledProcessError) as error:
        say(f"{error}\nlogs: {debian.directory}/*.log")
        return 1
    say("\n".join(["", *lines, *(f"{seconds:8.1f} s  {name}" for name, seconds in debian.took.items())]))
    return int(any(line.startswith(("FAILED", "ERROR")) for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
