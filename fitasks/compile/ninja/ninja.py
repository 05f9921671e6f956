"""The ninja that a server will find on its PATH, and the two logs it keeps beside a module.

Formats: `.ninja_log` is text, `.ninja_deps` binary of version 4 since ninja 1.5 (src/build_log.cc, src/deps_log.cc of
ninja 1.13). ninja 1.11 writes log version 5 and hashes commands with MurmurHash64A, 1.13 version 7 with rapidhash;
each throws the other's log away, even under `-n`, which is why questions are asked over a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base import temporary
from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fitasks.cuda.probe import ProbeMemo

LOG = ".ninja_log"
DEPS = ".ninja_deps"
_DEPS_HEADER = b"# ninjadeps\n" + struct.pack("<i", 4)
_NOTHING = "ninja: no work to do."


@dataclass(frozen=True)
class Ninja:
    """An executable and what it says of its version, e.g. "1.13.0.git.kitware.jobserver-pipe-1"."""

    executable: Path
    version: str

    def command(self, build_dir: Path, ninja_file: Path) -> list[str]:
        """As FlashInfer's run_ninja starts it."""
        return [str(self.executable), "-v", "-C", str(build_dir.resolve()), "-f", str(ninja_file.resolve())]


@dataclass(frozen=True)
class Edge:
    """One command of a build file: what it makes, from which file first, and the whole command.

    `output` is as the build file says it: FlashInfer's absolute, tvm-ffi's relative to the module's directory.
    """

    output: str
    source: str
    command: str


def find_ninja(env: Mapping[str, str], probe: ProbeMemo) -> Ninja:
    """The ninja a server with this environment will run. Raises EnvironmentProblem where there is none."""
    found = shutil.which("ninja", path=env.get("PATH"))
    if not found:
        raise EnvironmentProblem(
            "no ninja on the server's PATH; FlashInfer needs one for every kernel that isn't ahead of time",
            remedy="pip install ninja into the serving environment",
        )
    return Ninja(Path(found), probe.output(Path(found), "--version").strip())


def explain(ninja: Ninja, build_dir: Path, ninja_file: Path) -> tuple[str, ...]:
    """Why ninja would do something, in its own words; empty where it has no work to do. Changes nothing."""
    done = _dry_run(ninja, build_dir, ninja_file, "-d", "explain")
    if _NOTHING in done.stdout:
        return ()
    lines = (done.stdout + done.stderr).splitlines()
    reasons = [line.removeprefix("ninja explain: ") for line in lines if line.startswith("ninja explain: ")]
    return tuple(reasons or [line for line in lines if line.strip()][-3:] or ["ninja gave no reason"])


def unfinished(ninja: Ninja, build_dir: Path, ninja_file: Path) -> list[Edge]:
    """What ninja would run now. Changes nothing. Raises ValueError where it can't read the build file."""
    commands = set(_dry_run(ninja, build_dir, ninja_file, "-v").stdout.splitlines())
    return [edge for edge in edges(ninja, build_dir, ninja_file) if edge.command in commands]


def edges(ninja: Ninja, build_dir: Path, ninja_file: Path) -> list[Edge]:
    """What the build file says, as ninja evaluates it. Raises ValueError where it can't."""
    call = [str(ninja.executable), "-C", str(build_dir), "-f", str(ninja_file), "-t", "compdb"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    try:
        return [Edge(edge["output"], edge["file"], edge["command"]) for edge in json.loads(done.stdout)]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"ninja can't read {ninja_file}: {done.stderr.strip()}") from None


def _dry_run(ninja: Ninja, build_dir: Path, ninja_file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Over a copy of the logs, as even -n throws away what another version wrote; each command on a line of its own."""
    with temporary.directory("ninja") as scratch:
        for name in (LOG, DEPS):
            if (build_dir / name).exists():
                shutil.copy2(build_dir / name, scratch)
        build_file = logging_in(scratch, ninja_file)
        command = [str(ninja.executable), "-n", *flags, "-C", str(build_dir), "-f", str(build_file)]
        env = os.environ | {"NINJA_STATUS": ""}
        return subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", check=False)


def compiling(edges: Iterable[Edge], library: Path) -> list[Edge]:
    """Those that don't link the library."""
    return [edge for edge in edges if Path(edge.output).name != library.name]


def logging_in(place: Path, ninja_file: Path) -> Path:
    """A build file like this one, for a ninja that keeps its logs in a directory of its own, where it is written."""
    build_file = place / "build.ninja"
    build_file.write_text(f"include {_escaped(ninja_file.resolve())}\nbuilddir = {_escaped(place)}\n")
    return build_file


def _escaped(path: Path) -> str:
    """As ninja's files want it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def read_log(build_dir: Path) -> dict[str, int]:
    """Output path → recorded mtime (ns): the newest that ninja will let an input of it be."""
    recorded = {}
    for line in (build_dir / LOG).read_text(errors="replace").splitlines():
        fields = line.split("\t")
        if len(fields) == 5 and fields[2].isdecimal():
            recorded[fields[3]] = int(fields[2])
    return recorded


def read_deps(build_dir: Path) -> dict[str, tuple[str, ...]]:
    """Output path → the files its compiler read. A torn record ends the reading, as in ninja itself."""
    paths: list[str] = []
    deps: dict[str, tuple[str, ...]] = {}
    for is_deps, body in _records((build_dir / DEPS).read_bytes()):
        if is_deps:
            ids = struct.unpack(f"<{len(body) // 4}i", body[: len(body) // 4 * 4])
            if not all(0 <= index < len(paths) for index in (*ids[:1], *ids[3:])) or len(ids) < 3:
                break
            deps[paths[ids[0]]] = tuple(paths[index] for index in ids[3:])
        else:
            paths.append(body[:-4].partition(b"\0")[0].decode(errors="surrogateescape"))
    return deps


def write_deps(build_dir: Path, deps: Mapping[str, tuple[str, ...]], mtime_ns: int) -> None:
    """A fresh `.ninja_deps` that says what `deps` says, of outputs that are `mtime_ns` old."""
    ids = {
        path: index
        for index, path in enumerate(dict.fromkeys(path for out, ins in deps.items() for path in (out, *ins)))
    }
    chunks = [_DEPS_HEADER]
    for path, index in ids.items():
        name = path.encode(errors="surrogateescape")
        name += b"\0" * (-len(name) % 4)
        chunks.append(struct.pack("<I", len(name) + 4) + name + struct.pack("<I", ~index & 0xFFFFFFFF))
    for output, inputs in deps.items():
        body = struct.pack("<iq", ids[output], mtime_ns) + struct.pack(
            f"<{len(inputs)}i", *(ids[path] for path in inputs)
        )
        chunks.append(struct.pack("<I", len(body) | 0x80000000) + body)
    temporary = build_dir / f"{DEPS}.fitasks"
    temporary.write_bytes(b"".join(chunks))
    temporary.replace(build_dir / DEPS)


def _records(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """(is a deps record, body) of each whole record."""
    if not data.startswith(_DEPS_HEADER):
        return
    position = len(_DEPS_HEADER)
    while position + 4 <= len(data):
        (head,) = struct.unpack_from("<I", data, position)
        size = head & 0x7FFFFFFF
        body = data[position + 4 : position + 4 + size]
        if len(body) < size:
            return
        yield bool(head >> 31), body
        position += 4 + size
