"""The user that a server runs as, and what that user may do with a file.

The system is asked about ourselves; about another user as well where we are root: a child becomes that user and tries.
Otherwise permission bits are computed, and where an access control list may say something else, nothing is known.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ACL = "system.posix_acl_access"

# Everything is imported before the child becomes a user who may not be able to read the interpreter's files.
_CHILD = """
import json, os, sys
uid, gid, groups = json.loads(sys.argv[1])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
print("ready", flush=True)
for line in sys.stdin:
    path, mode = json.loads(line)
    print(int(os.access(path, mode)), flush=True)
"""


@dataclass(frozen=True)
class User:
    """Somebody by number; `groups` holds the first group, too."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]

    def __str__(self) -> str:
        return self.name if self.name == str(self.uid) else f"{self.name} (uid {self.uid})"


class Access(Protocol):
    """What somebody may do."""

    def __call__(self, path: Path, mode: int) -> bool | None:
        """Whether `path`, which exists, may be used so (os.R_OK | os.W_OK | os.X_OK); None where that isn't known."""


def user_of(written: str, file: str) -> User | None:
    """The user that `serving.user` names: "nobody", "1000", "1000:1000"; None where that is who we are, or none is.

    Raises EnvironmentProblem for one that this machine doesn't know.
    """
    if not written:
        return None
    name, _, group = written.partition(":")
    entry = _entry(name)
    if entry is None and not (name.isdecimal() and group):
        remedy = f"write a user of this machine, or numbers of user and group, such as {_number(name)}"
        raise EnvironmentProblem(f"{file}: serving.user: this machine has no user {name!r}", remedy=remedy)
    uid = entry.pw_uid if entry else int(name)
    gid = _group(group, file) if group else entry.pw_gid if entry else 0
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return None
    groups = os.getgrouplist(entry.pw_name, gid) if entry else [gid]
    return User(entry.pw_name if entry else name, uid, gid, frozenset(groups))


def home_of(user: User) -> str:
    """The home directory of its entry; "" for one without."""
    entry = _entry(str(user.uid))
    return entry.pw_dir if entry else ""


def _entry(name: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError, OverflowError):
        return pwd.getpwuid(int(name)) if re.fullmatch(r"[0-9]+", name) else pwd.getpwnam(name)
    return None


def _group(name: str, file: str) -> int:
    with contextlib.suppress(KeyError):
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    raise EnvironmentProblem(
        f"{file}: serving.user: this machine has no group {name!r}", remedy="write the group's number"
    )


def _number(name: str) -> str:
    return f"{name}:{name}" if name.isdecimal() else "1000:1000"


@contextlib.contextmanager
def access_of(user: User | None) -> Iterator[Access]:
    """What that user, or we ourselves, may do."""
    if user is None:
        yield os.access
    elif user.uid == 0:
        yield lambda *_: True
    elif os.geteuid() == 0:
        tried = _Tried(user)
        try:
            yield tried
        finally:
            tried.close()
    else:
        yield lambda path, mode: _by_bits(user, path, mode)


@dataclass
class _Tried:
    """A child that has become the user, from the first question on. It ends with its standard input."""

    user: User
    _child: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, path: Path, mode: int) -> bool | None:
        with self._lock:
            child = self._child = self._child or self._start()
            if child.stdin is None or child.stdout is None or child.poll() is not None:
                return _by_bits(self.user, path, mode)  # in a container that has no such user
            child.stdin.write(json.dumps([os.fspath(path), mode]) + "\n")
            child.stdin.flush()
            return child.stdout.readline() == "1\n"

    def close(self) -> None:
        """End the child."""
        if self._child:
            with self._child:  # closes its pipes, and waits
                pass

    def _start(self) -> subprocess.Popen[str]:
        who = json.dumps([self.user.uid, self.user.gid, sorted(self.user.groups)])
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if child.stdout and child.stdout.readline() != "ready\n":
            child.wait()
        return child


def _by_bits(user: User, path: Path, mode: int) -> bool | None:
    """By owner, group and mode of the file and of each directory above it. A read-only mount is asked for elsewhere."""
    answers = [_bits(user, directory, os.X_OK) for directory in path.absolute().parents]
    answers.append(_bits(user, path, mode))
    return False if False in answers else None if None in answers else True


def _bits(user: User, path: Path, mode: int) -> bool | None:
    try:
        found = path.stat()
        if _ACL in os.listxattr(path):
            return None
    except OSError:
        return None
    if found.st_uid == user.uid:
        has = found.st_mode >> 6
    elif found.st_gid in user.groups:
        has = found.st_mode >> 3
    else:
        has = found.st_mode
    return has & mode & 7 == mode
