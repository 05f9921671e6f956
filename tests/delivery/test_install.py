"""The wheel in an environment: real pip, a real virtual environment, FlashInfer's lookup in its interpreter."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile import scratch
from fitasks.delivery.wheel.install import damaged, install, notice, obstacle, uninstall
from fitasks.plan.kernel import Artefact
from fitasks.plan.plan import Plan
from fitasks.plan.server import find_package
from tests.delivery import official
from tests.delivery.wheelwright import Shop, flashinfer, module, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.workshop import Workshop

pytestmark = pytest.mark.usefixtures("flashinfer")

# Where FlashInfer's lookup finds the package, in an interpreter that has FlashInfer's version and nothing else of it.
_FOUND = """
import sys, types
sys.modules["flashinfer.version"] = types.SimpleNamespace(__version__="0.7.2.post1")
import flashinfer_jit_cache
print([sorted(provider.modules) for provider in flashinfer_jit_cache.get_jit_cache_providers()])
"""


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    return directory / "bin" / "python"


def site_of(python: Path) -> Path:
    (found,) = (python.parent.parent / "lib").glob("python*/site-packages")
    return found


def plan_for(made: Shop, python: Path, site: Path, version: str = "0.7.2.post1") -> Plan:
    plan = made.stocked(site, flashinfer(version)).plan
    targets = {name: replace(target, flashinfer=version) for name, target in plan.targets.items()}
    env = {"PATH": os.environ["PATH"], "HOME": str(site.parent)}  # not in it: pip asks rustc, which writes there
    server = replace(plan.server, python=python, env=env, site_directories=(site,))
    return replace(plan, targets=targets, server=server)


def shop(workshop: Workshop, *more: str) -> Shop:
    return Shop().add(workshop, *(module(workshop, name, ("sm_90a",)) for name in ("page", *more)))


def contents(site: Path) -> set[str]:
    return {
        str(path.relative_to(site)) for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def test_installed_found_replaced_and_taken_out(venv: Path, workshop: Workshop, tmp_path: Path) -> None:
    site, made = site_of(venv), shop(workshop)
    before = contents(site)
    plan = plan_for(made, venv, site)
    install(plan, made.wheel(tmp_path / "dist").path)
    assert subprocess.run([venv, "-m", "pip", "check"], capture_output=True, check=False).returncode == 0
    ask = [str(venv), "-c", _FOUND]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "[['page']]\n"

    first = find_package("fitasks-kernels", (site,))
    assert first is not None
    made.add(workshop, module(workshop, "rope", ("sm_90a",)))
    wheel = made.wheel(tmp_path / "dist")
    install(plan, wheel.path)
    second = find_package("fitasks-kernels", (site,))
    assert second is not None
    assert second.version == wheel.version
    assert second.digest != first.digest
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "[['page', 'rope']]\n"
    library = site / "fitasks_kernels" / "sm90a" / "page" / "page.so"
    with zipfile.ZipFile(wheel.path) as archive:
        assert library.read_bytes() == archive.read("fitasks_kernels/sm90a/page/page.so")

    assert uninstall(plan.server) == wheel.version
    assert contents(site) == before
    assert uninstall(plan.server) == ""


def test_a_damaged_installation_is_mended(venv: Path, workshop: Workshop, tmp_path: Path) -> None:
    site, made = site_of(venv), shop(workshop)
    plan, wheel = plan_for(made, venv, site), made.wheel(tmp_path / "dist").path
    install(plan, wheel)
    library = site / "fitasks_kernels" / "sm90a" / "page" / "page.so"
    whole = library.read_bytes()
    library.write_bytes(b"damaged")
    install(plan, wheel)
    assert library.read_bytes() == whole
    uninstall(plan.server)


def test_what_pip_says_is_passed_on(venv: Path, workshop: Workshop, tmp_path: Path) -> None:
    made = shop(workshop)
    wheel = made.wheel(tmp_path / "dist").path
    other = wheel.rename(wheel.with_name(wheel.name.replace("x86_64", "riscv64").replace("aarch64", "riscv64")))
    with pytest.raises(EnvironmentProblem) as caught:
        install(plan_for(made, venv, site_of(venv)), other)
    assert str(caught.value) == (
        f"{venv} -m pip install --force-reinstall --no-deps --no-index {other} failed:\n"
        f"  ERROR: {other.name} is not a supported wheel on this platform."
    )


def without_pip(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare" / "bin" / "python"


def test_uv_where_there_is_no_pip(workshop: Workshop, tmp_path: Path) -> None:
    python, made = without_pip(tmp_path), shop(workshop)
    plan, wheel = plan_for(made, python, site_of(python)), made.wheel(tmp_path / "dist").path
    calls, info = tmp_path / "calls", f"{site_of(python)}/fitasks_kernels-*.dist-info"
    unpack = f'for wheel; do :; done; {sys.executable} -m zipfile -e "$wheel" {site_of(python)}'
    script = f'echo "$@" >> {calls}; case $2 in install) {unpack};; uninstall) rm -r {info};; esac'
    plan = uv_for(python, plan, script)
    install(plan, wheel)
    assert uninstall(plan.server) == wheel.name.split("-")[1]
    assert not list(site_of(python).glob("fitasks*")), "nor what uv left"
    assert calls.read_text() == (
        f"pip install --python {python} --reinstall --offline --no-deps --no-index {wheel}\n"
        f"pip uninstall --python {python} fitasks-kernels\n"
    )


def test_neither_pip_nor_uv(workshop: Workshop, tmp_path: Path) -> None:
    python, made = without_pip(tmp_path), shop(workshop)
    plan = plan_for(made, python, site_of(python))
    plan = replace(plan, server=replace(plan.server, env={"PATH": str(tmp_path)}))
    with pytest.raises(EnvironmentProblem) as caught:
        install(plan, made.wheel(tmp_path / "dist").path)
    assert str(caught.value) == (
        f"{python} has no pip, and there is no uv on PATH\n  remedy: {python} -m ensurepip, or install uv"
    )


@pytest.mark.parametrize(
    ("version", "theirs", "reason"),
    [
        ("0.7.2.post1", "", ""),
        ("0.7.2.post1", "0.7.2.post1+cu130", ""),
        (
            "0.7.2.post1",
            "0.6.18+cu130",
            "FlashInfer 0.7.2.post1 does not take flashinfer-jit-cache 0.6.18+cu130, nor any provider behind it",
        ),
        (
            "0.6.18.post1",
            "0.6.18.post1+cu130",
            (
                "FlashInfer 0.6.18.post1 takes ahead-of-time modules from one package only, and flashinfer-jit-cache "
                "0.6.18.post1+cu130 is installed; its modules and ours can't be there both (they can from 0.7 on)"
            ),
        ),
    ],
)
def test_refused_beside_an_official_package_that_would_hide_it(
    version: str, theirs: str, reason: str, workshop: Workshop, tmp_path: Path
) -> None:
    site, made = tmp_path / "site", shop(workshop)
    if theirs:
        official.shim(site, theirs)
    plan = plan_for(made, tmp_path / "bin" / "python", site, version)
    assert obstacle(plan.server, plan.first) == reason
    if reason:
        with pytest.raises(EnvironmentProblem) as caught:
            install(plan, tmp_path / "never.whl")
        assert str(caught.value) == (
            f"fitasks-kernels is not installed: {reason}\n"
            f"  remedy: {tmp_path}/bin/python -m pip uninstall flashinfer-jit-cache; doit install"
        )


def test_a_wheel_that_flashinfer_ignores_is_spoken_of(workshop: Workshop, tmp_path: Path) -> None:
    site, made = tmp_path / "site", shop(workshop)
    plan = plan_for(made, Path(sys.executable), site)
    assert notice(plan) == ""
    wheel = made.wheel(tmp_path / "dist")
    unpacked(wheel.path, site)
    assert notice(plan) == ""
    upgraded = plan_for(made, Path(sys.executable), site, "0.7.1")
    assert notice(upgraded) == (
        f"fitasks-kernels {wheel.version} is installed for FlashInfer 0.7.2.post1; 0.7.1 ignores it: doit install"
    )
    official.shim(site, "0.7.1+cu130")
    assert notice(plan).startswith(f"fitasks-kernels {wheel.version} is installed, but FlashInfer 0.7.2.post1 does not")
    manifest = site / "fitasks_kernels" / "manifest.json"
    manifest.write_text(json.dumps([]))
    assert notice(plan) == "", "damaged() speaks of it"
    said = (
        f"fitasks-kernels is damaged: {manifest} doesn't say which kernels it is about; doit install, or doit uninstall"
    )
    assert damaged(plan.server) == said


def test_a_wheel_where_python_reads_no_pth_file_is_spoken_of(workshop: Workshop, tmp_path: Path) -> None:
    """`pip install --target X` with PYTHONPATH=X; found all the same by an official shim's entry points."""
    site, made = tmp_path / "site", shop(workshop)
    wheel = made.wheel(tmp_path / "dist")
    unpacked(wheel.path, site)
    plan = plan_for(made, Path(sys.executable), site)
    plan = replace(plan, server=replace(plan.server, env=plan.server.env | {"PYTHONPATH": str(site)}))
    assert notice(plan) == (
        f"fitasks-kernels {wheel.version} is in {site}, a directory of PYTHONPATH, where Python reads no .pth file: "
        "FlashInfer doesn't find it; doit install"
    )
    artefact = Artefact(site / "fitasks_kernels" / "sm90a" / "page" / "page.so", ("sm90a",))
    assert notice(replace(plan, kernels=tuple(replace(one, aot=(artefact,)) for one in plan.kernels))) == ""
    assert notice(replace(plan, kernels=())) == ""


