"""The hook under which a server heeds FLASHINFER_DISABLE_SM90, with the real FlashInfer's own choice of a backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.model import Config, Serving
from fitasks.cuda.probe import ProbeMemo
from fitasks.plan.server import find_server
from fitasks.server import sm90_switch
from fitasks.server.sm90_switch import install, is_installed, is_on, uninstall
from tests.doit_project import Project
from tests.serving.flashinfer_wheels import directory_of

HOOK = Path(__file__).parents[2] / "fitasks" / "serving" / "switch" / "sm90_switch.py"

# A CPU-only torch tells no capability, so that a Hopper GPU has to be claimed; the choice is FlashInfer's own.
ASK = """
import gc; gc.disable()  # half of the time that importing takes
import torch
torch.version.cuda = "13.0"
import flashinfer.gemm.gemm_base
import flashinfer.utils as utils
utils.get_compute_capability = lambda device: (9, 0)
from flashinfer.prefill import determine_attention_backend
args = (torch.device("cuda:0"), 0, False, False, torch.bfloat16, torch.bfloat16)
from flashinfer import prefill
verify = "fa2" if prefill._eagle_verify_fp8kv_sm90_disabled() else "sm90"
gemm = flashinfer.gemm.gemm_base.determine_gemm_backend(torch.device("cuda:0"))
print(determine_attention_backend(*args), gemm, verify)
"""

# 0.6.7 alone decides for GDN by the function that the switch replaces, and has nothing generic to fall back to.
ASK_GDN = """
import torch
torch.version.cuda = "13.0"
import flashinfer.utils as utils
utils.get_compute_capability = lambda device: (9, 0)
import flashinfer.gdn_prefill as gdn
print(gdn.is_sm90a_supported(0), utils.is_sm90a_supported(0))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, flashinfer: Path) -> tuple[Path, Path]:
    """A virtual environment that sees this one's packages: its prefix and site-packages."""
    prefix, site = bare(tmp_path_factory.mktemp("venv") / "v")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "ours.pth").write_text("\n".join(ours) + "\n")
    return prefix, site


