"""Which cuda-toolkit fits what is installed: torch's pin first, then the packages that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.components import install_command, pip_command
from fitasks.cuda.release import pip_release
from tests.cuda.fake_toolkit import put
from tests.cuda.toolkit_world import World

if TYPE_CHECKING:
    from pathlib import Path

# As the METADATA of torch 2.15.0 and 2.11.0+cu130 has them.
NEW = 'Requires-Dist: cuda-toolkit[cublas,cudart,nvrtc]==13.2.2; platform_system == "Linux"\n'
OLD = 'Requires-Dist: nvidia-cuda-runtime==13.0.96; platform_system == "Linux" and platform_machine == "x86_64"\n'
CUDA12 = 'Requires-Dist: nvidia-cuda-runtime-cu12==12.8.90; platform_system == "Linux"\n'


def torch(site: Path, requires: str) -> None:
    put(site / "torch-2.15.0.dist-info" / "METADATA", f"Name: torch\nRequires-Dist: filelock\n{requires}\n\nText\n")


@pytest.mark.parametrize(
    ("requires", "release", "why"),
    [
        (NEW, "13.2.2", "torch 2.15.0 pins cuda-toolkit 13.2.2"),
        (NEW.replace("==13.2.2", " (==13.2.2)"), "13.2.2", "torch 2.15.0 pins cuda-toolkit 13.2.2"),
        (OLD, "13.0.*", "torch 2.15.0 pins nvidia-cuda-runtime 13.0.96"),
        (CUDA12, "13.0.*", ""),
        ("", "13.0.*", ""),
    ],
)
def test_what_torch_pins(tmp_path: Path, requires: str, release: str, why: str) -> None:
    torch(tmp_path, requires)
    assert pip_release([tmp_path]) == (release, why)


def test_what_is_installed_where_torch_pins_nothing(tmp_path: Path) -> None:
    (tmp_path / "nvidia_cuda_runtime-13.1.80.dist-info").mkdir()
    assert pip_release([tmp_path / "none", tmp_path]) == ("13.1.*", "nvidia-cuda-runtime 13.1.80 is installed")
    (tmp_path / "cuda_toolkit-13.3.0.dist-info").mkdir()
    assert pip_release([tmp_path]) == ("13.3.*", "cuda-toolkit 13.3.0 is installed")
    torch(tmp_path, NEW)
    assert pip_release([tmp_path])[0] == "13.2.2"


def test_remedies_name_it(world: World) -> None:
    torch(world.site, NEW)
    with pytest.raises(EnvironmentProblem) as caught:
        world.choose()
    assert caught.value.remedy == pip_command((), "13.2.2")
    assert caught.value.remedy.endswith("]==13.2.2'")


def test_what_completes_a_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conda = tmp_path / "conda"
    (conda / "conda-meta").mkdir(parents=True)
    whole = f"conda install -p {conda} -c conda-forge cuda-toolkit cuda-version=13.0"
    assert install_command(["cublas"], conda, "13.0") == whole
    assert install_command(["cublas"], conda / "targets" / "x86_64-linux", "13.0") == whole
    put(tmp_path / "bin" / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert install_command(["cublas"], tmp_path / "cuda", "13.0") == "apt-get install libcublas-dev-13-0"
    monkeypatch.setenv("PATH", "/nowhere")
    assert install_command(["cublas"], tmp_path / "cuda", "13.0") == ""