def uv_for(python: Path, plan: Plan, script: str) -> Any:
    """The plan with a uv on PATH, and no pip."""
    uv = python.parent / "uv"
    uv.write_text(f"#!/bin/sh\n{script}\n")
    uv.chmod(0o755)
    return replace(plan, server=replace(plan.server, env=plan.server.env | {"PATH": f"{uv.parent}:/usr/bin:/bin"}))


def test_an_environment_that_cannot_be_written(workshop: Workshop, tmp_path: Path) -> None:
    python, made = without_pip(tmp_path), shop(workshop)
    plan = uv_for(python, plan_for(made, python, site_of(python)), "echo 'Permission denied (os error 13)'; exit 2")
    with pytest.raises(EnvironmentProblem) as caught:
        install(plan, made.wheel(tmp_path / "dist").path)
    assert caught.value.remedy == (
        f"run this as the owner of {plan.server.prefix}; where it is read-only, install the wheel in dist/ while its "
        "image is built"
    )


def test_an_environment_that_is_the_distributions(workshop: Workshop, tmp_path: Path) -> None:
    """PEP 668, as in server images whose packages lie beside Debian's: pip and uv refuse, each in its words."""
    made = shop(workshop)
    wheel, python = made.wheel(tmp_path / "dist").path, without_pip(tmp_path)
    uv = uv_for(python, plan_for(made, python, site_of(python)), "echo 'The interpreter is externally managed'; exit 2")
    script = tmp_path / "python3"
    script.write_text('#!/bin/sh\n[ "$3" = --version ] || { echo error: externally-managed-environment; exit 1; }\n')
    script.chmod(0o755)
    pip = replace(uv, server=replace(uv.server, python=script))
    for plan, installer in ((uv, "UV"), (pip, "PIP")):
        with pytest.raises(EnvironmentProblem) as caught:
            install(plan, wheel)
        assert caught.value.remedy == (
            f"set {installer}_BREAK_SYSTEM_PACKAGES=1, as when FlashInfer was installed there"
        )


