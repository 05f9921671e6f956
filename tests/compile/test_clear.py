"""What may be removed is known to be what it is taken for; everything else stays."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from fitasks.base import temporary
from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import scratch
from fitasks.compile.clear import Incomplete, clear_incomplete, left_by_reset, reset, reset_targets
from fitasks.compile.receipt import NAME as RECEIPT
from fitasks.plan.modules import toolchain_of
from fitasks.plan.plan import Plan
from fitasks.plan.target import Target
from fitasks.store.local import Store
from tests.sessions import plan_at


def module(ops: Path, name: str, *files: str) -> Path:
    made = ops / name
    made.mkdir(parents=True)
    for file in files:
        (made / file).write_text("{}")
    return made


def cute_dsl(ops: Path) -> Path:
    """As FlashInfer 0.7.4 keeps them (jit/cute_dsl_core.py)."""
    return module(ops, "gdn_qk_l2norm_sm90a_cute_dsl", "meta.json", "l2norm_bf16_128.o", "other.o.tmp.4711")


def tirx(ops: Path) -> Path:
    """kda_kernels/tirx/cache.py"""
    return module(ops, "kda_tirx_" + "0" * 64, "kernel.so", "kernel.json")


def cute_dsl_without_meta(ops: Path) -> Path:
    """Being written, or killed before its commit marker."""
    return module(ops, "rmsnorm_sm90a_cute_dsl", "rmsnorm.o")


def somebodys(ops: Path) -> Path:
    return module(ops, "notes", "todo.txt")


STRANGE = [cute_dsl, cute_dsl_without_meta, tirx, somebodys]


def half(ops: Path, name: str = "page", *more: str) -> Path:
    return module(ops, name, "build.ninja", ".ninja_log", "page.cuda.o", "fitasks-begun.json", *more)


@pytest.mark.parametrize("layout", ["0.7.4/90a", "0.7.2.post1/80_90a", "90"])
@pytest.mark.parametrize("strange", STRANGE)
def test_other_toolchains_modules_are_not_incomplete(tmp_path: Path, strange: Any, layout: str) -> None:
    ops = tmp_path / layout / "cached_ops"
    theirs, ours = strange(ops), half(ops)
    assert [one.path for one in clear_incomplete(tmp_path)] == [ours]
    assert (theirs.exists(), ours.exists()) == (True, False)


@pytest.mark.parametrize("mark", ["build.ninja", ".ninja_log", "fitasks-begun.json", "fitasks-receipt.json", "page.so"])
def test_any_mark_of_a_build_is_enough(tmp_path: Path, mark: str) -> None:
    left = module(tmp_path / "0.7.4/90a/cached_ops", "page", mark)
    assert toolchain_of(left) == "nvcc"
    assert clear_incomplete(tmp_path) == [Incomplete(left, 2)]
    assert not left.exists()


def test_what_somebody_put_beside_a_half_build_stays_and_is_named(tmp_path: Path) -> None:
    left = half(tmp_path / "0.7.4/90a/cached_ops", "page", "page.so.good")
    (found,) = clear_incomplete(tmp_path)
    assert found.kept == "holds page.so.good, which no build leaves there"
    assert left.exists()


def test_an_empty_directory_goes_and_a_link_stays(tmp_path: Path) -> None:
    ops = tmp_path / "0.7.4/90a/cached_ops"
    empty = module(ops, "empty")
    (ops / "linked").symlink_to(half(tmp_path / "elsewhere"))
    assert clear_incomplete(tmp_path) == [Incomplete(empty, 0)]
    assert (ops / "linked" / "build.ninja").exists()


def plan(workspace: Path) -> Plan:
    return plan_at(workspace, {"9.0a": Target("90a", workspace, Path(), Path(), "0.7.4", "", "")})


@pytest.mark.parametrize("strange", STRANGE)
def test_reset_leaves_what_others_made(tmp_path: Path, strange: Any) -> None:
    workspace = tmp_path / "0.7.4/90a"
    theirs, ours = strange(workspace / "cached_ops"), half(workspace / "cached_ops")
    (workspace / "generated" / "page").mkdir(parents=True)
    (lock := ours.parent / "tmp" / "page.lock").parent.mkdir()
    lock.touch()
    reset(reset_targets(plan(workspace)))
    assert sorted(path.name for path in workspace.iterdir()) == ["cached_ops"]
    assert list(theirs.parent.iterdir()) == [theirs]


def test_reset_says_what_it_leaves(tmp_path: Path) -> None:
    mixed, ours = half(tmp_path / "cached_ops", "page", "notes.txt"), half(tmp_path / "cached_ops", "rope")
    assert reset_targets(plan(tmp_path)) == [ours]
    (left,) = left_by_reset(plan(tmp_path))
    assert (left.path, left.kept) == (mixed, "holds notes.txt, which no build leaves there")


def test_reset_of_what_is_held_removes_nothing(tmp_path: Path) -> None:
    from filelock import FileLock

    ours = [half(tmp_path / "cached_ops", name) for name in ("a_server_builds_it", "page")]
    (tmp_path / "cached_ops" / "tmp").mkdir()
    with FileLock(tmp_path / "cached_ops" / "tmp" / f"{ours[0].name}.lock"), pytest.raises(EnvironmentProblem) as error:
        reset(reset_targets(plan(tmp_path)))
    assert "a_server_builds_it.lock is held by another process; nothing was removed" in error.value.message
    assert all(one.exists() for one in ours)


def test_gc_takes_only_kernels_of_the_store(tmp_path: Path) -> None:
    entry = module(tmp_path / "page", "fingerprint", RECEIPT, "page.so")
    others = [
        module(tmp_path / "page", "backup", "file"),
        module(tmp_path / ".fitasks-put-abcdefgh-locked", "new", RECEIPT),
    ]
    assert {stored.path for stored in Store(tmp_path).gc(0)} == {entry}
    assert [path.exists() for path in (entry, *others)] == [False, True, True]


def test_compilers_files_of_another_containers_doit_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose process ids mean nothing here: 4194305 is above Linux's largest."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = time.time() - 3600
    theirs, killed, file = (tmp_path / f"fitasks-nvcc-{name}-locked" for name in ("4194305x", "4194305y", "4194305z"))
    theirs.mkdir()
    killed.mkdir()
    file.touch()
    for path in (theirs, killed, file):
        os.utime(path, (old, old))
    with scratch.claimed(theirs):
        temporary.sweep()
    assert (theirs.exists(), killed.exists(), file.exists()) == (True, False, True)
