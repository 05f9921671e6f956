"""Real libcudarts of CUDA 12, from PyPI's wheels; fetched once into .test-cache."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".test-cache"


def site_of(version: str) -> Path:
    """A site-packages that holds nvidia-cuda-runtime-cu12 of that version and nothing else."""
    site = CACHE / f"cuda-runtime-{version}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"cuda-runtime-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not site.exists():
            scratch = tempfile.mkdtemp(dir=CACHE)
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", scratch]
            subprocess.run([*command, f"nvidia-cuda-runtime-cu12=={version}"], check=True)
            Path(scratch).rename(site)
    return site


def library_of(version: str) -> Path:
    return site_of(version) / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