def test_the_remedy_names_the_installer_that_is_there(workshop: Workshop, tmp_path: Path) -> None:
    python, made = without_pip(tmp_path), shop(workshop)
    official.shim(site_of(python), "0.6.18+cu130")
    plan = uv_for(python, plan_for(made, python, site_of(python)), "exit 1")
    with pytest.raises(EnvironmentProblem) as caught:
        install(plan, tmp_path / "never.whl")
    assert caught.value.remedy == (
        f"{python.parent}/uv pip uninstall --python {python} flashinfer-jit-cache; doit install"
    )


@pytest.mark.parametrize(
    "name",
    [
        "fitasks-kernels.pth",
        "fitasks_kernels/__init__.py",
        "fitasks_kernels/manifest.json",
        "fitasks_kernels/receipts.json",
        "fitasks_kernels/shim/flashinfer_jit_cache/__init__.py",
        "fitasks_kernels-{version}.dist-info/entry_points.txt",
        "fitasks_kernels-{version}.dist-info/RECORD",
    ],
)
def test_a_plan_is_not_remembered_over_a_damaged_package(name: str, workshop: Workshop, tmp_path: Path) -> None:
    """FlashInfer's answer changes with each of these files, and RECORD with none of them."""
    wheel = shop(workshop).wheel(tmp_path / "dist")
    site = unpacked(wheel.path, tmp_path / "venv")
    file = site / name.format(version=wheel.version)
    whole = find_package("fitasks-kernels", (site,))
    assert whole == find_package("fitasks-kernels", (site,))
    file.write_bytes(file.read_bytes()[:-1])
    broken = find_package("fitasks-kernels", (site,))
    file.unlink()
    assert len({whole, broken, find_package("fitasks-kernels", (site,))}) == 3


