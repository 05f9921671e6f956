"""Who else may change what lies at a path: owners, modes, groups, links, sticky directories."""

from __future__ import annotations

import grp
import os
import pwd
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.trust import others

if TYPE_CHECKING:
    from pathlib import Path

    Patch = pytest.MonkeyPatch

STRANGER = 64_321  # no user and no group of this machine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    """`<tmp>/home/cache/store`, all of it this user's, whom the machine calls ada."""
    (tmp_path / "home" / "cache" / "store").mkdir(parents=True)
    monkeypatch.setattr(pwd, "getpwuid", {os.geteuid(): SimpleNamespace(pw_name="ada")}.__getitem__)
    return tmp_path / "home"


def group(monkeypatch: Patch, name: str, *members: str) -> None:
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=name, gr_mem=list(members)))


def owned(monkeypatch: Patch, path: Path, uid: int | None = None, gid: int | None = None) -> None:
    """Let `path` seem to belong to somebody else: only root could make it so."""
    kind = type(path)
    really = kind.lstat

    def lstat(self: Path) -> object:
        found = really(self)
        if self != path:
            return found
        return SimpleNamespace(
            st_mode=found.st_mode,
            st_uid=found.st_uid if uid is None else uid,
            st_gid=found.st_gid if gid is None else gid,
        )

    monkeypatch.setattr(kind, "lstat", lstat)


def test_what_is_ours_alone(home: Path) -> None:
    assert others(home / "cache" / "store") == ""


def test_what_is_not_there_yet(home: Path) -> None:
    assert others(home / "nowhere" / "store") == ""


@pytest.mark.parametrize("place", [".", "cache", "cache/store"])
def test_a_directory_on_the_way_that_is_anothers(home: Path, monkeypatch: Patch, place: str) -> None:
    owned(monkeypatch, home / place, uid=STRANGER)
    assert others(home / "cache" / "store") == f"{home / place} belongs to an unknown user (uid {STRANGER})"


def test_roots_are_trusted(home: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    if home.stat().st_uid:
        pytest.skip("these directories are a user's, not root's")
    assert others(home / "cache" / "store") == ""


def test_a_sticky_directory_on_the_way(home: Path, monkeypatch: Patch) -> None:
    (home / "cache").chmod(0o1777)
    assert others(home / "cache" / "store") == ""
    assert others(home / "cache") == f"everybody may write to {home / 'cache'}"
    owned(monkeypatch, home / "cache" / "store", uid=STRANGER)
    assert others(home / "cache" / "store").endswith(f"belongs to an unknown user (uid {STRANGER})")


@pytest.mark.parametrize(
    ("name", "members", "gid", "trusted"),
    [
        ("ada", (), 5000, True),  # a private group: the umask of many distributions lets it write
        ("ada", ("ada",), 5000, True),
        ("ada", ("bob",), 5000, False),
        ("staff", (), 50, False),
        ("staff", ("ada",), 50, False),
        ("root", (), 0, True),
        ("root", ("root", "ada"), 0, True),
        ("root", ("bob",), 0, False),
        ("", (), 5000, False),
        ("", (), os.geteuid(), True),
    ],
)
def test_a_group_that_may_write(
    home: Path, monkeypatch: Patch, name: str, members: tuple[str, ...], gid: int, *, trusted: bool
) -> None:
    group(monkeypatch, name, *members)
    (home / "cache").chmod(0o775)
    owned(monkeypatch, home / "cache", gid=gid)
    said = f"group {name or gid} may write to {home / 'cache'}"
    assert others(home / "cache" / "store") == ("" if trusted else said)


def test_links_on_the_way(home: Path, monkeypatch: Patch) -> None:
    """Where a link leads counts, and who may turn it."""
    away = home.parent / "scratch"
    (away / "store").mkdir(parents=True)
    link = home / "link"
    link.symlink_to(os.path.relpath(away, home))
    assert others(link / "store") == ""
    away.chmod(0o777)
    assert others(link / "store") == f"everybody may write to {home / '..' / 'scratch'}"
    away.chmod(0o755)
    owned(monkeypatch, link, uid=STRANGER)
    assert others(link / "store") == f"{link} belongs to an unknown user (uid {STRANGER})"


def test_links_in_circles(home: Path) -> None:
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("a")
    assert "can't be looked at" in others(home / "a" / "store")


def test_a_path_that_no_file_has(home: Path) -> None:
    assert "can't be looked at (embedded null" in others(home / "a\0b")
