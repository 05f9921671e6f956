"""A remembered plan holds only where the directories that it names still lie where they did."""

from __future__ import annotations

from pathlib import Path

from fitasks.plan.remembered import holding, resolved
from fitasks.plan.target import Target


def test_a_cache_that_is_reached_through_a_link_now_is_planned_for_anew(tmp_path: Path) -> None:
    """FlashInfer resolves the paths of sources (jit/cpp_ext.py), so that its build.ninja is another one."""
    cache = tmp_path / "cache"
    cache.mkdir()
    target = Target("90a", cache, tmp_path / "flashinfer", tmp_path / "cuda", "0.7.4", "2.13.0", "0.1.16")
    targets = {"9.0a": target.as_record()}
    memo = {"key": {}, "kernels": [], "overruled": {}, "targets": targets, "resolved": resolved(targets), "written": {}}
    memo |= {"reads": {"files": {}, "directories": {}, "names": []}}
    assert resolved(targets)[str(target.generated)] == str(cache / "generated")
    assert holding(memo, {}) is not None
    cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(tmp_path / "elsewhere")
    assert holding(memo, {}) is None