# Interrupted installers

# pip, killed at one point of its work.
_KILLED = """
import os, signal, sys
from pip._internal.cli.main import main
from pip._internal.operations.install import wheel
from pip._internal.req import req_install, req_uninstall
point, calls = sys.argv.pop(1), []
def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
def saving(self, save=wheel.ZipBackedFile.save):
    killed() if self.dest_path.endswith(point.partition(" ")[2]) else save(self)
def stashing(self, path, stash=req_uninstall.StashedUninstallPathSet.stash):
    calls.append(path)
    return killed() if len(calls) > 1 else stash(self, path)
if point.startswith("before "):
    wheel.ZipBackedFile.save = saving
elif point == "aside":
    req_install.install_wheel = killed
elif point == "moving":
    req_uninstall.StashedUninstallPathSet.stash = stashing
elif point == "moved":
    req_uninstall.UninstallPathSet.commit = killed
sys.exit(main(sys.argv[1:]))
"""


def kill_pip(plan: Plan, point: str, *words: str) -> None:
    """Run pip in the plan's environment; it is killed at `point`."""
    command = [str(plan.server.python), "-c", _KILLED, point, *words]
    done = subprocess.run(command, env=plan.server.env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def ours(site: Path) -> list[str]:
    """Names of all that is in a site and wasn't there without us."""
    return sorted(path.name for path in site.iterdir() if "tasks" in path.name)


def copied(site: Path, place: Path) -> None:
    """What is ours there, to another site, or to a place where it is kept."""
    place.mkdir(exist_ok=True)
    for path in (site / name for name in ours(site)):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, place / path.name)


@pytest.fixture
def clean(venv: Path) -> Iterator[Path]:
    yield venv
    for name in ours(site_of(venv)):
        path = site_of(venv) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


POINTS = ("aside", "before page.so", "before METADATA", "before RECORD", "moved", "aside again")


@pytest.mark.parametrize("point", POINTS)
def test_an_install_that_was_killed_is_mended(point: str, clean: Path, workshop: Workshop, tmp_path: Path) -> None:
    """By the next install, and by the next uninstall: over an older version, where there is one to move aside."""
    site, made = site_of(clean), shop(workshop)
    plan, old = plan_for(made, clean, site), made.wheel(tmp_path / "old").path
    made.add(workshop, module(workshop, "rope", ("sm_90a",)))
    new = made.wheel(tmp_path / "new").path
    words = ["install", "--force-reinstall", "--no-deps", "--no-index", str(new)]
    whole = sorted(["fitasks-kernels.pth", "fitasks_kernels", f"fitasks_kernels-{new.name.split('-')[1]}.dist-info"])

    install(plan, old)
    for _ in point.split(" again"):
        kill_pip(plan, point.removesuffix(" again"), *words)
    copied(site, tmp_path / "remains")
    install(plan, new)
    assert ours(site) == whole
    assert uninstall(plan.server) == new.name.split("-")[1]
    assert ours(site) == []
    copied(tmp_path / "remains", site)
    assert uninstall(plan.server)
    assert ours(site) == []
    assert uninstall(plan.server) == ""


@pytest.mark.parametrize("point", ["moving", "moved"])
def test_an_uninstall_that_was_killed_is_mended(point: str, clean: Path, workshop: Workshop, tmp_path: Path) -> None:
    site, made = site_of(clean), shop(workshop)
    plan, wheel = plan_for(made, clean, site), made.wheel(tmp_path / "dist").path
    install(plan, wheel)
    kill_pip(plan, point, "uninstall", "--yes", "fitasks-kernels")
    assert uninstall(plan.server)
    assert ours(site) == []


