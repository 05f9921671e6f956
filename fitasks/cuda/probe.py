"""What executables say of themselves (`nvcc --version`), remembered, so that a warm start runs none of them.

An answer is remembered together with the identity (path, size, mtime, ctime, inode) of every file that it rests on:
the executable and, where that is a shell script which only executes another one, all of the chain. Of any
other script, and of compiler launchers such as ccache, which answer for a compiler that they look up
themselves, nothing is remembered: what they say may change while they stay the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from fitasks.base import memo
from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

LAUNCHERS = frozenset({"ccache", "sccache", "distcc", "icecc"})
TIMEOUT_S = 30.0
_MAX_CHAIN = 8

# Variables that alter what a compiler says; answers are remembered, so they must not depend on these.
_DROPPED = frozenset({"NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "LIBRARY_PATH", "GCC_EXEC_PREFIX", "COMPILER_PATH"})

_EXEC = re.compile(r"""(?:exec\s+)?(?P<quote>["']?)(?P<path>/[^\s"'$`;|&<>()]+)(?P=quote)\s+"?\$@"?""")
_HARMLESS = re.compile(r"(?:#.*|set\s+-\w+|export\s+\w+=[^$`\s]*|)")

Identity = tuple[str, int, int, int, int]  # path, size, mtime and ctime in ns, inode


class _Entry(TypedDict):
    files: list[Identity]
    output: str


class _Memo(TypedDict):
    answers: dict[str, _Entry]  # by _key


def exec_chain(executable: Path) -> tuple[Path, ...] | None:
    """`executable`, resolved, and what it executes in turn where it is a script that does nothing else.

    The last of the chain is a binary. None where a script decides for itself what to run, or something is
    missing.
    """
    chain: list[Path] = []
    while len(chain) < _MAX_CHAIN:
        try:
            executable = executable.resolve(strict=True)
            with executable.open("rb") as stream:
                is_script = stream.read(2) == b"#!"
        except (OSError, RuntimeError):
            return None
        chain.append(executable)
        if not is_script:
            return None if executable.name in LAUNCHERS else tuple(chain)
        target = _only_command(executable)
        if target is None:
            return None
        executable = target
    return None


def _only_command(script: Path) -> Path | None:
    """The absolute path that a script hands all its arguments to, if that is all it does."""
    try:
        lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return None
    if not re.fullmatch(r"#!\s*(/usr)?/bin/(env )?(ba|da)?sh(\s+-\w+)?", lines[0]):
        return None
    commands = [line for line in lines if not _HARMLESS.fullmatch(line)]
    match = _EXEC.fullmatch(commands[0]) if len(commands) == 1 else None
    return Path(match["path"]) if match else None


def _identity(path: Path) -> Identity:
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _still_there(identity: Identity) -> bool:
    try:
        return _identity(Path(identity[0])) == tuple(identity)
    except OSError:
        return False


def _key(executable: Path, *words: str) -> str:
    return json.dumps([str(executable), *words])


def _same(entry: _Entry, files: Sequence[Identity]) -> bool:
    """Whether an answer rests on just these files; from JSON they come as lists."""
    return [tuple(file) for file in entry["files"]] == list(files)


class ProbeMemo:
    """A file of remembered answers; a corrupt or missing file is an empty one. Call `save()` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _load(path)
        self._changed = False

    @property
    def directory(self) -> Path:
        """Where memos of this kind lie."""
        return self._path.parent

    def output(self, executable: Path, *args: str) -> str:
        """What `executable *args` prints on stdout and stderr together.

        Raises EnvironmentProblem where it cannot be run, fails, or takes longer than 30 s; that is not
        remembered.
        """
        chain = exec_chain(executable)
        if chain is None:
            return _printed(executable, args)
        key = _key(executable, *args)
        files = [_identity(path) for path in chain]
        entry = self._entries.get(key)
        if entry is not None and _same(entry, files):
            return entry["output"]
        output = _printed(executable, args)
        self._entries[key] = {"files": files, "output": output}
        self._changed = True
        return output

    def failure(self, executable: Path, build: str, *args: str) -> str:
        """What `executable *args` prints where it fails; "" where it goes well or can't be run.

        `build` is what the executable says of itself: with it, answers of scripts are remembered too.
        """
        try:
            chain = exec_chain(executable) or (executable.resolve(strict=True),)
            files = [_identity(path) for path in chain]
        except (OSError, RuntimeError):
            return ""
        key = _key(executable, build, *args)
        entry = self._entries.get(key)
        if entry is None or not _same(entry, files):
            try:
                status, text = _run(executable, args)
            except EnvironmentProblem:
                return ""
            entry = self._entries[key] = {"files": files, "output": text if status else ""}
            self._changed = True
        return entry["output"]

    def options(self, executable: Path) -> frozenset[str]:
        """The long options that its `--help` lists; none where it has no such list."""
        with contextlib.suppress(EnvironmentProblem):
            return frozenset(re.findall(r"^(--[a-z-]+)", self.output(executable, "--help"), re.MULTILINE))
        return frozenset()

    def save(self) -> None:
        """Write the file if an answer was added, leaving out those whose executables are gone or changed."""
        if not self._changed:
            return
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if all(_still_there(identity) for identity in entry["files"])
        }
        memo.keep(self._path, {"answers": self._entries})
        self._changed = False


def _load(path: Path) -> dict[str, _Entry]:
    said = memo.read(path, _Memo)
    return said["answers"] if said else {}


def _printed(executable: Path, args: Sequence[str]) -> str:
    status, text = _run(executable, args)
    if status:
        last = text.strip().splitlines()[-1:] or ["no output"]
        raise EnvironmentProblem(f"{' '.join((str(executable), *args))}: exit status {status}: {last[0]}")
    return text


def _run(executable: Path, args: Sequence[str]) -> tuple[int, str]:
    command = " ".join((str(executable), *args))
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            [str(executable), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(f"{command}: no answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise EnvironmentProblem(f"{command}: {error.strerror or error}") from None
    return done.returncode, done.stdout.decode(errors="replace")
