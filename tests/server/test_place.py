"""Where kernels lie: mounts that forbid, and users that may not. Real mounts and real users, where the tests may."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.server import user as users
from fitasks.server.conditions import conditions
from fitasks.server.exports import exports
from fitasks.server.mounts import mount_of
from fitasks.server.place import Place
from fitasks.server.user import User, access_of, user_of
from fitasks.server.verdict import Verdict
from tests.server.test_check import installed, predict, session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """`path` under a mount with these options, where this environment permits one."""
    for words in (["--bind", path, path], ["-o", f"remount,bind,{options}", path]):
        done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(["umount", str(path)], capture_output=True, check=False)
            pytest.skip(f"no mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may come to: pytest's own are for their owner, and any run of it sees to that."""
    with tempfile.TemporaryDirectory(prefix="fitasks-place-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def workshop(public: Path, workshop: Workshop) -> Workshop:
    return replace(workshop, root=public)


@pytest.fixture
def page(workshop: Workshop) -> Kernel:
    """Compiled, with the log and the lock that FlashInfer leaves."""
    kernel = workshop.kernel()
    workshop.build(kernel)
    (workshop.workspace / "flashinfer_jit.log").touch()
    return kernel


def asked(workshop: Workshop, kernel: Kernel, user: str = "", python: str = "/usr/bin/env") -> Verdict:
    made = session(workshop)
    serving = replace(made.plan.config.serving, user=user)
    server = replace(made.plan.server, python=Path(python))  # not in a home of ours
    made._plan = replace(made.plan, config=replace(made.plan.config, serving=serving), server=server)
    return predict(made, kernel)


def told(workshop: Workshop, kernel: Kernel, user: str = "") -> str:
    verdict = asked(workshop, kernel, user)
    return f"{verdict.state}: {verdict.reason}"


# Mounts


def test_a_noexec_mount(workshop: Workshop, page: Kernel) -> None:
    base = workshop.root / "cache"
    with mounted(base, "noexec"):
        assert told(workshop, page).startswith(
            f"would fail: {page.library} can't be loaded: {base} is mounted noexec; mount -o remount,exec {base}, or set "
        )
    assert told(workshop, page) == "cached: "


def test_a_noexec_mount_of_what_is_installed(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    venv = workshop.root / "venv"
    with mounted(venv, "noexec"):
        assert f"can't be loaded: {venv} is mounted noexec" in told(workshop, planned)
    assert told(workshop, planned) == "ahead-of-time: "


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("", "flashinfer_jit.log can't be written: {mount} is mounted read-only (`import flashinfer` opens it"),
        ("cached_ops", "cached_ops/tmp/page.lock can't be written: {mount} is mounted read-only (FlashInfer locks it"),
        ("cached_ops/tmp", "cached_ops/tmp/page.lock can't be written: {mount} is mounted read-only (FlashInfer locks"),
    ],
)
def test_a_read_only_mount(workshop: Workshop, page: Kernel, part: str, what: str) -> None:
    place = workshop.workspace / part
    with mounted(place, "ro"):
        expected = f"would fail: {workshop.workspace}/{what.format(mount=place)}"
        assert told(workshop, page).startswith(expected)


@pytest.mark.parametrize("part", ["cached_ops/page", "generated"])
def test_read_only_mounts_that_are_fine(workshop: Workshop, page: Kernel, part: str) -> None:
    """Without work ninja writes nothing (test_place_real.py); a compile would."""
    place = workshop.workspace / part
    with mounted(place, "ro"):
        assert told(workshop, page) == "cached: "
    if part.startswith("cached"):
        page.library.unlink()
        with mounted(place, "ro"):
            verdict = told(workshop, page)
        assert verdict.startswith(f"would fail: page.so is missing; {place} can't be written: {place} is mounted read-")


def test_a_module_ahead_of_time_has_its_sources_generated_all_the_same(workshop: Workshop, page: Kernel) -> None:
    planned = installed(workshop, page)
    generated = workshop.workspace / "generated"
    with mounted(generated, "ro"):
        assert told(workshop, planned) == "ahead-of-time: "
    page.sources[0].unlink()
    assert told(workshop, planned) == "ahead-of-time: "
    with mounted(generated, "ro"):
        assert told(workshop, planned).startswith(
            f"would fail: {page.sources[0]} can't be written: {generated} is mounted read-only (FlashInfer generates it"
        )


