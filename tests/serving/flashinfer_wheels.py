"""Other FlashInfer versions for the tests, and engines: wheels without dependencies, each in a directory of its own."""

import fcntl
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".test-cache"


def directory_of(version: str) -> Path | None:
    """What PYTHONPATH needs for this version of FlashInfer: nothing if the interpreter has it, else its directory."""
    return None if _installed() == version else wheel_of("flashinfer", f"flashinfer-python=={version}")


def wheel_of(name: str, requirement: str) -> Path:
    """A directory with this wheel's packages."""
    return _once(f"{name}-{requirement.rpartition('==')[2]}", requirement, _install)


def sources_of(name: str, requirement: str) -> Path:
    """A directory with this wheel's Python files alone: an engine's wheel has a gigabyte of compiled ones."""
    return _once(f"{name}-{requirement.rpartition('==')[2]}-sources", requirement, _extract)


def _once(name: str, requirement: str, fill: Callable[[str, Path], None]) -> Path:
    """Filled once, atomically, and under a lock, so that parallel test processes share one download."""
    CACHE.mkdir(exist_ok=True)
    directory = CACHE / name
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _fill(directory, requirement, fill)
    return directory


def _installed() -> str:
    try:
        return importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fill(directory: Path, requirement: str, fill: Callable[[str, Path], None]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=CACHE))
    try:
        fill(requirement, unfinished)
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _install(requirement: str, directory: Path) -> None:
    _pip("install", "--no-compile", "--target", str(directory), requirement)


def _extract(requirement: str, directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as downloaded:
        _pip("download", "--dest", downloaded, requirement)
        (wheel,) = Path(downloaded).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory, [name for name in archive.namelist() if name.endswith(".py")])


def _pip(command: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *words], check=True)
