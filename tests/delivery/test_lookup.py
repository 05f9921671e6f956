"""FlashInfer's own lookup, of several versions, over what a wheel installs."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from fitasks.delivery.wheel.payload.kernels import runs_on
from tests.delivery import official
from tests.delivery.wheelwright import Shop, flashinfer, looked_up, module, unpacked
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.delivery.wheel.wheel import Wheel

pytestmark = pytest.mark.usefixtures("flashinfer")

OLD = ["0.6.7.post3", "0.6.18.post1"]
NEW = ["0.7.0.post1", "0.7.2.post1", "0.7.4"]
PAGE, ROPE = "fitasks_kernels/sm90a/page/page.so", "fitasks_kernels/sm90a/rope/rope.so"


def wheel_for(version: str, workshop: Workshop, directory: Path) -> Wheel:
    page, rope = module(workshop, "page", ("sm_90a",)), module(workshop, "rope", ("sm_90a",))
    return Shop(version).add(workshop, page, rope).wheel(directory)


@pytest.mark.parametrize("version", OLD + NEW)
def test_each_module_is_found(version: str, workshop: Workshop, tmp_path: Path) -> None:
    site = unpacked(wheel_for(version, workshop, tmp_path / "dist").path, tmp_path / "site")
    found = looked_up(version, [site], ["page", "rope", "norm"], tmp_path)
    assert found == {"page": f"site/{PAGE}", "rope": f"site/{ROPE}", "norm": ""}
    assert (tmp_path / found["page"]).read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("version", OLD + NEW)
@pytest.mark.parametrize("made_for", ["0.7.3", "{version}0", "{version}.dev1"])
def test_another_version_goes_on_as_if_there_were_no_wheel(
    version: str, made_for: str, workshop: Workshop, tmp_path: Path
) -> None:
    """FlashInfer up to 0.6 would take "0.6.18.post10" for "0.6.18.post1"; up to 0.7.1 it doesn't import on a mismatch."""
    made_for = made_for.format(version=version)
    site = unpacked(wheel_for(made_for, workshop, tmp_path / "dist").path, tmp_path / "site")
    assert looked_up(version, [site], ["page"], tmp_path) == {"page": ""}
    assert f"was made for FlashInfer {made_for}, this is {version}: make a new wheel" in looked_up.stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", ["0.6.18.post1", "0.7.4"])
def test_gpus_get_what_runs_on_them(version: str, workshop: Workshop, tmp_path: Path) -> None:
    other = Workshop(tmp_path / "other", workshop.ninja, workshop.pool)
    shop = Shop(version)
    shop.add(workshop, module(workshop, "page", ("sm_90a",)))
    shop.add(other, module(other, "page", ("sm_80",)), module(other, "rope", ("sm_80",)), target="8.0", arch="80")
    site = unpacked(shop.wheel(tmp_path / "dist").path, tmp_path / "site")

    def page_and_rope(archs: str) -> list[str]:
        found = looked_up(version, [site], ["page", "rope"], tmp_path, archs)
        return [path.removeprefix("site/fitasks_kernels/") for path in found.values()]

    assert page_and_rope("9.0a") == ["sm90a/page/page.so", ""]
    assert page_and_rope("8.0") == ["sm80/page/page.so", "sm80/rope/rope.so"]
    assert page_and_rope("8.6") == ["sm80/page/page.so", "sm80/rope/rope.so"]
    assert page_and_rope("7.5") == ["", ""]
    assert page_and_rope("10.0a") == ["", ""]


@pytest.mark.parametrize("version", ["0.6.18.post1", "0.7.4"])
def test_a_mixed_host_and_a_module_for_one_of_its_gpus(version: str, workshop: Workshop, tmp_path: Path) -> None:
    page, prefill = module(workshop, "page", ("sm_80", "sm_90a")), module(workshop, "prefill_sm90", ("sm_90a",))
    shop = Shop(version).add(workshop, page, prefill, target="8.0 9.0a", arch="80_90a")
    site = unpacked(shop.wheel(tmp_path / "dist").path, tmp_path / "site")
    both = {
        "page": "site/fitasks_kernels/sm80-sm90a/page/page.so",
        "prefill_sm90": "site/fitasks_kernels/sm80-sm90a/prefill_sm90/prefill_sm90.so",
    }
    assert looked_up(version, [site], ["page", "prefill_sm90"], tmp_path, "8.0 9.0a") == both
    assert looked_up(version, [site], ["page", "prefill_sm90"], tmp_path, "9.0a") == both