def bare(prefix: Path) -> tuple[Path, Path]:
    """A virtual environment without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    (site,) = (prefix / "lib").glob("python*/site-packages")
    return prefix, site


def run(prefix: Path, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHINFER", "PYTHONPATH"))}
    clean |= {"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "FLASHINFER_WORKSPACE_BASE": str(prefix / "base")}
    python = str(prefix / "bin" / "python")
    done = subprocess.run([python, "-c", script], env=clean | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def backend(prefix: Path, **env: str) -> str:
    return run(prefix, ASK, **env).stdout.splitlines()[-1]


def test_with_the_variable_fa2_is_chosen_and_without_it_fa3(environment: tuple[Path, Path]) -> None:
    prefix, site = environment
    assert backend(prefix, FLASHINFER_DISABLE_SM90="1") == "fa3 sm90 sm90", "FlashInfer itself doesn't read it"
    assert install(prefix, [site]) == site
    assert is_installed([site])
    (site / "fitasks_sm90_switch.py").write_text("# of an earlier fitasks\n")
    assert not is_installed([site])
    install(prefix, [site])  # once more does no harm
    assert backend(prefix, FLASHINFER_DISABLE_SM90="1") == "fa2 sm80 fa2"
    assert backend(prefix, FLASHINFER_DISABLE_SM90="0") == "fa3 sm90 sm90"
    assert backend(prefix) == "fa3 sm90 sm90"
    assert [path.name for path in uninstall(prefix, [site])] == ["fitasks_sm90_switch.pth", "fitasks_sm90_switch.py"]
    assert uninstall(prefix, [site]) == []
    assert backend(prefix, FLASHINFER_DISABLE_SM90="1") == "fa3 sm90 sm90"


def test_what_has_kernels_for_hopper_alone_keeps_them(environment: tuple[Path, Path]) -> None:
    prefix, site = environment
    paths = str(flashinfer_of("0.6.7.post3"))
    install(prefix, [site])
    try:
        done = run(prefix, ASK_GDN, FLASHINFER_DISABLE_SM90="1", PYTHONPATH=paths)
    finally:
        uninstall(prefix, [site])
    assert done.stdout.splitlines()[-1] == "True False"


def flashinfer_of(version: str) -> Path:
    """A directory with that version."""
    return directory_of(version) or Path(sys.prefix)


@pytest.fixture
def fake(tmp_path: Path) -> tuple[Path, Path]:
    """An environment with the switch, and a FlashInfer that is two functions: prefix and flashinfer/utils.py."""
    prefix, site = bare(tmp_path / "v")
    install(prefix, [site])
    package = site / "flashinfer"
    package.mkdir()
    (package / "__init__.py").write_text("from . import utils\n")
    utils = package / "utils.py"
    text = "def is_sm90a_supported(device): return True\ndef determine_gemm_backend(device): return device\n"
    utils.write_text(text)
    return prefix, utils


ASK_FAKE = (
    "from flashinfer.utils import *; print(is_sm90a_supported(0), *map(determine_gemm_backend, ('sm80', 'sm90')))"
)
ON, OFF = "False sm80 sm80\n", "True sm80 sm90\n"


@pytest.mark.parametrize("word", ["1", "true", "on", "yes", "", "0", "false", "no", "off", "OFF", " 0 ", "False"])
def test_the_words_for_off(fake: tuple[Path, Path], word: str) -> None:
    on = is_on({"FLASHINFER_DISABLE_SM90": word})
    assert on == (word in {"1", "true", "on", "yes"})
    assert run(fake[0], ASK_FAKE, FLASHINFER_DISABLE_SM90=word).stdout == (ON if on else OFF)
    assert not is_on({})


def test_an_import_that_failed_is_tried_again(fake: tuple[Path, Path]) -> None:
    prefix, utils = fake
    utils.write_text("import os\nif not os.environ.get('AGAIN'): raise ImportError\n" + utils.read_text())
    script = f"import os\ntry:\n import flashinfer\nexcept ImportError: os.environ['AGAIN'] = '1'\n{ASK_FAKE}"
    assert run(prefix, script, FLASHINFER_DISABLE_SM90="1").stdout == ON


def test_a_flashinfer_without_those_functions_works_as_before(fake: tuple[Path, Path]) -> None:
    prefix, utils = fake
    utils.write_text("def is_sm90a_supported(device): return True\n")
    script = "from flashinfer.utils import *; print(is_sm90a_supported(0))"
    done = run(prefix, script, FLASHINFER_DISABLE_SM90="1")
    assert done.stdout == "False\n", "one is no reason to leave the other"
    assert "this FlashInfer has no determine_gemm_backend" in done.stderr
    utils.write_text("answer = 42\n")
    done = run(prefix, "import flashinfer; print(flashinfer.utils.answer)", FLASHINFER_DISABLE_SM90="1")
    assert done.stdout == "42\n"
    assert "this FlashInfer has no is_sm90a_supported" in done.stderr


def server(tmp_path: Path, prefix: Path, **env: str) -> Any:
    serving = Serving(python=str(prefix / "bin" / "python"))
    config = Config("kernels.yaml", serving, ("9.0a",), sm90=True, cudart="patch", kernels=())
    return find_server(config, ProbeMemo(tmp_path / "probe.json"), {"PATH": os.environ["PATH"], **env})


def test_it_goes_where_python_reads_pth_files(tmp_path: Path) -> None:
    prefix, site = bare(tmp_path / "v")
    (prefix / "src").mkdir()
    found = server(tmp_path, prefix, PYTHONPATH=str(prefix / "src"))
    assert found.site_packages[0] == prefix / "src"
    assert install(prefix, found.site_directories) == site
    assert is_installed(found.site_directories)


def test_both_names_of_one_directory_are_one(tmp_path: Path) -> None:
    prefix, site = bare(tmp_path / "v")
    other = tmp_path / "v" / "also64"
    other.symlink_to(site)
    install(prefix, [site, other])
    assert len(uninstall(prefix, [site, other])) == 2


def test_where_nothing_may_be_written_a_command_is_said_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, site = bare(tmp_path / "an environment")

    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(sm90_switch, "write_atomic", refuse)
        with pytest.raises(EnvironmentProblem, match="Permission denied") as told:
            install(prefix, [site])
    shell(told.value)
    assert is_installed([site])
    assert {path.name: path.read_text() for path in site.glob("fitasks*")} == {
        "fitasks_sm90_switch.pth": "import fitasks_sm90_switch\n",
        "fitasks_sm90_switch.py": HOOK.read_text(),
    }
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(EnvironmentProblem, match="Permission denied") as told:
            uninstall(prefix, [site])
    shell(told.value)
    assert list(site.glob("fitasks*")) == []


def shell(problem: EnvironmentProblem) -> None:
    who, _, command = problem.remedy.partition(": ")
    assert who.startswith("as the owner of ")
    subprocess.run(["sh", "-c", command], check=True)


def test_it_needs_an_interpreter_and_no_flashinfer(tmp_path: Path) -> None:
    prefix, site = bare(tmp_path / "v")
    kernels = f'serving: {{python: {prefix}/bin/python}}\ntargets: ["9.0a"]\nkernels:\n  page:\n'
    project = Project.make(tmp_path, kernels)
    assert project.doit("uninstall_sm90_switch") == f"the switch is not installed for {prefix}/bin/python\n"
    assert project.doit("install_sm90_switch").startswith(f"{site}: with FLASHINFER_DISABLE_SM90=1, ")
    assert is_installed([site])
    assert project.doit("uninstall_sm90_switch") == "".join(
        f"removed {site}/fitasks_sm90_switch.{end}\n" for end in ("pth", "py")
    )


def test_nothing_outside_the_environment(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(EnvironmentProblem, match="no site-packages of its own"):
        install(tmp_path / "prefix", [tmp_path / "elsewhere"])
    assert list((tmp_path / "elsewhere").iterdir()) == []
