"""A remembered plan holds only where the directories that it names still lie where they did."""

from __future__ import annotations

from pathlib import Path

from fitasks.plan.plan import _reads, resolved


def test_a_cache_that_is_reached_through_a_link_now_is_planned_for_anew(tmp_path: Path) -> None:
    """FlashInfer resolves the paths of sources (jit/cpp_ext.py), so that its build.ninja is another one."""
    cache = tmp_path / "cache"
    cache.mkdir()
    facts = {"9.0a": {"workspace": str(cache), "arch": "90a", "flashinfer": "0.7.4"}}
    reads = {"files": {}, "directories": {}, "names": []}
    memo = {"key": {}, "kernels": [], "overruled": {}, "facts": facts, "resolved": resolved(facts), "reads": reads}
    assert memo["resolved"] == {str(cache): str(cache)}
    assert _reads(memo, {}) is not None
    cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(tmp_path / "elsewhere")
    assert _reads(memo, {}) is None