@pytest.mark.parametrize("version", NEW)
def test_beside_the_official_shim_and_its_provider(version: str, workshop: Workshop, tmp_path: Path) -> None:
    """Both are found; of a module that both have, FlashInfer's own. Its shim's version names a CUDA release."""
    site = unpacked(wheel_for(version, workshop, tmp_path / "dist").path, tmp_path / "site")
    official.shim(site, f"{version}+cu130")
    official.provider(site, f"{version}+cu130", "norm", "rope")
    assert looked_up(version, [site], ["page", "rope", "norm"], tmp_path) == {
        "page": f"site/{PAGE}",
        "rope": "site/flashinfer_jit_cache/providers/sm90a/jit_cache/rope/rope.so",
        "norm": "site/flashinfer_jit_cache/providers/sm90a/jit_cache/norm/norm.so",
    }
    assert looked_up.stderr == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", NEW)
def test_after_an_upgrade_beside_the_official_ones(version: str, workshop: Workshop, tmp_path: Path) -> None:
    site = unpacked(wheel_for("0.7.0", workshop, tmp_path / "dist").path, tmp_path / "site")
    official.shim(site, f"{version}+cu130")
    official.provider(site, f"{version}+cu130", "norm")
    assert looked_up(version, [site], ["page", "norm"], tmp_path) == {
        "page": "",
        "norm": "site/flashinfer_jit_cache/providers/sm90a/jit_cache/norm/norm.so",
    }


@pytest.mark.parametrize("version", NEW)
def test_an_official_provider_without_its_shim(version: str, workshop: Workshop, tmp_path: Path) -> None:
    site = unpacked(wheel_for(version, workshop, tmp_path / "dist").path, tmp_path / "site")
    official.provider(site, f"{version}+cu130", "norm")
    official.provider(site, "0.7.3+cu130", "rope", architecture="sm90")
    assert looked_up(version, [site], ["page", "rope", "norm"], tmp_path) == {
        "page": f"site/{PAGE}",
        "rope": f"site/{ROPE}",
        "norm": "site/flashinfer_jit_cache/providers/sm90a/jit_cache/norm/norm.so",
    }


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("version", OLD)
def test_older_official_modules_are_never_hidden(
    version: str, workshop: Workshop, tmp_path: Path, *, ours_first: bool
) -> None:
    """Also where our directory comes first: a virtual environment's .pth files before the system's packages."""
    ours = unpacked(wheel_for(version, workshop, tmp_path / "dist").path, tmp_path / "ours")
    theirs = official.shim(tmp_path / "theirs", f"{version}+cu130", monolith=("norm",))
    sites = [ours, theirs] if ours_first else [theirs, ours]
    assert looked_up(version, sites, ["page", "norm"], tmp_path) == {
        "page": "",
        "norm": "theirs/flashinfer_jit_cache/jit_cache/norm/norm.so",
    }


def test_both_know_the_same_rule_of_which_code_runs_where() -> None:
    spec = importlib.util.spec_from_file_location("theirs", flashinfer("0.7.4") / "jit" / "_cuda_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["theirs"] = theirs
    spec.loader.exec_module(theirs)
    known = [
        "sm75",
        "sm80",
        "sm86",
        "sm89",
        "sm90",
        "sm90a",
        "sm100a",
        "sm100f",
        "sm103a",
        "sm107a",
        "sm120f",
        "sm121a",
    ]
    for binary in known:
        for gpu in known:
            score = theirs.cuda_binary_target_compatibility_score(binary, gpu)
            assert runs_on(binary, gpu) == (score is not None), (binary, gpu)
