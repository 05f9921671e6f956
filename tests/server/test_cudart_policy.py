"""`cudart: patch | check | ignore`, with real libcudarts and receipts that need what is missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.config.model import CudartPolicy
from fitasks.cuda.cudart import Runtime, describe
from fitasks.server.cudart_policy import apply, failures, foretold, restore
from tests.cuda.cudart_wheels import library_of, site_of

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from tests.workshop import Workshop

OLD, NEW = "12.4.127", "12.9.79"
SYMBOL = "cudaGetDriverEntryPointByVersion@libcudart.so.12"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    shutil.copytree(site_of(OLD), tmp_path / "venv")
    return tmp_path / "venv" / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"


@pytest.fixture
def page(workshop: Workshop) -> Kernel:
    """Compiled, and its receipt says that it needs what 12.4 hasn't."""
    kernel = workshop.kernel()
    workshop.build(kernel)
    receipt = receipts.read(kernel)
    assert receipt
    receipts.write(kernel, replace(receipt, needed=("libcudart.so.12",), undefined=(SYMBOL,)))
    return kernel


def world(workshop: Workshop, kernel: Kernel, library: Path, policy: CudartPolicy) -> tuple[Plan, Runtime]:
    plan = workshop.plan()
    server = replace(plan.server, prefix=library.parents[3], site_packages=(library.parents[3],))
    plan = replace(plan, server=server, config=replace(plan.config, cudart=policy), kernels=(kernel,))
    found = describe(library)
    return plan, Runtime(found, "loaded", (found,), describe(library_of(NEW)))


def test_the_audit_names_the_kernel_and_only_that(workshop: Workshop, page: Kernel, library: Path) -> None:
    assert failures(*world(workshop, page, library, "check")) == [
        f"page.so needs cudaGetDriverEntryPointByVersion, not in libcudart {OLD} at {library}"
    ]


def test_patch_mends_it_and_restore_undoes_it(workshop: Workshop, page: Kernel, library: Path) -> None:
    before = sha256_file(library)
    (said,) = apply(*world(workshop, page, library, "patch"))
    assert said.startswith(f"replaced {library} by ")
    assert failures(*world(workshop, page, library, "patch")) == []
    assert apply(*world(workshop, page, library, "patch")) == []
    assert restore(world(workshop, page, library, "patch")[1]) == f"restored {library}"
    assert sha256_file(library) == before


@pytest.mark.parametrize(
    ("policy", "then"),
    [("patch", "would replace"), ("check", "doit patch_cudart"), ("ignore", "")],
)
def test_a_look_changes_nothing(
    workshop: Workshop, page: Kernel, library: Path, policy: CudartPolicy, then: str
) -> None:
    before = sha256_file(library)
    failed, told = foretold(*world(workshop, page, library, policy))
    assert len(failed) == 1
    assert told.startswith(then)
    assert bool(told) == bool(then)
    assert sha256_file(library) == before


def test_check_fails_with_the_command(workshop: Workshop, page: Kernel, library: Path) -> None:
    before = sha256_file(library)
    with pytest.raises(KernelFailure) as caught:
        apply(*world(workshop, page, library, "check"))
    assert "page.so needs cudaGetDriverEntryPointByVersion" in caught.value.message
    assert caught.value.remedy.startswith("doit patch_cudart")
    assert sha256_file(library) == before


def test_ignore_says_nothing(workshop: Workshop, page: Kernel, library: Path) -> None:
    assert apply(*world(workshop, page, library, "ignore")) == []


def test_another_major_version_can_only_be_compiled_again(workshop: Workshop, page: Kernel, library: Path) -> None:
    receipt = receipts.read(page)
    assert receipt
    receipts.write(page, replace(receipt, needed=("libcudart.so.13",), undefined=("cudaFree@libcudart.so.13",)))
    with pytest.raises(KernelFailure, match="compile it again with a CUDA 12 toolkit"):
        apply(*world(workshop, page, library, "check"))
