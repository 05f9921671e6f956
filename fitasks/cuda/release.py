"""Which release of PyPI's cuda-toolkit can be installed beside what a serving environment has already.

torch pins its CUDA: from 2.12 on as a requirement `cuda-toolkit[…]==13.2.2`, before as `nvidia-cuda-runtime==13.0.96`.
pip refuses a toolkit of another release, or replaces torch's libraries.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fitasks.cuda.components import PIP_RELEASE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PINNED = re.compile(
    r"^Requires-Dist: (cuda-toolkit|nvidia-cuda-runtime)(?:\[[^\]]*\])? ?\(?==(\d+(?:\.\d+)*)", re.MULTILINE
)
_FIRST = 13  # the first CUDA whose nvcc is on PyPI


def pip_release(site_packages: Sequence[Path]) -> tuple[str, str]:
    """What to write behind `cuda-toolkit[…]==`, and why: "13.2.2", "torch pins cuda-toolkit 13.2.2"."""
    for release, why in (*_pinned(site_packages), *_installed(site_packages)):
        if int(release.split(".")[0]) >= _FIRST:
            return release, why
    return PIP_RELEASE, ""


def _pinned(site_packages: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """By torch's requirements: the toolkit's own version, or the release of the runtime."""
    for info in _found(site_packages, "torch-*.dist-info"):
        try:
            text = (info / "METADATA").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for name, version in sorted(_PINNED.findall(text)):
            exact = version if name == "cuda-toolkit" else _any_patch(version)
            yield exact, f"{info.name.removesuffix('.dist-info').replace('-', ' ')} pins {name} {version}"


def _installed(site_packages: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for stem in ("cuda_toolkit", "nvidia_cuda_nvcc", "nvidia_cuda_runtime"):
        for info in _found(site_packages, f"{stem}-*.dist-info"):
            version = info.name.removesuffix(".dist-info").rpartition("-")[2]
            if re.fullmatch(r"\d+\.\d+(\.\d+)*", version):
                yield _any_patch(version), f"{stem.replace('_', '-')} {version} is installed"


def _found(site_packages: Sequence[Path], pattern: str) -> Iterator[Path]:
    for directory in site_packages:
        try:
            yield from sorted(directory.glob(pattern))
        except OSError:
            continue


def _any_patch(version: str) -> str:
    return ".".join(version.split(".")[:2]) + ".*"