def test_a_first_install_that_was_killed_is_taken_out(clean: Path, workshop: Workshop, tmp_path: Path) -> None:
    site, made = site_of(clean), shop(workshop)
    plan, wheel = plan_for(made, clean, site), made.wheel(tmp_path / "dist").path
    kill_pip(plan, "before page.so", "install", "--no-deps", "--no-index", str(wheel))
    assert ours(site) == ["fitasks-kernels.pth", "fitasks_kernels"]
    assert uninstall(plan.server) == "(what an interrupted installation left)"
    assert ours(site) == []


def test_piled_up_remains_go_and_nothing_else(clean: Path, workshop: Workshop, tmp_path: Path) -> None:
    site, made = site_of(clean), shop(workshop)
    plan, wheel = plan_for(made, clean, site), made.wheel(tmp_path / "dist").path
    others = ["~tasks_kernels", "~itasks-0.1.dist-info", "fitasks_kernels_more", "fitasks-0.1.dist-info"]
    for name in (*others, "~itasks_kernels", "~-tasks_kernels", "~~tasks_kernels-0.7.1+k1.dist-info"):
        (site / name).mkdir()
    install(plan, wheel)
    (sound,) = site.glob("fitasks_kernels-*.dist-info")
    shutil.copytree(sound, site / "fitasks_kernels-0.7.1+k2.dist-info")
    record = sound / "RECORD"
    record.write_bytes(record.read_bytes()[:300])
    (site / "fitasks_kernels-0.7.1+k2.dist-info" / "METADATA").write_bytes(b"")
    install(plan, wheel)
    assert ours(site) == sorted([*others, "fitasks-kernels.pth", "fitasks_kernels", sound.name])
    uninstall(plan.server)
    assert ours(site) == sorted(others)


def test_an_installer_that_says_well_done_is_not_believed(workshop: Workshop, tmp_path: Path) -> None:
    python, made = without_pip(tmp_path), shop(workshop)
    wheel, site = made.wheel(tmp_path / "dist"), site_of(python)
    plan = uv_for(python, plan_for(made, python, site), "exit 0")
    with pytest.raises(EnvironmentProblem) as caught:
        install(plan, wheel.path)
    info = f"fitasks_kernels-{wheel.version}.dist-info"
    assert str(caught.value) == (
        f"{python.parent}/uv reports success, but {info} is not in {site}\n"
        "  remedy: unset what sends packages elsewhere (PIP_TARGET, PIP_PREFIX, pip config list); doit install"
    )
    unpacked(wheel.path, site)
    with pytest.raises(EnvironmentProblem) as caught:
        uninstall(plan.server)
    assert str(caught.value) == (
        f"{python.parent}/uv reports success, but {site}/{info} is still there\n"
        f"  remedy: rm -r {site}/fitasks_kernels {site}/{info}"
    )


def test_one_at_a_time(workshop: Workshop, tmp_path: Path) -> None:
    made, site = shop(workshop), tmp_path / "venv"
    site.mkdir()
    plan = plan_for(made, Path(sys.executable), site)
    with scratch.claimed(site), pytest.raises(EnvironmentProblem) as caught:
        uninstall(plan.server)
    assert str(caught.value) == (f"another doit install or uninstall is at work in {site}\n  remedy: wait for its end")


def test_remains_that_cannot_be_removed(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    made, site = shop(workshop), tmp_path / "venv"
    monkeypatch.setattr(shutil, "rmtree", denied)
    (site / "fitasks_kernels").mkdir(parents=True)
    plan = plan_for(made, Path(sys.executable), site)
    with pytest.raises(EnvironmentProblem) as caught:
        uninstall(plan.server)
    assert caught.value.message == f"{site}/fitasks_kernels cannot be removed: Permission denied"
    assert caught.value.remedy.startswith(f"run this as the owner of {plan.server.prefix}")


def test_a_stop_lets_an_installer_finish(workshop: Workshop, tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches doit alone, and the installer ignores doit's SIGTERM: it has until SIGKILL."""
    python, made = without_pip(tmp_path), shop(workshop)
    wheel, site = made.wheel(tmp_path / "dist").path, site_of(python)
    script = f"cut -d' ' -f6 /proc/$$/stat > {tmp_path}/session; kill -TERM $$; {sys.executable} -m zipfile -e {wheel} {site}"
    plan = uv_for(python, plan_for(made, python, site), script)
    install(plan, wheel)
    assert int((tmp_path / "session").read_text()) != os.getsid(0)
