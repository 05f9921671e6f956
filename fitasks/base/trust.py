"""Whether only this user and root may change what lies at a path: asked before anything that lies there is loaded.

What counts is the way there, as the kernel goes it: whoever may rename one of its directories decides what is found.
Modes and owners tell; of an access control list its mask is seen, as the group's bits.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LINKS = 40  # on one way, as the kernel allows
_GROUP, _EVERYBODY = stat.S_IWGRP, stat.S_IWOTH


def others(path: Path) -> str:
    """Return who else may put something of his own in the place of `path` or into it, in a sentence; "" if nobody may.

    A sticky directory (/tmp) on the way is no harm, as what others own in it is noticed; `path` itself being one is.
    What isn't there yet isn't anybody's.
    """
    last = path.absolute()
    for step in _way(last):
        try:
            found = step.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (OSError, ValueError) as error:
            return f"{step} can't be looked at ({getattr(error, 'strerror', None) or error})"
        if said := _owned(step, found) or _written(step, found, last=step == last):
            return said
    return ""


def _way(path: Path, links: int = _LINKS) -> Iterator[Path]:
    """Every directory and link that is passed on the way to a path, the path itself last; a link before its target."""
    for step in (*reversed(path.parents), path):
        yield step
        if step.is_symlink() and links:
            yield from _way(step.parent / step.readlink(), links - 1)


def _owned(step: Path, found: os.stat_result) -> str:
    if found.st_uid in {0, os.geteuid()}:
        return ""
    return f"{step} belongs to {_user(found.st_uid) or 'an unknown user'} (uid {found.st_uid})"


def _written(step: Path, found: os.stat_result, *, last: bool) -> str:
    """A link's bits mean nothing: who may replace it, its directory says."""
    sticky = found.st_mode & stat.S_ISVTX and not last
    if stat.S_ISLNK(found.st_mode) or sticky:
        return ""
    if found.st_mode & _EVERYBODY:
        return f"everybody may write to {step}"
    if found.st_mode & _GROUP and not _own_group(found.st_gid):
        return f"group {_group(found.st_gid)[0] or found.st_gid} may write to {step}"
    return ""


def _own_group(gid: int) -> bool:
    """Whether nobody but this user and root is in a group.

    A user's private group has his name, or his number where names aren't known: with it many distributions' umask lets
    the group write. Group 0 is root's.
    """
    me, (name, members) = _user(os.geteuid()), _group(gid)
    private = gid == 0 or (name == me if name else gid == os.geteuid())
    return private and members <= {me, "root"}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group(gid: int) -> tuple[str, set[str]]:
    """Its name, "" where it has none, and the users who are in it by /etc/group."""
    try:
        found = grp.getgrgid(gid)
    except KeyError:
        return "", set()
    return found.gr_name, set(found.gr_mem)
