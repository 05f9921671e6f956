"""An installed package of kernels that isn't what was made: what befell it is said, whatever it is."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.compile.ninja.ninja import find_ninja
from fitasks.compile.pool.pool import Pool
from fitasks.cuda.probe import ProbeMemo
from fitasks.delivery.wheel import installed as package
from tests.delivery.wheelwright import Shop, module, unpacked
from tests.mutants import JSON, altered_json
from tests.sessions import plan_at, session_of
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of two modules."""
    root = tmp_path_factory.mktemp("made")
    workshop = Workshop(root, find_ninja(dict(os.environ), ProbeMemo(root / "probe.json")), Pool(2))
    kernels = [module(workshop, name, ("sm_90a",)) for name in ("page", "rope")]
    return Shop().add(workshop, *kernels).wheel(root / "dist")


@pytest.fixture
def site(wheel: Any, tmp_path: Path) -> Path:
    return unpacked(wheel.path, tmp_path / "site")


def test_a_whole_package_and_none(site: Path, tmp_path: Path) -> None:
    assert package.damage(site) == ""
    assert package.installed(site)
    assert (package.damage(tmp_path), package.installed(tmp_path)) == ("", None)


def manifest(site: Path) -> Path:
    return site / "fitasks_kernels" / "manifest.json"


def lost(site: Path) -> None:
    manifest(site).unlink()


def cut(site: Path) -> None:
    os.truncate(manifest(site), 100)


def nested(site: Path) -> None:
    manifest(site).write_text("[" * 200_000)


def a_pipe(site: Path) -> None:
    manifest(site).unlink()
    os.mkfifo(manifest(site))


def rewritten(site: Path, name: str = "manifest.json", **fields: object) -> None:
    file = manifest(site).with_name(name)
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def kernels(site: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(manifest(site).read_text())["kernels"]
    return found


def another_version(site: Path) -> None:
    rewritten(site, version="9.9")


def twice(site: Path) -> None:
    rewritten(site, kernels=kernels(site) * 2)


def leading_out(site: Path) -> None:
    rewritten(site, kernels=[kernels(site)[0] | {"name": "../../x"}])


def no_size(site: Path) -> None:
    rewritten(site, kernels=[kernels(site)[0] | {"size": 1e400}, kernels(site)[1]])


def no_names(site: Path) -> None:
    rewritten(site, kernels=[{"name": ["page"]}])


def no_providers(site: Path) -> None:
    rewritten(site, providers={"fitasks-sm90a": {"modules": "page"}})


def more_than_it_has(site: Path) -> None:
    rewritten(site, providers={"p": {"directory": "sm90a", "modules": ["page", "never"]}})


def no_receipts(site: Path) -> None:
    rewritten(site, "receipts.json", kernels=[])


def no_library(site: Path) -> None:
    (site / "fitasks_kernels" / "sm90a" / "page" / "page.so").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lost, "manifest.json: No such file or directory"),
        (cut, "manifest.json is not JSON"),
        (nested, "manifest.json is not JSON"),
        (a_pipe, "manifest.json: not a regular file"),
        (another_version, "manifest.json is of version '9.9', "),
        (twice, "manifest.json names a kernel twice"),
        (leading_out, "names a kernel that has no place in it: 'sm90a', '../../x'"),
        (no_size, "don't agree on a kernel: 'sm90a', 'page'"),
        (no_names, "manifest.json doesn't say which kernels it is about"),
        (no_providers, "manifest.json doesn't say what provider 'fitasks-sm90a' has"),
        (more_than_it_has, "manifest.json offers more than it has: provider 'p'"),
        (no_receipts, "don't agree on a kernel: "),
        (no_library, "page.so is missing"),
    ],
)
def test_what_befell_it_is_said(site: Path, damage: Any, said: str) -> None:
    damage(site)
    assert said in package.damage(site)
    assert package.installed(site) is None


@pytest.mark.parametrize("damage", ["", "fitasks-kernels is damaged: …"])
def test_check_says_so_where_all_kernels_are_cached(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitasks.base.errors import Silent
    from fitasks.delivery.wheel import install
    from fitasks.graph.actions import ask
    from fitasks.server import check, conditions
    from fitasks.server.verdict import Verdict
    from fitasks.ui import check_table

    said: list[str] = []
    monkeypatch.setattr(ask, "current", lambda: session_of(plan_at(tmp_path, {})))
    monkeypatch.setattr(ask, "show", said.append)
    monkeypatch.setattr(check, "check", lambda session, names: [Verdict("page", "page", "9.0a", "cached")])
    monkeypatch.setattr(conditions, "conditions", lambda session, verdicts: [])
    monkeypatch.setattr(check_table, "show_verdicts", lambda verdicts, needed, others, **_: None)
    monkeypatch.setattr(install, "damaged", lambda server: damage)
    monkeypatch.setattr(install, "notice", lambda plan: "")
    with pytest.raises(Silent) if damage else nullcontext():
        ask.check(json="", trace="", verbose=False, names=[])
    assert said == ([damage] if damage else [])


@pytest.fixture(scope="module")
def changing(wheel: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose files every example writes anew."""
    return unpacked(wheel.path, tmp_path_factory.mktemp("changing") / "site")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["manifest.json", "receipts.json"]))
def test_no_content_ends_in_a_traceback(changing: Path, data: st.DataObject, name: str) -> None:
    """Nor does an alteration of what decides anything go unnoticed, or is believed of a library."""
    file = changing / "fitasks_kernels" / name
    whole = file.read_text()
    text = data.draw(st.one_of(altered_json(whole), JSON.map(json.dumps), st.text()))
    library = changing / "fitasks_kernels" / "sm90a" / "page" / "page.so"
    try:
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        package._read.cache_clear()  # by a time that may be the same
        assert isinstance(package.damage(changing), str)
        module = package.packaged(library)
        assert module is None or isinstance(module.size, int)
        assert isinstance(package.built_with(library), str)
    finally:
        file.write_text(whole)


def test_a_package_without_a_distribution(site: Path) -> None:
    """As a copy of its directory is: there is no version to compare."""
    (info,) = site.glob("*.dist-info")
    shutil.rmtree(info)
    assert package.damage(site) == ""
    cut(site)
    assert package.damage(site).endswith("manifest.json is not JSON")
