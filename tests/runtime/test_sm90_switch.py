"""The hook under which a server heeds FLASHINFER_DISABLE_SM90, with the real FlashInfer's own choice of a backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fitasks.errors import EnvironmentProblem
from fitasks.runtime.sm90_switch import install, is_installed, uninstall

# A CPU-only torch tells no capability, so that a Hopper GPU has to be claimed; the choice is FlashInfer's own.
ASK = """
import torch
torch.version.cuda = "13.0"
import flashinfer.utils as utils
utils.get_compute_capability = lambda device: (9, 0)
from flashinfer.prefill import determine_attention_backend
args = (torch.device("cuda:0"), 0, False, False, torch.bfloat16, torch.bfloat16)
print(determine_attention_backend(*args))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A virtual environment that sees this one's packages: its prefix and site-packages."""
    pytest.importorskip("flashinfer", exc_type=Exception)
    prefix = tmp_path_factory.mktemp("venv") / "v"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    (site,) = (prefix / "lib").glob("python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "ours.pth").write_text("\n".join(ours) + "\n")
    return prefix, site


def backend(prefix: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLASHINFER")}
    clean |= {"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "FLASHINFER_WORKSPACE_BASE": str(prefix / "base")}
    done = subprocess.run(
        [str(prefix / "bin" / "python"), "-c", ASK], env=clean | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_with_the_variable_fa2_is_chosen_and_without_it_fa3(environment: tuple[Path, Path]) -> None:
    prefix, site = environment
    assert backend(prefix, FLASHINFER_DISABLE_SM90="1") == "fa3", "FlashInfer itself doesn't read it"
    assert install(prefix, [site]) == site
    assert is_installed([site])
    install(prefix, [site])  # once more does no harm
    assert backend(prefix, FLASHINFER_DISABLE_SM90="1") == "fa2"
    assert backend(prefix, FLASHINFER_DISABLE_SM90="0") == "fa3"
    assert backend(prefix) == "fa3"
    assert [path.name for path in uninstall(prefix, [site])] == ["fitasks_sm90_switch.pth", "fitasks_sm90_switch.py"]
    assert uninstall(prefix, [site]) == []
    assert backend(prefix, FLASHINFER_DISABLE_SM90="1") == "fa3"


def test_a_flashinfer_without_that_function_works_as_before(tmp_path: Path) -> None:
    package = tmp_path / "flashinfer"
    package.mkdir()
    (package / "__init__.py").write_text("from . import utils\n")
    (package / "utils.py").write_text("answer = 42\n")
    hook = Path(__file__).parents[2] / "fitasks" / "serving" / "sm90_switch.py"
    script = f"exec(open({str(hook)!r}).read()); import flashinfer; print(flashinfer.utils.answer)"
    env = os.environ | {"FLASHINFER_DISABLE_SM90": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
    assert "sm90 stays on" in done.stderr


def test_nothing_outside_the_environment(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(EnvironmentProblem, match="no site-packages of its own"):
        install(tmp_path / "prefix", [tmp_path / "elsewhere"])
    assert list((tmp_path / "elsewhere").iterdir()) == []
