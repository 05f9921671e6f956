"""Other FlashInfer versions for the tests, and engines: wheels without dependencies, each in a directory of its own."""

import fcntl
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".test-cache"


def directory_of(version: str) -> Path | None:
    """What PYTHONPATH needs for this version of FlashInfer: nothing if the interpreter has it, else its directory."""
    return None if _installed() == version else wheel_of("flashinfer", f"flashinfer-python=={version}")


def wheel_of(name: str, requirement: str) -> Path:
    """A directory with this wheel's packages.

    Installed once, atomically, and under a lock, so that parallel test processes share one download.
    """
    CACHE.mkdir(exist_ok=True)
    directory = CACHE / f"{name}-{requirement.rpartition('==')[2]}"
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _install(requirement, directory)
    return directory


def _installed() -> str:
    try:
        return importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _install(requirement: str, directory: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=CACHE))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    try:
        subprocess.run([*command, "--target", unfinished, requirement], check=True)
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