def test_the_name_of_a_mount(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text("/dev/a / ext4 rw 0 0\nnfs:/x /mnt/my\\040disk nfs4 rw 0 0\n")
    assert mount_of(Path("/mnt/my disk/cache"), table) == (Path("/mnt/my disk"), "nfs4")
    assert mount_of(Path("/mnt/my"), table) == (Path("/"), "ext4")
    assert mount_of(Path("/mnt"), tmp_path / "none") == (Path(), "")


# Users


def give(workshop: Workshop, user: str) -> None:
    """The whole cache to that user, as one server leaves it."""
    for path in (workshop.workspace, *workshop.workspace.rglob("*")):
        shutil.chown(path, user)


@as_root
def test_a_cache_of_ours_for_a_server_of_another_user(workshop: Workshop, page: Kernel) -> None:
    who = f"the server's user nobody (uid {user_of('nobody', '').uid})"  # type: ignore[union-attr]
    log = workshop.workspace / "flashinfer_jit.log"
    assert told(workshop, page, "nobody").startswith(
        f"would fail: {who} may not write {log} (`import flashinfer` opens it for writing); chown it to that user, or "
    )
    give(workshop, "nobody")
    assert told(workshop, page, "nobody") == "cached: "
    page.lock.touch()
    os.chown(page.lock, 0, 0)
    assert f"{who} may not write {page.lock} (FlashInfer locks it" in told(workshop, page, "nobody")
    page.lock.unlink()
    page.library.chmod(0o600)
    os.chown(page.library, 0, 0)
    assert told(workshop, page, "nobody").startswith(f"would fail: {who} may not read {page.library}; chmod a+r ")
    assert told(workshop, page) == "cached: ", "nothing of it is true of root"


@as_root
@pytest.mark.parametrize("name", ["build.ninja", ".ninja_log", ".ninja_deps"])
def test_what_must_be_read_before_anything_is_known(workshop: Workshop, page: Kernel, name: str) -> None:
    give(workshop, "nobody")
    file = page.build_dir / name
    os.chown(file, 0, 0)
    file.chmod(0o600)
    assert f"may not read {file}" in told(workshop, page, "nobody")


@as_root
def test_a_directory_of_ours_above_everything(workshop: Workshop, page: Kernel) -> None:
    give(workshop, "nobody")
    (workshop.root / "cache").chmod(0o700)
    assert told(workshop, page, "nobody").startswith("would fail: the server's user nobody")


@as_root
def test_a_module_to_be_compiled_needs_a_directory_that_is_theirs(workshop: Workshop, page: Kernel) -> None:
    give(workshop, "nobody")
    page.library.unlink()
    assert told(workshop, page, "nobody") == "would compile: page.so is missing"
    os.chown(page.build_dir, 0, 0)
    assert "would fail: page.so is missing; the server's user nobody (uid " in told(workshop, page, "nobody")


@as_root
def test_an_interpreter_in_a_home_of_ours(workshop: Workshop, page: Kernel) -> None:
    give(workshop, "nobody")
    python = workshop.root / "private" / "python"
    python.parent.mkdir(mode=0o700)
    shutil.copy("/usr/bin/env", python)
    verdict = asked(workshop, page, "nobody", str(python))
    assert (verdict.state, verdict.reason.partition("; ")[0].partition(") ")[2]) == (
        "would fail",
        f"may not run {python}",
    )
    python.parent.chmod(0o711)
    assert asked(workshop, page, "nobody", str(python)).state == "cached"


BITS = [
    (0o644, 0, 0, os.R_OK, True),
    (0o644, 0, 0, os.W_OK, False),
    (0o660, 0, 65534, os.W_OK, True),
    (0o606, 0, 65534, os.R_OK, False),  # the group's bits count, not the others'
    (0o400, 65534, 0, os.R_OK, True),
    (0o077, 65534, 65534, os.R_OK, False),
]


@as_root
@pytest.mark.parametrize(("mode", "uid", "gid", "wanted", "allowed"), BITS)
def test_bits_say_what_the_system_says(
    public: Path, mode: int, uid: int, gid: int, wanted: int, *, allowed: bool
) -> None:
    """As somebody who can't become that user computes it, and as root finds out."""
    somebody = User("nobody", 65534, 65534, frozenset([65534]))
    file = public / "file"
    file.touch()
    os.chown(file, uid, gid)
    file.chmod(mode)
    with access_of(somebody) as access:
        assert access(file, wanted) is allowed
    assert users._by_bits(somebody, file, wanted) is allowed


def test_an_access_control_list_may_say_something_else(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"] if path == public else [])
    somebody = User("nobody", 65534, 65534, frozenset([65534]))
    place = Place(somebody, lambda path, mode: users._by_bits(somebody, path, mode))
    found = place.importing(public)
    assert found is not None
    assert not found.known
    assert f"may make files in {public} isn't known (access control lists)" in found.reason


def test_nobody_knows_this_user(workshop: Workshop, page: Kernel) -> None:
    for written, about in {
        "no-such-user": "user 'no-such-user'",
        "4242": "user '4242'",
        "4242:nix": "group 'nix'",
    }.items():
        with pytest.raises(EnvironmentProblem) as caught:
            asked(workshop, page, written)
        assert str(caught.value).startswith(
            f"kernels.yaml: serving.user: this machine has no {about}\n  remedy: write "
        )
    assert user_of("4242:4343", "") == User("4242", 4242, 4343, frozenset([4343]))
    assert user_of("", "") is None
    assert user_of(f"{os.geteuid()}:{os.getegid()}", "") is None


def test_another_users_home_is_not_where_flashinfer_would_look(workshop: Workshop) -> None:
    made = session(workshop, HOME="/home/us")
    made.plan.server.env.pop("FLASHINFER_WORKSPACE_BASE", None)
    serving = replace(made.plan.config.serving, user="4242:4242")
    made._plan = replace(made.plan, config=replace(made.plan.config, serving=serving))
    assert "the server has FLASHINFER_WORKSPACE_BASE=/home/us, not its user's home; `doit env` prints the lines" in (
        conditions(made)
    )
    assert exports(made.plan, Path("/bin"))["FLASHINFER_WORKSPACE_BASE"] == "/home/us"
