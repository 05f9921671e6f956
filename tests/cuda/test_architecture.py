"""Which code runs on which GPU: CUDA's rules, and no other copy of them says otherwise."""

from __future__ import annotations

import pytest

from fitasks.cuda.architecture import declared, fitting, gpu_of, members, misfit, runs_on, single, together
from fitasks.delivery.wheel.payload import kernels as payload

GPUS = ("sm75", "sm80", "sm86", "sm89", "sm90", "sm90a", "sm100a", "sm100f", "sm103a", "sm120f", "sm121a")


def ninja(*codes: str) -> str:
    flags = (f"-gencode=arch=compute_{code.partition('_')[2]},code={code}" for code in codes)
    return f"cuda_cflags = {' '.join(flags)}\n"


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("binary", GPUS)
def test_the_package_of_kernels_follows_the_same_rules(binary: str, gpu: str) -> None:
    """It imports nothing of ours, so it has them once more; test_lookup compares it with FlashInfer's own."""
    assert runs_on(binary, gpu) == payload.runs_on(binary, gpu)


@pytest.mark.parametrize(
    ("code", "on"),
    [
        ("compute_80", "sm80 sm86 sm89 sm90 sm90a sm100a sm100f sm103a sm120f sm121a"),
        ("compute_90a", "sm90 sm90a"),
        ("compute_100f", "sm100a sm100f sm103a"),
        ("sm_120f", "sm120f sm121a"),
        ("sm_100a", "sm100a sm100f"),
    ],
)
def test_ptx_and_families(code: str, on: str) -> None:
    assert [gpu for gpu in GPUS if runs_on(code, gpu)] == on.split()


@pytest.mark.parametrize(
    ("codes", "gpus", "fit"),
    [
        (("sm_100a",), ("sm89",), ()),
        (("sm_90a",), ("sm120f",), ()),
        (("sm_90a",), ("sm80", "sm90a"), ("sm90a",)),
        (("sm_90a", "compute_80"), ("sm89",), ("sm89",)),
        (("sm_80",), ("sm89",), ("sm89",)),
        (("sm_90a", "compute_90a"), ("sm100a",), ()),
        (("native",), ("sm89",), ("sm89",)),
        ((), ("sm89",), ("sm89",)),
    ],
)
def test_what_a_module_is_for(codes: tuple[str, ...], gpus: tuple[str, ...], fit: tuple[str, ...]) -> None:
    assert fitting(ninja(*codes), gpus) == fit
    assert bool(misfit(ninja(*codes), gpus)) == (not fit)


def test_lists_in_one_option() -> None:
    assert declared("-gencode=arch=compute_90,code=[sm_90,compute_90] -gencode arch=compute_80,code=sm_80") == (
        "compute_90",
        "sm_80",
        "sm_90",
    )


def test_a_set_and_its_members() -> None:
    assert members("80_90a") == ("80", "90a")
    assert members("") == ()
    assert together(single("80_90a")) == "80_90a"
    assert gpu_of("sm_90a") == "sm90a"
