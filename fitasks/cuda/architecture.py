"""GPU architectures as FlashInfer and nvcc write them, and which code runs on which GPU."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_GENCODE = re.compile(r"-gencode[= ]arch=\w+,code=\[?([\w,]+)")
_ONE = re.compile(r"(sm|compute|ptx)_?(\d{1,2})(\d)([af]?)")


def single(arch: str) -> tuple[str, ...]:
    """FlashInfer's name of an architecture set as single ones: "80_90a" → ("sm80", "sm90a")."""
    return tuple(f"sm{one}" for one in re.findall(r"\d+[af]?", arch))


def is_one(architecture: str) -> bool:
    """Return whether this is a GPU architecture: "sm_90a", "sm90a", "compute_90"."""
    return _ONE.fullmatch(architecture) is not None


def members(arch: str) -> tuple[str, ...]:
    """FlashInfer's name of an architecture set as its members' names: "80_90a" → ("80", "90a")."""
    return tuple(filter(None, arch.split("_")))


def together(gpus: Iterable[str]) -> str:
    """FlashInfer's name of the set of these: ("sm80", "sm90a") → "80_90a"."""
    return "_".join(gpu.removeprefix("sm") for gpu in gpus)


def capabilities(target: str, built: Collection[str] = ()) -> list[str]:
    """The architectures of a target as GPUs say them ("8.0 9.0a" → 8.0, 9.0), of those that run what is `built`.

    A module of Hopper's alone has no code for the 8.0 of such a target; one for the family sm_120f has some for 12.1a.
    """
    return [word.rstrip("af") for word in target.split() if with_code(built, [f"sm{word.replace('.', '')}"])]


def declared(ninja: str) -> tuple[str, ...]:
    """What a build.ninja tells nvcc to make: ("sm_80", "sm_90a"), "compute_90" for PTX; sorted."""
    codes = (code for group in _GENCODE.findall(ninja) for code in group.split(","))
    return tuple(sorted(set(codes)))


def runs_on(code: str, gpu: str) -> bool:
    """Return whether `code` ("sm_90a"; "compute_80", "ptx_80": PTX, which the driver compiles) runs on `gpu` ("sm90a").

    CUDA's rules (nvcc's manual, "Architecture-specific and family-specific features"): what ends in "a" is for that
    very GPU, machine code and what ends in "f" for GPUs of the same major number that aren't older, other PTX for
    every GPU that isn't older. Raises ValueError for what is no architecture.
    """
    kind, major, minor, suffix = _parts(code)
    _, gpu_major, gpu_minor, _ = _parts(gpu)
    if suffix == "a":
        return (major, minor) == (gpu_major, gpu_minor)
    if kind != "sm" and not suffix:
        return (major, minor) <= (gpu_major, gpu_minor)
    return major == gpu_major and minor <= gpu_minor


def fitting(ninja: str, gpus: Iterable[str]) -> tuple[str, ...]:
    """Those of `gpus` that a module with this build.ninja has code for.

    All where it has no code for GPUs at all, or some in words that are not known here ("native").
    """
    codes = declared(ninja)
    if not all(map(_ONE.fullmatch, codes)):
        return tuple(gpus)
    return with_code(codes, gpus)


def with_code(codes: Collection[str], gpus: Iterable[str]) -> tuple[str, ...]:
    """Those of `gpus` that one of `codes` runs on; all where there is no code for GPUs at all."""
    return tuple(gpu for gpu in gpus if not codes or any(runs_on(code, gpu) for code in codes))


def misfit(ninja: str, gpus: Collection[str]) -> str:
    """Why a module with this build.ninja runs on none of `gpus`; "" if it runs on one of them."""
    if fitting(ninja, gpus):
        return ""
    made, wanted = ", ".join(declared(ninja)), " or ".join(map(_nvcc, gpus))
    return f"FlashInfer compiles it for {made} alone, whatever the target, and that code doesn't run on {wanted}"


def targets_of(ninja: str) -> tuple[str, ...]:
    """The targets, as kernels.yaml says them, that this build.ninja makes machine code for: ("10.0a",)."""
    parts = [_parts(code) for code in declared(ninja) if code.startswith("sm_")]
    return tuple(f"{major}.{minor}{suffix}" for _, major, minor, suffix in parts)


def gpu_of(code: str) -> str:
    """FlashInfer's name of what nvcc says: "sm_90a" → "sm90a"."""
    return code.replace("_", "")


def _nvcc(gpu: str) -> str:
    return gpu.replace("sm", "sm_")


def _parts(architecture: str) -> tuple[str, int, int, str]:
    found = _ONE.fullmatch(architecture)
    if found is None:
        raise ValueError(f"no GPU architecture: {architecture!r}")
    return found[1], int(found[2]), int(found[3]), found[4]
